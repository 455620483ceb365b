"""The models of a scoring job: the teacher once, and as many students beside it as fit."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from opd_diag.errors import ModelError, RolloutError, faults
from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.models.forward import (
    LanguageModel,
    through_norm,
    verify_head,
)
from opd_diag.scoring.models.loading import Loading, context_of, load_model
from opd_diag.scoring.models.norm_and_head import load_norm_and_head, without_weights
from opd_diag.scoring.parts.batches import chunk_rows, total_memory
from opd_diag.scoring.sequences import Inputs, Sequences
from opd_diag.scoring.teachers.by_group import teacher_of_rollouts
from opd_diag.scoring.teachers.hidden_states import GivenStates, find_states, rows_of
from opd_diag.scoring.teachers.logprobs import GivenLogprobs, read_logprobs
from opd_diag.scoring.teachers.source import TeacherSource
from opd_diag.scoring.token_lists import Ragged
from opd_diag.tables.source import MEDIAN_ALIGNED
from opd_diag.text.vocabulary import check_ids

_SHARE_FOR_WEIGHTS = 0.6
_VERIFIED_TOKENS = 64
_CHECKED_ROLLOUTS = 4


class Job(NamedTuple):
    """What does not change from part to part.

    Attributes:
        sequences: What the models read, of all rollouts.
        measures: What is measured.
        ids: Number of decodable ids that all models share.
        chunk_rows: Rows that go through the output heads at a time.
        teacher: The teacher.
        students: Students by name.
        given: The teacher's hidden states, where its layers are not here.
        logprobs: Its log-probs, where nothing else of it is here.
        floor: The least log-prob that it gives to an id that they do not tell.
        others: Further teachers, each of some groups of rollouts.
        teacher_of: Which of the teachers, from 0, each rollout has. Shape (rollouts,). None where
            there is one.
    """

    sequences: Sequences
    measures: Measures
    ids: int
    chunk_rows: int
    teacher: LanguageModel
    students: Mapping[str, LanguageModel]
    given: GivenStates | None = None
    logprobs: GivenLogprobs | None = None
    floor: float | None = None

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher's part is read, and nothing of it runs here."""
        return self.given is not None or self.logprobs is not None

    others: tuple[LanguageModel, ...] = ()
    teacher_of: NDArray[np.int64] | None = None

    @property
    def models(self) -> list[LanguageModel]:
        """All models that are in memory."""
        return [self.teacher, *self.others, *self.students.values()]

    def by_teacher(
        self, rollouts: NDArray[np.integer]
    ) -> Iterator[tuple["Job", NDArray[np.int64]]]:
        """Give the job of each teacher that some rollouts have, and their places among them."""
        if self.teacher_of is None:
            yield self, np.arange(len(rollouts))
            return
        number = self.teacher_of[rollouts]
        for own in np.unique(number):
            teacher = (self.teacher, *self.others)[own]
            alone = self._replace(teacher=teacher, others=(), teacher_of=None)
            yield alone, np.flatnonzero(number == own)


class Models(NamedTuple):
    """The models that are to be loaded, and how.

    Attributes:
        teacher: Folder or hub id of the teacher.
        students: Folders or hub ids of the students by name.
        teacher_loading: How the teacher is loaded.
        student_loading: How the students are loaded.
        source: Where the teacher's part comes from.
        others: Folders or hub ids of the teachers after the first, by the group that each is for.
        group: The group that the first is for; "" where there is one for all.
    """

    teacher: str
    students: Mapping[str, str]
    teacher_loading: Loading
    student_loading: Loading
    source: TeacherSource = TeacherSource()
    others: Mapping[str, str] = MappingProxyType({})
    group: str = ""


def load_jobs(inputs: Inputs, measures: Measures, models: Models) -> Iterator[Job]:
    """Load the models and yield one job for each group of students that fits into memory.

    Every head is compared with its model's own logits before it is used. What a student gets does
    not depend on the others of its group: they all share the same ids with the teacher.

    Args:
        inputs: Rollouts and vocabulary.
        measures: What is measured.
        models: The models.

    Raises:
        ModelError: If a model cannot be loaded, or its head is of no known kind.
        RolloutError: If a model has no logit for an id of the rollouts, or a rollout is longer
            than its context.
    """
    ids = _first_tokens(inputs.sequences)
    given: GivenStates | None = None
    logprobs: GivenLogprobs | None = None
    if models.source.logprobs is not None:
        teacher = without_weights(models.teacher, models.teacher_loading)
        responses = inputs.sequences.responses
        logprobs = read_logprobs(models.source.logprobs, inputs.table, responses)
    elif models.source.states is None:
        teacher = load_model(models.teacher, models.teacher_loading)
        first = None
        if models.others:
            first = teacher_of_rollouts(inputs.table, (models.group, *models.others)) == 0
        _check_context(inputs, teacher, inputs.sequences.teacher_prompts, first)
        verify_head(teacher, ids)
    else:
        norm = models.source.norm
        teacher = load_norm_and_head(models.teacher, models.teacher_loading, norm=norm)
        given = _given_states(inputs, models.source.states, teacher)
        _check_norm(inputs, given, teacher, models)
    others = tuple(load_model(path, models.teacher_loading) for path in models.others.values())
    own = teacher_of_rollouts(inputs.table, (models.group, *models.others))
    for number, other in enumerate(others, start=1):
        _check_context(inputs, other, inputs.sequences.teacher_prompts, own == number)
        verify_head(other, ids)
    widths = [one.width for one in (teacher, *others)]
    check_ids(inputs.table, min(widths))
    device = str(teacher.head.weight.device)
    group: dict[str, LanguageModel] = {}
    n_ids = 0

    def job() -> Job:
        return Job(
            inputs.sequences,
            measures,
            n_ids,
            chunk_rows(n_ids, device),
            teacher,
            group,
            given,
            logprobs,
            models.source.floor,
            others,
            own if others else None,
        )

    for name, path in models.students.items():
        if group and not _room_for_another([teacher, *others], list(group.values())):
            yield job()
            group = {}
        student = load_model(path, models.student_loading)
        own_ids = min(inputs.shared[name], *widths, student.width)
        check_ids(inputs.table, own_ids)
        _check_context(inputs, student, inputs.sequences.prompts)
        verify_head(student, ids)
        if group and own_ids != n_ids:
            yield job()
            group = {}
        group[name], n_ids = student, own_ids
    yield job()


def _given_states(inputs: Inputs, folder: str, teacher: LanguageModel) -> GivenStates:
    _, prompts, responses = inputs.sequences
    given = find_states(folder, prompts, responses, inputs.table["rollout_id"].to_list())
    if given.width != teacher.hidden:
        raise ModelError(
            f"{folder}: hidden states of width {given.width}; expected {teacher.hidden}, that of "
            f"the head of {teacher.name}"
        )
    return given


def _check_norm(inputs: Inputs, given: GivenStates, teacher: LanguageModel, models: Models) -> None:
    """Compare the first states with the teacher's log-probs of the dump, where it holds some.

    Raises:
        ModelError: If they fit with the other choice of the final norm only.
    """
    stored = inputs.table["trainer_teacher_logp"]
    there = np.flatnonzero(
        stored.is_not_null().to_numpy() & (inputs.sequences.responses.lengths > 0)
    )
    first = there[:_CHECKED_ROLLOUTS].tolist()
    if not first:
        return
    _, prompts, responses = inputs.sequences
    states = rows_of(given, prompts, responses, first)
    tokens = torch.from_numpy(np.concatenate([responses[i] for i in first]).astype(np.int64))
    told = np.concatenate([stored[i].to_numpy()[: responses.lengths[i]] for i in first])

    def difference(model: LanguageModel) -> float:
        head = model.head.cut(0, min(inputs.shared.values()))
        logits = head.logits(through_norm(model, states))
        logp = logits.log_softmax(1).gather(1, tokens.to(logits.device)[:, None])[:, 0]
        return float(np.median(np.abs(logp.cpu().numpy() - told)))

    norm = models.source.norm
    own = difference(teacher)
    if own <= MEDIAN_ALIGNED:
        return
    other = difference(load_norm_and_head(models.teacher, models.teacher_loading, norm=not norm))
    if other <= MEDIAN_ALIGNED:
        said = "before" if not norm else "after"
        raise ModelError(
            f"{given.folder}: the dump's log-probs of the teacher fit these states as written "
            f"{said} its final norm only (median difference {other:.2g}, else {own:.2g} nat); "
            f"expected teacher_norm {not norm}"
        )


def _check_context(
    inputs: Inputs,
    model: LanguageModel,
    prompts: Ragged,
    which: NDArray[np.bool_] | None = None,
) -> None:
    """Check that every rollout that is scored, or of some, fits into the context of a model.

    Raises:
        RolloutError: If one does not, with its file and line.
    """
    context = context_of(model.model.config)
    responses = inputs.sequences.responses.lengths
    read = np.where(responses > 0, prompts.lengths + responses - 1, 0)
    read = read if which is None else np.where(which, read, 0)
    if context is None or read.max() <= context:
        return
    long = np.flatnonzero(read > context)
    places = inputs.table.select("source", "source_row")[long].iter_rows()
    too_long = [
        f"{source}:{row}: prompt of {prompts.lengths[i]:,} and response of {responses[i]:,} "
        f"tokens; expected at most {context:,} in all, the context of {model.name}"
        for i, (source, row) in zip(long, places, strict=True)
    ]
    raise RolloutError(faults("rollouts", too_long) if len(too_long) > 1 else too_long[0])


def _room_for_another(teachers: list[LanguageModel], students: list[LanguageModel]) -> bool:
    """Tell whether one more student, as large as the last one, would fit."""
    device = students[-1].model.device
    beside = [model for model in (*teachers, *students) if model.model.device == device]
    used = sum(int(model.model.get_memory_footprint()) for model in (*beside, students[-1]))
    return used <= _SHARE_FOR_WEIGHTS * total_memory(device)


def _first_tokens(read: Sequences) -> torch.Tensor:
    first = int((read.responses.lengths > 0).argmax())
    ids = [*read.prompts[first], *read.responses[first]][:_VERIFIED_TOKENS]
    return torch.tensor(ids, dtype=torch.int64)
