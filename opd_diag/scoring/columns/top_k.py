"""The likeliest tokens of both models: top K, ranks, and what is measured on such sets."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from opd_diag.tables.columns.tokens import truncated_grid

ADVANTAGE_TOP = 4
MAX_MARGIN = 50.0
_GROUP = 32


class TopTokens(NamedTuple):
    """The likeliest tokens of both models, and what both say of them. Shape (rows, k) each.

    Attributes:
        ids: The student's, likeliest first.
        teacher_ids: The teacher's.
        student: Student log-probs at `ids`.
        student_other: Student log-probs at `teacher_ids`.
        teacher: Teacher log-probs at `ids`.
        teacher_own: Teacher log-probs at `teacher_ids`.
    """

    ids: Tensor
    teacher_ids: Tensor
    student: Tensor
    student_other: Tensor
    teacher: Tensor
    teacher_own: Tensor


def top_columns(top: TopTokens, k_grid: Sequence[int], union_k: int) -> dict[str, Tensor]:
    """Return the columns of the token table that only the likeliest tokens decide.

    Args:
        top: The likeliest tokens.
        k_grid: The K of the columns with one value per K, rising.
        union_k: Size of the two top sets whose union `union_kl` looks at.
    """
    ids, teacher_ids, student, student_other, teacher, teacher_own = top
    few = truncated_grid(k_grid)
    return {
        "student_top_id": ids[:, 0],
        "teacher_top_id": teacher_ids[:, 0],
        "teacher_top_logp": teacher_own[:, 0],
        "margin": margins(teacher, k_grid),
        "teacher_mass": masses(teacher, k_grid),
        "student_mass": masses(student, few),
        "reverse_kl_top": partial_kl(student, teacher, few),
        "teacher_top_mass": masses(teacher_own, few),
        "student_mass_teacher_top": masses(student_other, few),
        "reverse_kl_teacher_top": partial_kl(student_other, teacher_own, few),
        "overlap": overlaps(teacher, teacher_own, k_grid),
        "union_kl": union_kl(
            torch.cat((student[:, :union_k], student_other[:, :union_k]), 1),
            torch.cat((teacher[:, :union_k], teacher_own[:, :union_k]), 1),
            ids[:, :union_k],
            teacher_ids[:, :union_k],
        ),
        "advantage_var": advantage_variance(student, teacher),
    }


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest logits of every row.

    The ids are dealt into groups; the k groups with the largest maxima hold the k largest
    logits, so that only these are sorted.

    Args:
        logits: Shape (rows, ids).
        k: At most the number of ids.

    Returns:
        Logits, falling, and their ids. Shape (rows, k) each.
    """
    n_groups = logits.shape[1] // _GROUP
    if n_groups < 2 * k:
        return torch.topk(logits, k)
    whole = n_groups * _GROUP
    maxima = logits[:, :whole].view(-1, _GROUP, n_groups).amax(1)
    groups = maxima.topk(k, sorted=False).indices
    members = torch.arange(0, whole, n_groups, device=logits.device)
    ids = (groups[:, :, None] + members).flatten(1)
    if whole < logits.shape[1]:
        rest = torch.arange(whole, logits.shape[1], device=logits.device)
        ids = torch.cat((ids, rest.expand(len(ids), -1)), 1)
    values, places = logits.gather(1, ids).topk(k)
    return values, ids.gather(1, places)


def rank(logits: Tensor, ids: Tensor, top: Tensor) -> Tensor:
    """Return 1 + the number of ids with a strictly larger logit.

    Args:
        logits: Shape (rows, ids).
        ids: The id that is ranked. Shape (rows, 1).
        top: The largest logits of every row, falling. Shape (rows, k).

    Returns:
        Shape (rows,), int64.
    """
    own = logits.gather(1, ids)
    ranks = 1 + (top > own).sum(1)
    # Only a token below the top k needs a count over the vocabulary.
    below = (own < top[:, -1:]).squeeze(1).nonzero().squeeze(1)
    # As floats, which add up without a copy to integers and exactly to 2**24 ids.
    ranks[below] = 1 + logits[below].gt_(own[below]).sum(1).long()
    return ranks


def margins(teacher: Tensor, k_grid: Sequence[int]) -> Tensor:
    """Return the gap between the teacher's best and second-best token among the top K.

    Args:
        teacher: Teacher log-probs of the student's top tokens, likeliest first. Shape (rows, k).
        k_grid: The K, rising.

    Returns:
        In nat, at most 50. Shape (rows, len(k_grid)).
    """
    best = [teacher[:, :k].topk(2).values for k in k_grid]
    gaps = torch.stack([pair[:, 0] - pair[:, 1] for pair in best], 1)
    return gaps.nan_to_num_(nan=0.0, posinf=MAX_MARGIN).clamp_(max=MAX_MARGIN)


def masses(logp: Tensor, k_grid: Sequence[int]) -> Tensor:
    """Return a model's probability of the top K.

    Args:
        logp: Its log-probs of the top tokens, likeliest first. Shape (rows, k).
        k_grid: The K, rising.

    Returns:
        Shape (rows, len(k_grid)), float64.
    """
    sums = logp.double().exp().cumsum(1)
    return torch.stack([sums[:, k - 1] for k in k_grid], 1).clamp_(max=1.0)


def partial_kl(student: Tensor, teacher: Tensor, k_grid: Sequence[int]) -> Tensor:
    """Return the part of the reverse KL that the first K of some tokens hold, not renormalised.

    Args:
        student: Student log-probs of the tokens. Shape (rows, k).
        teacher: Teacher log-probs of the same tokens.
        k_grid: The K, rising.

    Returns:
        In nat, of either sign; infinite where the teacher excludes a token that the student does
        not. Shape (rows, len(k_grid)), float64.
    """
    student = student.double()
    terms = student.exp() * (student - teacher.double())
    sums = terms.masked_fill_(torch.isneginf(student), 0.0).cumsum(1)
    return torch.stack([sums[:, k - 1] for k in k_grid], 1)


def overlaps(teacher: Tensor, teacher_top: Tensor, k_grid: Sequence[int]) -> Tensor:
    """Return the share of the student's top K that is in the teacher's top K.

    Args:
        teacher: Teacher log-probs of the student's top tokens, likeliest first. Shape (rows, k).
        teacher_top: The teacher's largest log-probs, falling. Shape (rows, k).
        k_grid: The K, rising.

    Returns:
        Shape (rows, len(k_grid)).
    """
    shares = [(teacher[:, :k] >= teacher_top[:, k - 1 : k]).sum(1) / k for k in k_grid]
    return torch.stack(shares, 1)


def union_kl(student: Tensor, teacher: Tensor, student_ids: Tensor, teacher_ids: Tensor) -> Tensor:
    """Return KL(teacher ‖ student) on the union of two sets of ids, renormalised there.

    Args:
        student: Student log-probs at `student_ids`, then at `teacher_ids`. Shape (rows, 2 k).
        teacher: Teacher log-probs at the same ids. Shape (rows, 2 k).
        student_ids: Shape (rows, k).
        teacher_ids: Shape (rows, k).

    Returns:
        In nat. Shape (rows,), float64.
    """
    twice = (teacher_ids[:, :, None] == student_ids[:, None, :]).any(2)
    absent = torch.cat((torch.zeros_like(twice), twice), 1)
    log_p = student.double().masked_fill(absent, -torch.inf).log_softmax(1)
    log_q = teacher.double().masked_fill(absent, -torch.inf).log_softmax(1)
    terms = log_q.exp() * (log_q - log_p)
    return terms.masked_fill(torch.isneginf(log_q), 0.0).sum(1).clamp_(min=0)


def advantage_variance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the variance of log q - log p under the student, renormalised on its top 4.

    Args:
        student: Student log-probs of its top tokens, likeliest first. Shape (rows, k).
        teacher: Teacher log-probs of the same tokens. Shape (rows, k).

    Returns:
        In nat squared. Shape (rows,), float64.
    """
    student, teacher = student[:, :ADVANTAGE_TOP].double(), teacher[:, :ADVANTAGE_TOP].double()
    weight = student.softmax(1)
    advantage = teacher - student
    mean = (weight * advantage).sum(1, keepdim=True)
    return (weight * (advantage - mean).square()).sum(1)
