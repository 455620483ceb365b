"""Columns of the token table from a teacher of whom some log-probs are known, not the logits.

p student, q teacher, S the ids whose log q is known at a row, P and Q both models' mass on S. The
student's distribution is whole. What S decides is exact; of the rest the reverse KL lies above the
KL of S and the remaining ids as one bucket, and below a sum in which these have the least
probability that the teacher can give them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from opd_diag.scoring.columns.buffers import Buffers
from opd_diag.scoring.columns.divergences import distribution
from opd_diag.scoring.columns.measures import Columns, Measures
from opd_diag.scoring.columns.rows import Rows, head_logits
from opd_diag.scoring.columns.top_k import (
    ADVANTAGE_TOP,
    TopTokens,
    masses,
    rank,
    top_columns,
    top_k,
)
from opd_diag.tables.columns.tokens import truncated_grid

# What a sum of a server's probabilities may be off by; bounds are wider by it.
_ROUNDING = 1e-5
NONE = -1  # an id or a rank that is not known


class Known(NamedTuple):
    """What is known of the teacher at some rows.

    Attributes:
        own: Log-prob of the token that stands there, NaN: not known. Shape (rows,).
        rank: Its rank, 0: not known. Shape (rows,).
        n_top: How many of the ids are the teacher's own likeliest. Shape (rows,).
        ids: Other ids, -1 for none. Shape (rows, width).
        logp: Their log-probs, NaN for none. Shape (rows, width).
    """

    own: Tensor
    rank: Tensor
    n_top: Tensor
    ids: Tensor
    logp: Tensor


def unpack(rows: Tensor) -> Known:
    """Take apart what `GivenLogprobs.rows` put together."""
    width = (rows.shape[1] - 3) // 2
    rank, n_top = rows[:, 1].long(), rows[:, 2].long()
    return Known(rows[:, 0], rank, n_top, rows[:, 3 : 3 + width].long(), rows[:, 3 + width :])


def bounds(
    p: Tensor, q: Tensor, entropy: Tensor, floor: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Bound both divergences from what is known on a set of ids.

    Args:
        p: Student log-probs on the set, -inf where there is no id. Shape (rows, k), float64.
        q: Teacher log-probs on the same ids.
        entropy: Entropy of the student. Shape (rows,).
        floor: The least log-prob that the teacher gives to any other id, or None.

    Returns:
        Lower and upper bound of reverse_kl, and lower bound of forward_kl, nat; the upper one is
        NaN without a floor. Shape (rows,) each.

    Source: data processing inequality (Cover and Thomas 2006, section 2.8).
    """
    there = torch.isfinite(p) & torch.isfinite(q)
    a = torch.where(there, p - q, 0.0)
    mass = torch.where(there, p.exp(), 0.0), torch.where(there, q.exp(), 0.0)
    part, back = (mass[0] * a).sum(1), -(mass[1] * a).sum(1)
    tails = [(1 - one.sum(1)).clamp(min=0) for one in mass]

    def bucket(one: Tensor, other: Tensor) -> Tensor:
        return one * (torch.log(one.clamp(min=_ROUNDING)) - torch.log(other + _ROUNDING))

    low = (part + bucket(tails[0], tails[1]) - _ROUNDING).clamp(min=0)
    forward = (back + bucket(tails[1], tails[0]) - _ROUNDING).clamp(min=0)
    if floor is None:
        return low, torch.full_like(low, torch.nan), forward
    rest = -entropy.double() - torch.where(there, mass[0] * p, 0.0).sum(1)
    high = part + rest - tails[0] * floor + _ROUNDING * (1 - floor)
    return low, torch.maximum(high, low), forward


def score_known(
    tokens: Tensor, known: Known, student: Rows, measures: Measures, floor: float | None
) -> Columns:
    """Score rows of a student against what is known of the teacher.

    Args:
        tokens: The id that stands at each row. Shape (rows,), int64.
        known: What is known.
        student: Rows of the student.
        measures: What is measured.
        floor: The least log-prob that the teacher gives to any id that is not told, or None.

    Returns:
        Columns as `score_rows` gives them, those that nothing is known of left out; NaN, and -1
        in ids and ranks, where nothing is known at a row.
    """
    buffers = Buffers()
    logits = head_logits(student, buffers, "student")
    if measures.temperature != 1.0:
        logits = logits / measures.temperature
    best, ids = top_k(logits, min(measures.top, logits.shape[1]))
    own_rank = rank(logits, tokens[:, None], best)
    dist = distribution(logits, best[:, :1], ids[:, :1], buffers, name="p")
    log_p = dist.log_p(tokens[:, None])[:, 0]
    given, q = _with_own(tokens, known, logits.shape[1])
    p = torch.where(given >= 0, dist.log_p(given.clamp(min=0)).double(), -torch.inf)
    teacher_logp = torch.where(given == tokens[:, None], q, -torch.inf).amax(1)
    teacher_logp = torch.where(torch.isneginf(teacher_logp), torch.nan, teacher_logp)
    columns: Columns = {
        "student_logp": log_p,
        "teacher_logp": teacher_logp,
        "student_rank": own_rank,
        "student_entropy": dist.entropy,
        "student_top_id": ids[:, 0],
        "student_log_sum": best[:, 0] - dist.log_top[:, 0],
        "finite": torch.isfinite(dist.entropy),
    }
    if not known.ids.shape[1]:
        few = truncated_grid(measures.k_grid)
        return columns | {"student_mass": masses(dist.log_p(ids), few)}
    low, high, forward = bounds(p, q, dist.entropy, floor)
    columns |= {"reverse_kl_low": low, "reverse_kl_high": high, "forward_kl_low": forward}
    columns |= _of_sets(tokens, ids, dist.log_p(ids).double(), given, p, q, known.n_top, measures)
    told = known.rank > 0
    columns["teacher_rank"] = torch.where(told, known.rank, columns["teacher_rank"])
    return columns


def _with_own(tokens: Tensor, known: Known, size: int) -> tuple[Tensor, Tensor]:
    """Put the token that stands there among the ids, where it is known and not there.

    Ids that no tokenizer decodes, from `size` on, are left out.
    """
    decodable = torch.isfinite(known.logp) & (known.ids < size)
    ids = torch.where(decodable, known.ids, NONE)
    q = torch.where(ids >= 0, known.logp, -torch.inf)
    there = (ids == tokens[:, None]).any(1)
    add = torch.isfinite(known.own) & ~there
    own = torch.where(add, tokens, NONE)[:, None]
    value = torch.where(add, known.own, -torch.inf)[:, None]
    return torch.cat((ids, own), 1), torch.cat((q, value), 1)


def _of_sets(
    tokens: Tensor,
    ids: Tensor,
    log_p: Tensor,
    given: Tensor,
    p: Tensor,
    q: Tensor,
    n_top: Tensor,
    measures: Measures,
) -> Columns:
    """Measure what the likeliest tokens decide, where enough of them are known."""
    same = ids[:, :, None] == given[:, None, :]
    at_top = torch.where(same, q[:, None, :], -torch.inf).amax(2)
    covered = same.any(2).cumprod(1).bool()  # the student's top K, all of them known
    # The teacher's own likeliest: an id that is not told has at most the mass that is left.
    size = min(ids.shape[1], q.shape[1])
    best, order = q.topk(size, 1)
    best_ids, best_p = given.gather(1, order), p.gather(1, order)
    left = 1 - q.exp().sum(1, keepdim=True) + _ROUNDING
    place = torch.arange(size, device=q.device)
    certain = (best.exp() > left) | (place < n_top[:, None])
    certain = (certain & (best_ids >= 0)).cumprod(1).bool()
    width = ids.shape[1]
    pad = (0, width - size)
    best_all = torch.nn.functional.pad(best, pad, value=-torch.inf)
    top = TopTokens(
        ids=ids,
        teacher_ids=torch.nn.functional.pad(best_ids, pad, value=NONE),
        student=log_p,
        student_other=torch.nn.functional.pad(best_p, pad, value=-torch.inf),
        teacher=at_top,
        teacher_own=best_all,
    )
    covered_by = torch.nn.functional.pad(certain, pad, value=False)
    columns = top_columns(top, measures.k_grid, min(measures.union_k, width))
    few, grid = truncated_grid(measures.k_grid), measures.k_grid
    union = min(measures.union_k, width) - 1
    needed = {
        "margin": _at(covered, grid),
        "teacher_mass": _at(covered, grid),
        "reverse_kl_top": _at(covered, few),
        "teacher_top_mass": _at(covered_by, few),
        "student_mass_teacher_top": _at(covered_by, few),
        "reverse_kl_teacher_top": _at(covered_by, few),
        "overlap": _at(covered_by, grid),
        "union_kl": covered[:, union] & covered_by[:, union],
        "advantage_var": covered[:, min(ADVANTAGE_TOP, width) - 1],
        "teacher_top_logp": certain[:, 0],
    }
    columns["overlap"] = _overlaps(ids, top.teacher_ids, grid)
    for name, there in needed.items():
        columns[name] = torch.where(there, columns[name].double(), torch.nan)
    own = torch.where(given == tokens[:, None], q, -torch.inf).amax(1, keepdim=True)
    above = 1 + (q > own).sum(1)
    sure = (own.exp() > left).squeeze(1) | (torch.isfinite(own[:, 0]) & (above <= n_top))
    columns["teacher_rank"] = torch.where(sure, above, NONE)
    columns["teacher_top_id"] = torch.where(certain[:, 0], best_ids[:, 0], NONE)
    return columns


def _overlaps(ids: Tensor, others: Tensor, grid: tuple[int, ...]) -> Tensor:
    shared = [(ids[:, :k, None] == others[:, None, :k]).any(2).sum(1) / k for k in grid]
    return torch.stack(shared, 1)


def _at(known: Tensor, ks: tuple[int, ...]) -> Tensor:
    return torch.stack([known[:, k - 1] for k in ks], 1)
