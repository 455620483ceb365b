"""Rows of hidden states of both models to the numeric columns of the token table."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from opd_diag.scoring.columns.buffers import Buffers
from opd_diag.scoring.columns.divergences import fill_holes
from opd_diag.scoring.columns.measures import (
    Columns,
    Measures,
    measure,
    measure_model,
    measure_pair,
)
from opd_diag.scoring.models.heads import Head


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


def score_rows(
    tokens: Tensor,
    teacher: Rows,
    students: Sequence[Rows],
    measures: Measures,
    buffers: Buffers | None = None,
) -> list[Scored]:
    """Score rows of hidden states.

    Args:
        tokens: The id that stands at each row. Shape (rows,), int64.
        teacher: Rows of the teacher.
        students: The same rows of each student.
        measures: What is measured.
        buffers: Memory to work in, so that chunk after chunk uses the same memory.

    Returns:
        One result for each student.
    """
    tokens, buffers = tokens[:, None], buffers or Buffers()
    teacher_logits = head_logits(teacher, buffers, "teacher")
    logits = [head_logits(student, buffers, f"student {n}") for n, student in enumerate(students)]
    heads = [student.head for student in students]
    if measures.fused:
        from opd_diag.scoring.columns.fused_kernel import measure_fused  # needs triton

        measured = measure_fused(tokens, teacher_logits, heads, logits, measures)
    else:
        measured = measure(tokens, teacher_logits, heads, logits, measures, buffers)
    scored = []
    for student, own, columns in zip(students, logits, measured, strict=True):
        _rescore_infinite(columns, own, tokens, teacher, student, measures)
        gradient = student.head.backward(own)
        columns["grad_hidden"] = torch.linalg.vector_norm(gradient, dim=1)
        length = torch.linalg.vector_norm(student.hidden, dim=1, dtype=torch.float32)
        columns["grad_head"] *= length * abs(student.head.scale)
        scored.append(Scored(columns, gradient))
    return scored


def head_logits(rows: Rows, buffers: Buffers, name: str) -> Tensor:
    """Compute the logits of one model, in a buffer of that name where its head can write there."""
    weight = rows.head.weight
    if weight.dtype != torch.float32:
        return rows.head.logits(rows.hidden)
    shape = (len(rows.hidden), len(weight))
    return rows.head.logits(rows.hidden, out=buffers.take(name, shape, weight))


def _rescore_infinite(
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
    buffers = Buffers()
    measured = measure_model(teacher_logits, [tokens[rows]], measures, buffers, "q")
    rescored = measure_pair(student.head, own, tokens[rows], measured, measures, buffers)
    for name in ("reverse_kl", "grad_logits", "grad_head"):
        rescored[name][holes.reverse] = torch.nan
    rescored["forward_kl"][holes.forward] = torch.nan
    own[holes.reverse] = torch.nan
    for name, values in rescored.items():
        columns[name][rows] = values
    logits[rows] = own
