"""Loading the models of a job: the teacher once, and as many students beside it as fit."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from opd_diag.scoring.batches import Sequences, chunk_rows, total_memory
from opd_diag.scoring.inputs import Inputs
from opd_diag.scoring.models import LanguageModel, load_model, verify_head
from opd_diag.scoring.parts import Job
from opd_diag.scoring.rows import Measures
from opd_diag.text.vocabulary import check_ids

_SHARE_FOR_WEIGHTS = 0.6
_VERIFIED_TOKENS = 64


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
        RolloutError: If a model has no logit for an id of the rollouts.
    """
    ids = _first_tokens(inputs.sequences)
    expert = load_model(teacher, **loading.teacher)
    check_ids(inputs.table, expert.width)
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
        verify_head(student, ids)
        if group and own_ids != n_ids:
            yield job()
            group = {}
        group[name], n_ids = student, own_ids
    yield job()


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
