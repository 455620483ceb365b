"""Columns of the token table from logits, with one kernel over the vocabulary (needs triton)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from opd_diag.scoring.fused import pair_sums
from opd_diag.scoring.heads import Head
from opd_diag.scoring.rows import Columns, Measures
from opd_diag.scoring.tops import Tops, top_columns, top_k


def measure_fused(
    tokens: Tensor,
    teacher: Tensor,
    heads: Sequence[Head],
    students: Sequence[Tensor],
    measures: Measures,
) -> list[Columns]:
    """Measure logits of a teacher and of some students.

    Args:
        tokens: The id that stands at each row. Shape (rows, 1), int64.
        teacher: Its logits. Shape (rows, ids), float32.
        heads: Output head of each student.
        students: Logits of each, overwritten by the gradient of reverse_kl in them.
        measures: What is measured.

    Returns:
        For each student its columns, as `score_rows` gives them; `grad_head` lacks the length of
        the hidden state and the head's scale.
    """
    if measures.temperature != 1.0:
        for logits in (teacher, *students):
            logits.div_(measures.temperature)
    best = top_k(teacher, min(measures.top, teacher.shape[1]))
    return [
        _columns(tokens, teacher, best, head, own, measures)
        for head, own in zip(heads, students, strict=True)
    ]


def _columns(
    tokens: Tensor,
    teacher: Tensor,
    teacher_best: tuple[Tensor, Tensor],
    head: Head,
    student: Tensor,
    measures: Measures,
) -> Columns:
    best, ids = top_k(student, teacher_best[1].shape[1])
    own_best, teacher_ids = teacher_best
    others = teacher_ids[:, : measures.union_k]
    # The kernel overwrites the student's logits: what is read at single ids is read before.
    logits = student.gather(1, torch.cat((tokens, others), 1))
    teacher_logits = teacher.gather(1, torch.cat((tokens, ids), 1))
    sums = pair_sums(
        student,
        teacher,
        tokens[:, 0],
        (ids[:, 0], teacher_ids[:, 0]),
        temperature=measures.temperature,
        soft_cap=head.soft_cap,
    )
    # Less the largest logit first: what is left keeps its digits.
    top, own_top = best[:, :1], own_best[:, :1]
    log_p = (logits - top) + sums.log_top[:, None]
    log_q = (teacher_logits - own_top) + sums.teacher_log_top[:, None]
    tops = Tops(
        ids=ids,
        teacher_ids=teacher_ids,
        student=(best - top) + sums.log_top[:, None],
        student_other=log_p[:, 1:],
        teacher=log_q[:, 1:],
        teacher_own=(own_best - own_top) + sums.teacher_log_top[:, None],
    )
    return top_columns(tops, measures.k_grid, measures.union_k) | {
        "student_logp": log_p[:, 0],
        "teacher_logp": log_q[:, 0],
        "student_rank": sums.rank,
        "teacher_rank": sums.teacher_rank,
        "teacher_top_rank": sums.teacher_top_rank,
        "student_entropy": sums.entropy,
        "teacher_entropy": sums.teacher_entropy,
        "student_log_sum": top[:, 0] - sums.log_top,
        "teacher_log_sum": own_top[:, 0] - sums.teacher_log_top,
        "finite": torch.isfinite(sums.entropy + sums.teacher_entropy),
        "reverse_kl": sums.reverse_kl,
        "forward_kl": sums.forward_kl,
        "js": sums.js,
        "grad_logits": sums.norm,
        "grad_head": sums.inner_norm,
    }
