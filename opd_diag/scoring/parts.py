"""One part of a run: batches through the models, chunks of rows through the heads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from opd_diag.scoring.batches import Part, Sequences, plan_batches
from opd_diag.scoring.forward import response_states
from opd_diag.scoring.frames import token_frame
from opd_diag.scoring.gradients import TypeSums
from opd_diag.scoring.heads import Head
from opd_diag.scoring.models import LanguageModel
from opd_diag.scoring.rows import Columns, Measures, Rows, score_rows
from opd_diag.scoring.scratch import Scratch
from opd_diag.scoring.teacher_states import PartStates
from opd_diag.tables.gradients import GradientSums

Arrays = dict[str, NDArray[Any]]


class Job(NamedTuple):
    """What does not change from part to part.

    Attributes:
        sequences: What the models read, of all rollouts.
        measures: What is measured.
        ids: Number of decodable ids that all models share.
        chunk_rows: Rows that go through the output heads at a time.
        teacher: The teacher.
        students: Students by name.
    """

    sequences: Sequences
    measures: Measures
    ids: int
    chunk_rows: int
    teacher: LanguageModel
    students: Mapping[str, LanguageModel]


class ScoredPart(NamedTuple):
    """A part of one checkpoint.

    Attributes:
        frame: Its token table.
        sums: Sums of the hidden-state gradient.
        statistics: Counts that the manifest adds up.
    """

    frame: pl.DataFrame
    sums: GradientSums
    statistics: dict[str, Any]


def score_part(
    job: Job,
    part: Part,
    keys: pl.DataFrame,
    *,
    batch_tokens: int,
    advance: Callable[[int], None],
    teacher: PartStates | None = None,
) -> dict[str, ScoredPart]:
    """Score a part under every student of a job.

    Args:
        job: What is scored.
        part: The part.
        keys: Its key columns and `half`. One row per token.
        batch_tokens: Most tokens of a batch, padding counted.
        advance: Told the number of tokens after each batch.
        teacher: Hidden states of the teacher: known, or to be gathered.
    """
    teacher = teacher or PartStates()
    token_id, half = keys["token_id"].to_numpy(), keys["half"].to_numpy()
    in_loss = keys["in_loss"].to_numpy()
    sums = {
        name: TypeSums(token_id, half, in_loss, hidden=student.hidden, device=_device(student))
        for name, student in job.students.items()
    }
    arrays: dict[str, Arrays] = {name: {} for name in job.students}
    lengths = job.sequences.responses.lengths[part.start : part.stop]
    scored = np.flatnonzero(lengths)
    starts = np.cumsum(lengths) - lengths
    scratch = Scratch()
    batches = plan_batches(job.sequences.lengths[part.start : part.stop][scored], batch_tokens)
    for batch in batches:
        chosen = scored[batch]
        rows = np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in chosen])
        rollouts = part.start + chosen
        if teacher.known:
            expert = teacher.at(torch.from_numpy(rows), job.teacher.head.weight.device)
        else:
            expert = _teacher_states(job, rollouts)
            teacher.gather(torch.from_numpy(rows), expert, part.rows)
        places = torch.from_numpy(rows).to(expert.device)
        chunks: dict[str, list[Columns]] = {name: [] for name in job.students}
        for name, columns, chunk, gradient in _score_batch(
            job, rollouts, token_id[rows], expert, scratch
        ):
            sums[name].add(places[chunk], gradient)
            chunks[name].append(columns)
        for name, found in chunks.items():
            for column, values in _to_host(found).items():
                shape = (part.rows, *values.shape[1:])
                into = arrays[name].setdefault(column, np.empty(shape, values.dtype))
                into[rows] = values
        advance(len(rows))
    return {name: _finish(job, keys, arrays[name], sums[name]) for name in job.students}


def score_rollouts(job: Job, rollouts: NDArray[np.integer]) -> dict[str, Arrays]:
    """Score a few rollouts in one batch.

    Args:
        job: What is scored.
        rollouts: Which rollouts, none of them empty.

    Returns:
        Columns of every student, rows in the order of `rollouts`.
    """
    responses = job.sequences.responses
    tokens = np.concatenate([responses[i] for i in rollouts])
    found: dict[str, list[Columns]] = {name: [] for name in job.students}
    expert = _teacher_states(job, rollouts)
    for name, columns, _, _ in _score_batch(job, rollouts, tokens, expert, Scratch()):
        found[name].append(columns)
    return {name: _to_host(chunks) for name, chunks in found.items()}


def _teacher_states(job: Job, rollouts: NDArray[np.integer]) -> Tensor:
    _, prompts, responses = job.sequences
    return response_states(job.teacher, prompts, responses, [int(i) for i in rollouts])


def _score_batch(
    job: Job,
    rollouts: NDArray[np.integer],
    tokens: NDArray[np.int32],
    teacher_states: Tensor,
    scratch: Scratch,
) -> Iterator[tuple[str, Columns, slice, Tensor]]:
    """Yield (student, columns, rows of the batch, hidden-state gradient), chunk by chunk."""
    prompts, _, responses = job.sequences
    numbers = [int(rollout) for rollout in rollouts]
    states = {
        name: response_states(student, prompts, responses, numbers)
        for name, student in job.students.items()
    }
    heads = [student.head.cut(0, job.ids) for student in job.students.values()]
    teacher_head = job.teacher.head.cut(0, job.ids)
    targets = torch.from_numpy(tokens.astype(np.int64)).to(teacher_states.device)
    for start in range(0, len(tokens), job.chunk_rows):
        chunk = slice(start, min(start + job.chunk_rows, len(tokens)))
        students = [
            Rows(head, own[chunk]) for head, own in zip(heads, states.values(), strict=True)
        ]
        scored = score_rows(
            targets[chunk],
            Rows(teacher_head, teacher_states[chunk]),
            students,
            job.measures,
            scratch,
        )
        for (name, student), rows, result in zip(
            job.students.items(), students, scored, strict=True
        ):
            columns = result.columns
            for role, model, hidden in (
                ("student", student, rows.hidden),
                ("teacher", job.teacher, teacher_states[chunk]),
            ):
                outside = model.head.cut(job.ids, model.width)
                inside = columns.pop(f"{role}_log_sum")
                columns[f"{role}_outside"] = _outside(
                    outside, hidden, inside, job.measures.temperature
                )
            yield name, columns, chunk, result.gradient


def _to_host(chunks: Sequence[Columns]) -> Arrays:
    """Join the columns of a batch and copy them once: a device waits at every copy."""
    arrays = {}
    for name in chunks[0]:
        values = torch.cat([chunk[name] for chunk in chunks])
        single = values.float() if values.dtype == torch.float64 else values
        arrays[name] = single.cpu().numpy()
    return arrays


def _outside(outside: Head, hidden: Tensor, inside: Tensor, temperature: float) -> Tensor:
    """Return the probability that a model gives to ids that no tokenizer decodes."""
    if not len(outside.weight):
        return torch.zeros_like(inside)
    log_sum = torch.logsumexp(outside.logits(hidden) / temperature, 1)
    return torch.sigmoid(log_sum - inside)


def _device(model: LanguageModel) -> str:
    return str(model.head.weight.device)


def _finish(job: Job, keys: pl.DataFrame, columns: Arrays, sums: TypeSums) -> ScoredPart:
    outside = {role: columns.pop(f"{role}_outside") for role in ("student", "teacher")}
    finite = columns["finite"]
    frame = token_frame(keys, columns, job.measures.k_grid)
    without = len(finite) - int(finite.sum())
    nulls = {name: frame[name].null_count() - without for name in columns if name in frame.columns}
    statistics = {
        "rows": len(finite),
        "rows_not_finite": without,
        "values_not_finite": {name: count for name, count in nulls.items() if count},
        "mass_outside": {
            role: {"sum": float(mass[finite].sum(dtype=np.float64)), "max": _largest(mass[finite])}
            for role, mass in outside.items()
        },
    }
    return ScoredPart(frame, sums.sums(), statistics)


def _largest(mass: NDArray[Any]) -> float:
    return float(mass.max(initial=0.0))
