"""One batch through both models, to foresee a whole job."""

import time
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from opd_diag.scoring.columns.rows import Rows, score_rows
from opd_diag.scoring.models.forward import LanguageModel, response_states
from opd_diag.scoring.parts.alignment import Alignment, Counts, count_differences, diagnose
from opd_diag.scoring.parts.jobs import Job
from opd_diag.scoring.parts.score_part import score_rollouts, states_of_teacher
from opd_diag.scoring.parts.teacher_audit import (
    TEACHER,
    compared_with,
    count_audit,
    diagnose_audit,
)
from opd_diag.tables.columns.tokens import truncated_grid

TEMPERATURES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0)
_TOKENS = 2_048
_ROLLOUTS = 16


class BatchResult(NamedTuple):
    """What one batch showed.

    Attributes:
        rows: Response tokens of the batch.
        seconds: How long both models and all columns took, at the second time.
        self_kl: Mean KL of the student in the batch from the student one rollout at a time, nat.
        reverse_kl: Mean KL(student ‖ teacher), nat; None where it is not known.
        alignment: The generator's log-probs against the student's.
        trainer_teacher: The trainer's log-probs of the teacher against the teacher's; None where
            the dump holds none of this batch.
    """

    rows: int
    seconds: float
    self_kl: float
    reverse_kl: float | None
    alignment: Alignment
    trainer_teacher: Alignment | None


def choose_batch(lengths: NDArray[np.int64], scored: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose rollouts of middling length, about 2,048 tokens in all, at least one.

    Args:
        lengths: Tokens that the models read. Shape (rollouts,).
        scored: Tokens that are scored; a rollout without any is not chosen.
    """
    order = np.argsort(lengths, kind="stable")
    order = order[scored[order] > 0]
    middle = len(order) // 2
    chosen = order[max(0, middle - _ROLLOUTS // 2) :][:_ROLLOUTS]
    fits = np.cumsum(lengths[chosen]) <= _TOKENS
    return chosen[: max(1, int(fits.sum()))]


@torch.inference_mode()
def score_one_batch(
    job: Job,
    batch: NDArray[np.int64],
    sampled: NDArray[np.float32],
    trainer: NDArray[np.float32],
) -> BatchResult:
    """Score one batch.

    Args:
        job: The models, with one student.
        batch: Its rollouts.
        sampled: The generator's log-probs of its tokens, NaN where there is none.
        trainer: The trainer's log-probs of the teacher, NaN where there is none.
    """
    (student,) = job.students.values()
    score_rollouts(job, batch)
    begin = time.perf_counter()
    (columns,) = score_rollouts(job, batch).values()
    seconds = time.perf_counter() - begin
    responses = job.sequences.responses
    number = np.repeat(np.arange(len(batch)), responses.lengths[batch])
    tokens = torch.from_numpy(np.concatenate([responses[i] for i in batch]).astype(np.int64))
    states = _states(job, student, [batch])
    temperature = job.measures.temperature
    tempered = {
        other: count_differences(sampled, logp, number)
        for other, logp in _tempered(job, student, states, tokens).items()
        if other != temperature
    }
    return BatchResult(
        rows=len(number),
        seconds=seconds,
        self_kl=_self_kl(job, student, tokens, states, batch),
        reverse_kl=float(np.nanmean(columns["reverse_kl"])) if "reverse_kl" in columns else None,
        alignment=diagnose(
            count_differences(sampled, columns["student_logp"], number), _nearest(tempered)
        ),
        trainer_teacher=_audit(job, batch, columns, tokens, number, trainer),
    )


def _audit(
    job: Job,
    batch: NDArray[np.int64],
    columns: dict[str, Any],
    tokens: torch.Tensor,
    number: NDArray[np.int64],
    trainer: NDArray[np.float32],
) -> Alignment | None:
    """Compare the trainer's log-probs of the teacher with ours, at other temperatures too."""
    if job.logprobs is not None:  # they are what the dump or its like holds
        return None
    k_grid = job.measures.k_grid
    names = ("teacher_logp", "student_logp", "teacher_top_mass", "teacher_mass")
    frame = pl.DataFrame({name: columns[name] for name in names})
    audit = count_audit(trainer, compared_with(frame, k_grid, truncated_grid(k_grid)), number)
    if audit is None:
        return None
    states = states_of_teacher(job, batch)
    tempered = {
        other: count_audit(trainer, {TEACHER: logp}, number)
        for other, logp in _tempered(job, job.teacher, states, tokens).items()
        if other != job.measures.temperature
    }
    bins = {other: one.bins[TEACHER] for other, one in tempered.items() if one is not None}
    return diagnose_audit(audit, bins)


def _nearest(tempered: dict[float, Counts]) -> dict[float, Counts]:
    """Put the temperature first whose differences are smallest: neighbours fit a little, too."""

    def middle(counts: Counts) -> int:
        return int(np.searchsorted(np.cumsum(counts[0]), counts[0].sum() / 2))

    return dict(sorted(tempered.items(), key=lambda item: middle(item[1])))


def _states(job: Job, model: LanguageModel, batches: list[NDArray[np.int64]]) -> torch.Tensor:
    prompts, responses = job.sequences.prompts, job.sequences.responses
    states = [
        response_states(model, prompts, responses, [int(i) for i in batch]) for batch in batches
    ]
    return torch.cat(states)


def _self_kl(
    job: Job,
    student: LanguageModel,
    tokens: torch.Tensor,
    states: torch.Tensor,
    batch: NDArray[np.int64],
) -> float:
    alone = _states(job, student, [np.array([i]) for i in batch])
    head = student.head.cut(0, job.ids)
    tokens = tokens.to(states.device)
    total = 0.0
    for start in range(0, len(tokens), job.chunk_rows):
        rows = slice(start, start + job.chunk_rows)
        (scored,) = score_rows(
            tokens[rows], Rows(head, alone[rows]), [Rows(head, states[rows])], job.measures
        )
        total += float(scored.columns["reverse_kl"].nan_to_num().sum())
    return total / len(tokens)


def _tempered(
    job: Job, student: LanguageModel, states: torch.Tensor, tokens: torch.Tensor
) -> dict[float, NDArray[np.float32]]:
    """Log-probs of the tokens at several temperatures."""
    head = student.head.cut(0, job.ids)
    tokens = tokens.to(states.device)[:, None]
    logps: dict[float, list[torch.Tensor]] = {temperature: [] for temperature in TEMPERATURES}
    for start in range(0, len(tokens), job.chunk_rows):
        rows = slice(start, start + job.chunk_rows)
        logits = head.logits(states[rows])
        for temperature, parts in logps.items():
            tempered = logits / temperature
            parts.append((tempered.gather(1, tokens[rows])[:, 0] - tempered.logsumexp(1)).cpu())
    return {temperature: torch.cat(parts).numpy() for temperature, parts in logps.items()}
