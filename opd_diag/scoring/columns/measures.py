"""Logits of both models to the numeric columns of the token table, in plain torch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from opd_diag.scoring.columns.buffers import Buffers
from opd_diag.scoring.columns.divergences import (
    Distribution,
    distribution,
    divergences,
    logit_gradient,
)
from opd_diag.scoring.columns.top_k import ADVANTAGE_TOP, TopTokens, rank, top_columns, top_k
from opd_diag.scoring.models.heads import Head

# Logits of one block and what is made of them stay in the processor's cache.
_BLOCK_BYTES = 3 << 20

Columns = dict[str, Tensor]


class Measures(NamedTuple):
    """What is measured at every row.

    Attributes:
        k_grid: The K of the columns with one value per K, rising.
        union_k: Size of the two top sets whose union `union_kl` looks at.
        temperature: Both models' logits are divided by it.
        fused: Whether one kernel sums over the vocabulary, not plain torch.
    """

    k_grid: tuple[int, ...]
    union_k: int = 16
    temperature: float = 1.0
    fused: bool = False

    @property
    def top(self) -> int:
        """How many of the likeliest tokens are looked at, at most."""
        return max(*self.k_grid, self.union_k, ADVANTAGE_TOP)


class ModelBlock(NamedTuple):
    """What is measured of one model on a block of rows.

    Attributes:
        log_sum: Log of the summed exponentials of its logits. Shape (rows,).
        top_ids: Its likeliest ids, likeliest first. Shape (rows, k).
        ranks: Ranks of the ids that were asked for.
        dist: Its distribution.
    """

    log_sum: Tensor
    top_ids: Tensor
    ranks: list[Tensor]
    dist: Distribution


def measure(
    tokens: Tensor,
    teacher: Tensor,
    heads: Sequence[Head],
    students: Sequence[Tensor],
    measures: Measures,
    buffers: Buffers,
) -> list[Columns]:
    """Measure logits of a teacher and of some students, block by block.

    Args:
        tokens: The id that stands at each row. Shape (rows, 1), int64.
        teacher: Its logits, overwritten. Shape (rows, ids), float32.
        heads: Output head of each student.
        students: Logits of each, overwritten by the gradient of reverse_kl in them.
        measures: What is measured.
        buffers: Memory to work in.

    Returns:
        For each student its columns, as `score_rows` gives them; `grad_head` lacks the length of
        the hidden state and the head's scale.
    """
    blocks: list[list[Columns]] = [[] for _ in students]
    for rows in _blocks(teacher):
        measured = measure_model(teacher[rows], [tokens[rows]], measures, buffers, "q")
        for head, own, scored in zip(heads, students, blocks, strict=True):
            scored.append(measure_pair(head, own[rows], tokens[rows], measured, measures, buffers))
    return [
        {name: torch.cat([block[name] for block in scored]) for name in scored[0]}
        for scored in blocks
    ]


def _blocks(logits: Tensor) -> list[slice]:
    size = max(1, len(logits))
    if logits.device.type == "cpu":
        size = max(1, _BLOCK_BYTES // (4 * logits.shape[1]))
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def measure_model(
    logits: Tensor, ranked: Sequence[Tensor], measures: Measures, buffers: Buffers, name: str
) -> ModelBlock:
    """Measure one model; its logits are overwritten by their shifted form."""
    if measures.temperature != 1.0:
        logits.div_(measures.temperature)
    top, top_ids = top_k(logits, min(measures.top, logits.shape[1]))
    ranks = [rank(logits, ids, top) for ids in ranked]
    dist = distribution(logits, top[:, :1], top_ids[:, :1], buffers, name=name)
    return ModelBlock(top[:, 0] - dist.log_top[:, 0], top_ids, ranks, dist)


def measure_pair(
    head: Head,
    logits: Tensor,
    tokens: Tensor,
    teacher: ModelBlock,
    measures: Measures,
    buffers: Buffers,
) -> Columns:
    """Score a block of rows; the student's logits are overwritten by the gradient in them.

    `grad_head` lacks the length of the hidden state and the head's scale.
    """
    slope = head.slope(logits)
    student = measure_model(logits, [tokens, teacher.top_ids[:, :1]], measures, buffers, "p")
    p, q = student.dist, teacher.dist
    ids, teacher_ids = student.top_ids, teacher.top_ids
    top = TopTokens(
        ids=ids,
        teacher_ids=teacher_ids,
        student=p.log_p(ids),
        student_other=p.log_p(teacher_ids),
        teacher=q.log_p(ids),
        teacher_own=q.log_p(teacher_ids),
    )
    columns = top_columns(top, measures.k_grid, measures.union_k) | {
        "student_logp": p.log_p(tokens)[:, 0],
        "teacher_logp": q.log_p(tokens)[:, 0],
        "student_rank": student.ranks[0],
        "teacher_rank": teacher.ranks[0],
        "teacher_top_rank": student.ranks[1],
        "student_entropy": p.entropy,
        "teacher_entropy": q.entropy,
        "student_log_sum": student.log_sum,
        "teacher_log_sum": teacher.log_sum,
        "finite": torch.isfinite(p.entropy + q.entropy),
    }
    divergence = divergences(p, q, buffers)
    gradient = logit_gradient(p.p, divergence, slope, measures.temperature)
    return columns | {
        "reverse_kl": divergence.reverse_kl,
        "forward_kl": divergence.forward_kl,
        "js": divergence.js,
        "grad_logits": gradient.norm,
        "grad_head": gradient.inner_norm,
    }
