"""Loading the models of a job: the teacher once, and as many students beside it as fit."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from opd_diag.errors import RolloutError, faults
from opd_diag.scoring.batches import Ragged, Sequences, chunk_rows, total_memory
from opd_diag.scoring.inputs import Inputs
from opd_diag.scoring.models import LanguageModel, load_model, verify_head
from opd_diag.scoring.parts import Job
from opd_diag.scoring.rows import Measures
from opd_diag.text.vocabulary import check_ids

_SHARE_FOR_WEIGHTS = 0.6
_VERIFIED_TOKENS = 64
# With these, a config's positions are those before they are stretched.
_STRETCHED = ("linear", "dynamic", "yarn")


class Loading(NamedTuple):
    """How models are loaded.

    Attributes:
        teacher: Options of `load_model` for the teacher.
        student: Options of `load_model` for the students.
    """

    teacher: dict[str, Any]
    student: dict[str, Any]


def load_jobs(
    inputs: Inputs,
    measures: Measures,
    teacher: str,
    students: Mapping[str, str],
    loading: Loading,
) -> Iterator[Job]:
    """Load the models and yield one job for each group of students that fits into memory.

    Every head is compared with its model's own logits before it is used. What a student gets does
    not depend on the others of its group: they all share the same ids with the teacher.

    Args:
        inputs: Rollouts and vocabulary.
        measures: What is measured.
        teacher: Folder or hub id.
        students: Folders or hub ids by name.
        loading: How they are loaded.

    Raises:
        ModelError: If a model cannot be loaded, or its head is of no known kind.
        RolloutError: If a model has no logit for an id of the rollouts, or a rollout is longer
            than its context.
    """
    ids = _first_tokens(inputs.sequences)
    expert = load_model(teacher, **loading.teacher)
    check_ids(inputs.table, expert.width)
    _check_context(inputs, expert, inputs.sequences.teacher_prompts)
    verify_head(expert, ids)
    device = str(expert.head.weight.device)
    group: dict[str, LanguageModel] = {}
    n_ids = 0

    def job() -> Job:
        return Job(inputs.sequences, measures, n_ids, chunk_rows(n_ids, device), expert, group)

    for name, path in students.items():
        if group and not _room_for_another(expert, list(group.values())):
            yield job()
            group = {}
        student = load_model(path, **loading.student)
        own_ids = min(inputs.shared[name], expert.width, student.width)
        check_ids(inputs.table, own_ids)
        _check_context(inputs, student, inputs.sequences.prompts)
        verify_head(student, ids)
        if group and own_ids != n_ids:
            yield job()
            group = {}
        group[name], n_ids = student, own_ids
    yield job()


def context_of(model: LanguageModel) -> int | None:
    """Return the number of positions that a model was made for, or None if it does not say."""
    config = model.model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) in _STRETCHED and rope.get("factor"):
        before = rope.get("original_max_position_embeddings") or positions
        positions = max(positions, int(rope["factor"] * before))
    return positions


def _check_context(inputs: Inputs, model: LanguageModel, prompts: Ragged) -> None:
    """Check that every rollout that is scored fits into the context of a model.

    Raises:
        RolloutError: If one does not, with its file and line.
    """
    context = context_of(model)
    responses = inputs.sequences.responses.lengths
    read = np.where(responses > 0, prompts.lengths + responses - 1, 0)
    if context is None or read.max() <= context:
        return
    long = np.flatnonzero(read > context)
    places = inputs.table.select("source", "source_row")[long].iter_rows()
    found = [
        f"{source}:{row}: prompt of {prompts.lengths[i]:,} and response of {responses[i]:,} "
        f"tokens; expected at most {context:,} in all, the context of {model.name}"
        for i, (source, row) in zip(long, places, strict=True)
    ]
    raise RolloutError(faults("rollouts", found) if len(found) > 1 else found[0])


def _room_for_another(teacher: LanguageModel, students: list[LanguageModel]) -> bool:
    """Tell whether one more student, as large as the last one, would fit."""
    device = students[-1].model.device
    beside = [model for model in (teacher, *students) if model.model.device == device]
    used = sum(int(model.model.get_memory_footprint()) for model in (*beside, students[-1]))
    return used <= _SHARE_FOR_WEIGHTS * total_memory(device)


def _first_tokens(read: Sequences) -> torch.Tensor:
    first = int((read.responses.lengths > 0).argmax())
    ids = [*read.prompts[first], *read.responses[first]][:_VERIFIED_TOKENS]
    return torch.tensor(ids, dtype=torch.int64)
