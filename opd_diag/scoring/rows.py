"""Rows of hidden states of both models to the numeric columns of the token table."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from opd_diag.scoring.divergences import Distribution, distribution, divergences, fill_holes
from opd_diag.scoring.gradients import logit_gradient
from opd_diag.scoring.heads import Head
from opd_diag.scoring.scratch import Scratch
from opd_diag.scoring.tops import ADVANTAGE_TOP, Tops, rank, top_columns, top_k

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


class Rows(NamedTuple):
    """Rows of one model.

    Attributes:
        head: Its output head, cut to the ids that both models share.
        hidden: Final hidden states. Shape (rows, hidden).
    """

    head: Head
    hidden: Tensor


class Scored(NamedTuple):
    """Rows of one student, scored.

    Attributes:
        columns: Numeric columns of the token table by name, shape (rows,) or (rows, K grid);
            `student_log_sum` and `teacher_log_sum`, the log of the summed exponentials of the
            logits; and `finite`: whether both models' logits were. What is not finite has no value.
        gradient: Gradient of reverse_kl in the hidden state. Shape (rows, hidden).
    """

    columns: Columns
    gradient: Tensor


class _Side(NamedTuple):
    """One model on a block of rows.

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


def score_rows(
    tokens: Tensor,
    teacher: Rows,
    students: Sequence[Rows],
    measures: Measures,
    scratch: Scratch | None = None,
) -> list[Scored]:
    """Score rows of hidden states.

    Args:
        tokens: The id that stands at each row. Shape (rows,), int64.
        teacher: Rows of the teacher.
        students: The same rows of each student.
        measures: What is measured.
        scratch: Buffers, so that chunk after chunk uses the same memory.

    Returns:
        One result for each student.
    """
    tokens, scratch = tokens[:, None], scratch or Scratch()
    teacher_logits = head_logits(teacher, scratch, "teacher")
    logits = [head_logits(student, scratch, f"student {n}") for n, student in enumerate(students)]
    heads = [student.head for student in students]
    if measures.fused:
        from opd_diag.scoring.fused_rows import measure_fused  # needs triton

        measured = measure_fused(tokens, teacher_logits, heads, logits, measures)
    else:
        measured = _measure(tokens, teacher_logits, heads, logits, measures, scratch)
    scored = []
    for student, own, columns in zip(students, logits, measured, strict=True):
        _mend(columns, own, tokens, teacher, student, measures)
        gradient = student.head.backward(own)
        columns["grad_hidden"] = torch.linalg.vector_norm(gradient, dim=1)
        length = torch.linalg.vector_norm(student.hidden, dim=1, dtype=torch.float32)
        columns["grad_head"] *= length * abs(student.head.scale)
        scored.append(Scored(columns, gradient))
    return scored


def head_logits(rows: Rows, scratch: Scratch, name: str) -> Tensor:
    """Compute the logits of one model, in a buffer of that name where its head can write there."""
    weight = rows.head.weight
    if weight.dtype != torch.float32:
        return rows.head.logits(rows.hidden)
    shape = (len(rows.hidden), len(weight))
    return rows.head.logits(rows.hidden, out=scratch.take(name, shape, weight))


def _measure(
    tokens: Tensor,
    teacher: Tensor,
    heads: Sequence[Head],
    students: Sequence[Tensor],
    measures: Measures,
    scratch: Scratch,
) -> list[Columns]:
    """Measure logits block by block; the students' are overwritten by the gradient in them."""
    blocks: list[list[Columns]] = [[] for _ in students]
    for rows in _blocks(teacher):
        side = _side(teacher[rows], [tokens[rows]], measures, scratch, "q")
        for head, own, found in zip(heads, students, blocks, strict=True):
            found.append(_block(head, own[rows], tokens[rows], side, measures, scratch))
    return [
        {name: torch.cat([block[name] for block in found]) for name in found[0]} for found in blocks
    ]


def _blocks(logits: Tensor) -> list[slice]:
    size = max(1, len(logits))
    if logits.device.type == "cpu":
        size = max(1, _BLOCK_BYTES // (4 * logits.shape[1]))
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def _side(
    logits: Tensor, ranked: Sequence[Tensor], measures: Measures, scratch: Scratch, name: str
) -> _Side:
    """Measure one model; its logits are overwritten by their shifted form."""
    if measures.temperature != 1.0:
        logits.div_(measures.temperature)
    top, top_ids = top_k(logits, min(measures.top, logits.shape[1]))
    ranks = [rank(logits, ids, top) for ids in ranked]
    dist = distribution(logits, top[:, :1], top_ids[:, :1], scratch, name=name)
    return _Side(top[:, 0] - dist.log_top[:, 0], top_ids, ranks, dist)


def _block(
    head: Head,
    logits: Tensor,
    tokens: Tensor,
    teacher: _Side,
    measures: Measures,
    scratch: Scratch,
) -> Columns:
    """Score a block of rows; the student's logits are overwritten by the gradient in them.

    `grad_head` lacks the length of the hidden state and the head's scale.
    """
    slope = head.slope(logits)
    student = _side(logits, [tokens, teacher.top_ids[:, :1]], measures, scratch, "p")
    p, q = student.dist, teacher.dist
    ids, teacher_ids = student.top_ids, teacher.top_ids
    tops = Tops(
        ids=ids,
        teacher_ids=teacher_ids,
        student=p.log_p(ids),
        student_other=p.log_p(teacher_ids[:, : measures.union_k]),
        teacher=q.log_p(ids),
        teacher_own=q.log_p(teacher_ids),
    )
    columns = top_columns(tops, measures.k_grid, measures.union_k) | {
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
    divergence = divergences(p, q, scratch)
    gradient = logit_gradient(p.p, divergence, slope, measures.temperature)
    return columns | {
        "reverse_kl": divergence.reverse_kl,
        "forward_kl": divergence.forward_kl,
        "js": divergence.js,
        "grad_logits": gradient.norm,
        "grad_head": gradient.inner_norm,
    }


def _mend(
    columns: Columns,
    logits: Tensor,
    tokens: Tensor,
    teacher: Rows,
    student: Rows,
    measures: Measures,
) -> None:
    """Score rows with logits of -inf again, in place. Rows with NaN or +inf stay as they are."""
    rows = (~columns["finite"]).nonzero().squeeze(1)
    if not len(rows):
        return
    teacher_logits = teacher.head.logits(teacher.hidden[rows])
    own = student.head.logits(student.hidden[rows])
    holes = fill_holes(own, teacher_logits)
    scratch = Scratch()
    side = _side(teacher_logits, [tokens[rows]], measures, scratch, "q")
    mended = _block(student.head, own, tokens[rows], side, measures, scratch)
    for name in ("reverse_kl", "grad_logits", "grad_head"):
        mended[name][holes.reverse] = torch.nan
    mended["forward_kl"][holes.forward] = torch.nan
    own[holes.reverse] = torch.nan
    for name, values in mended.items():
        columns[name][rows] = values
    logits[rows] = own
