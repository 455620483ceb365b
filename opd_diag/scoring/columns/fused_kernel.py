"""All sums over the vocabulary in one kernel, which reads both models' logits three times.

The formulas are those of `divergences` and `gradients`, the numbers the same but for rounding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from opd_diag.scoring.columns.measures import Columns, Measures
from opd_diag.scoring.columns.top_k import TopTokens, top_columns, top_k
from opd_diag.scoring.models.heads import Head

_SUMS = 9
_RANKS = 3


class Tile(NamedTuple):
    """How a row is taken through the kernel.

    Attributes:
        ids: Logits at a time, a power of two.
        warps: Groups of 32 threads that share them.
    """

    ids: int = 2048
    warps: int = 8


TILE = Tile()


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
    # The kernel overwrites the student's logits: what is read at single ids is read before.
    logits = student.gather(1, torch.cat((tokens, teacher_ids), 1))
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
    top_tokens = TopTokens(
        ids=ids,
        teacher_ids=teacher_ids,
        student=(best - top) + sums.log_top[:, None],
        student_other=log_p[:, 1:],
        teacher=log_q[:, 1:],
        teacher_own=(own_best - own_top) + sums.teacher_log_top[:, None],
    )
    return top_columns(top_tokens, measures.k_grid, measures.union_k) | {
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


class PairSums(NamedTuple):
    """What two models' logits sum to at every row. Shape (rows,) each, float32 but for the ranks.

    Attributes:
        log_top: Student's log-prob of its likeliest token.
        teacher_log_top: Teacher's log-prob of its own likeliest token.
        entropy: Student's entropy.
        teacher_entropy: Teacher's entropy.
        reverse_kl: KL(student ‖ teacher).
        forward_kl: KL(teacher ‖ student).
        js: Jensen-Shannon divergence, weights 1/2.
        norm: L2 norm of the gradient of reverse_kl in the student's logits.
        inner_norm: The same before the soft cap.
        rank: Student's rank of the token, int64.
        teacher_rank: Teacher's rank of the token.
        teacher_top_rank: Student's rank of the teacher's likeliest token.
    """

    log_top: Tensor
    teacher_log_top: Tensor
    entropy: Tensor
    teacher_entropy: Tensor
    reverse_kl: Tensor
    forward_kl: Tensor
    js: Tensor
    norm: Tensor
    inner_norm: Tensor
    rank: Tensor
    teacher_rank: Tensor
    teacher_top_rank: Tensor


def pair_sums(
    student: Tensor,
    teacher: Tensor,
    tokens: Tensor,
    top_ids: tuple[Tensor, Tensor],
    *,
    temperature: float,
    soft_cap: float | None,
    tile: Tile = TILE,
) -> PairSums:
    """Sum over the vocabulary, and turn the student's logits into the gradient of reverse_kl.

    Args:
        student: Logits over the temperature, overwritten by the gradient in the logits before
            temperature and soft cap. Shape (rows, ids), float32, rows contiguous.
        teacher: Logits over the temperature. Same shape.
        tokens: The id that stands at each row. Shape (rows,), int64.
        top_ids: Likeliest id under the student, and under the teacher. Shape (rows,) each.
        temperature: What both models' logits were divided by.
        soft_cap: The bound of the student's logits, or None.
        tile: How a row is taken through; the last digits of the sums depend on it.
    """
    rows, ids = student.shape
    sums = student.new_empty(_SUMS, rows)
    ranks = tokens.new_empty(_RANKS, rows)
    with torch.cuda.device_of(student):  # a kernel starts on the current device
        _kernel[(rows,)](
            student,
            teacher,
            tokens,
            *(one.contiguous() for one in top_ids),
            sums,
            ranks,
            rows,
            ids,
            student.stride(0),
            teacher.stride(0),
            1 / temperature,
            0.0 if soft_cap is None else temperature / soft_cap,
            BLOCK=tile.ids,
            num_warps=tile.warps,
        )
    return PairSums(*sums, *ranks)


@triton.jit
def _log1p(x):
    """Return log(1 + x) for x from -1/2 on, to the last digits of float32 also where x is small."""
    s = x / (2 + x)
    t = s * s
    tail = 1 / 7 + t * (1 / 9 + t * (1 / 11 + t * (1 / 13 + t * (1 / 15))))
    series = 2 * s * (1 + t * (1 / 3 + t * (1 / 5 + t * tail)))
    return tl.where(x < 1, series, tl.log(1 + tl.maximum(x, 1.0)))


@triton.jit
def _expm1(x):
    """Return exp(x) - 1 for x up to 0."""
    tail = 1 + x / 6 * (1 + x / 7 * (1 + x / 8 * (1 + x / 9)))
    series = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * tail))))
    return tl.where(x > -0.5, series, tl.exp(x) - 1)


@triton.jit
def _kernel(
    student,
    teacher,
    tokens,
    student_tops,
    teacher_tops,
    sums,
    ranks,
    rows,
    ids,
    student_stride,
    teacher_stride,
    inverse_temperature,
    cap_factor,
    BLOCK: tl.constexpr,
):
    """Score one row: p student, q teacher, a = log p - log q, as in `divergences`."""
    row = tl.program_id(0).to(tl.int64)
    student += row * student_stride
    teacher += row * teacher_stride
    token = tl.load(tokens + row)
    p_id, q_id = tl.load(student_tops + row), tl.load(teacher_tops + row)
    p_best, q_best = tl.load(student + p_id), tl.load(teacher + q_id)
    p_token, q_token = tl.load(student + token), tl.load(teacher + token)
    p_other = tl.load(student + q_id)
    lane = tl.arange(0, BLOCK)

    # The mass outside the top token, summed without it, keeps its digits where the top is near 1.
    p_rest = tl.zeros([BLOCK], tl.float32)
    q_rest = tl.zeros([BLOCK], tl.float32)
    rank = tl.zeros([BLOCK], tl.int32)
    q_rank = tl.zeros([BLOCK], tl.int32)
    other_rank = tl.zeros([BLOCK], tl.int32)
    for start in range(0, ids, BLOCK):
        at = start + lane
        x = tl.load(student + at, mask=at < ids, other=-float("inf"))
        y = tl.load(teacher + at, mask=at < ids, other=-float("inf"))
        p_rest += tl.where(at == p_id, 0.0, tl.exp(x - p_best))
        q_rest += tl.where(at == q_id, 0.0, tl.exp(y - q_best))
        rank += (x > p_token).to(tl.int32)
        q_rank += (y > q_token).to(tl.int32)
        other_rank += (x > p_other).to(tl.int32)
    p_sum, q_sum = tl.sum(p_rest), tl.sum(q_rest)
    p_log_top, q_log_top = -_log1p(p_sum), -_log1p(q_sum)
    p_top, q_top = 1 / (1 + p_sum), 1 / (1 + q_sum)

    entropy = tl.zeros([BLOCK], tl.float32)
    q_entropy = tl.zeros([BLOCK], tl.float32)
    reverse = tl.zeros([BLOCK], tl.float32)
    forward = tl.zeros([BLOCK], tl.float32)
    js = tl.zeros([BLOCK], tl.float32)
    for start in range(0, ids, BLOCK):
        at = start + lane
        here = at < ids
        x = tl.load(student + at, mask=here, other=0.0) - p_best
        y = tl.load(teacher + at, mask=here, other=0.0) - q_best
        p = tl.where(here, tl.exp(x) * p_top, 0.0)
        q = tl.where(here, tl.exp(y) * q_top, 0.0)
        a = x - y + (p_log_top - q_log_top)
        distance = tl.abs(a)
        e = _expm1(-distance)
        # p - q without cancellation
        difference = tl.where(a < 0, 1.0, -1.0) * tl.maximum(p, q) * e
        entropy += p * x
        q_entropy += q * y
        reverse += p * a - difference
        forward += difference - q * a
        js += tl.minimum(p, q) * distance + (p + q) * _log1p(e / 2)
    reverse_kl = tl.maximum(tl.sum(reverse), 0.0, propagate_nan=tl.PropagateNan.ALL)
    forward_kl = tl.maximum(tl.sum(forward), 0.0, propagate_nan=tl.PropagateNan.ALL)
    js_sum = tl.maximum(-0.5 * tl.sum(js), 0.0, propagate_nan=tl.PropagateNan.ALL)

    square = tl.zeros([BLOCK], tl.float32)
    inner_square = tl.zeros([BLOCK], tl.float32)
    for start in range(0, ids, BLOCK):
        at = start + lane
        here = at < ids
        z = tl.load(student + at, mask=here, other=0.0)
        y = tl.load(teacher + at, mask=here, other=0.0) - q_best
        x = z - p_best
        p = tl.where(here, tl.exp(x) * p_top, 0.0)
        a = x - y + (p_log_top - q_log_top)
        g = p * (a - reverse_kl) * inverse_temperature
        capped = z * cap_factor
        inner = g * (1 - capped * capped)
        square += g * g
        inner_square += inner * inner
        tl.store(student + at, inner, mask=here)

    sums += row
    tl.store(sums, p_log_top)
    tl.store(sums + rows, q_log_top)
    tl.store(sums + 2 * rows, -tl.sum(entropy) - p_log_top)
    tl.store(sums + 3 * rows, -tl.sum(q_entropy) - q_log_top)
    tl.store(sums + 4 * rows, reverse_kl)
    tl.store(sums + 5 * rows, forward_kl)
    tl.store(sums + 6 * rows, js_sum)
    tl.store(sums + 7 * rows, tl.sqrt(tl.sum(square)))
    tl.store(sums + 8 * rows, tl.sqrt(tl.sum(inner_square)))
    ranks += row
    tl.store(ranks, 1 + tl.sum(rank).to(tl.int64))
    tl.store(ranks + rows, 1 + tl.sum(q_rank).to(tl.int64))
    tl.store(ranks + 2 * rows, 1 + tl.sum(other_rank).to(tl.int64))
