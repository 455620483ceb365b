"""Ask how many types to list: what a list covers on other prompts, and whether it is stable."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.analyses.rock_tokens.persistence import half_totals, whole_totals
from opd_diag.analyses.rock_tokens.selectors import SELECTORS, Mask, Totals
from opd_diag.analyses.rock_tokens.sums import Sums, per_prompt, total
from opd_diag.stats.bootstrap import Interval, ratio, ratio_of_ratios
from opd_diag.stats.ranks import Agreement, descending_ranks, top_agreement

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Lists: TypeAlias = Sequence[tuple[str, int]]  # selector and K

K_LIST = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)
SPLITS = 50
STABLE = 0.7
JUDGED_FROM = 10  # smaller lists are suggested only if stable, but never rule out a larger one
SPREAD = (0.05, 0.95)
TINY = np.finfo(np.float64).tiny


class Shares(NamedTuple):
    """What lists of types hold; every field has one entry per list.

    Attributes:
        positions: Share of the occurrences.
        coverage: Share of the loss.
        lift: Mean loss over that of all occurrences.
        gradient: Share of the summed grad_logits.
    """

    positions: Interval
    coverage: Interval
    lift: Interval
    gradient: Interval


def split_totals(sums: Sums, *, seed: int) -> tuple[Totals, Totals]:
    """Add up both sides of 50 random splits of the prompts. Fields of shape (splits, types)."""
    rng = np.random.default_rng(seed)
    prompts = len(sums.prompt_id)
    side = np.zeros((prompts, SPLITS))
    for column in side.T:
        column[rng.permutation(prompts)[: prompts // 2]] = 1
    matrices = (sums.n[0], sums.x[0], sums.square, sums.x[-1])
    one = [np.asarray(matrix.T @ side).T for matrix in matrices]
    return Totals(*one), Totals(*(total(a) - b for a, b in zip(matrices, one, strict=True)))


def rank_by(selector: str, t: Totals, eligible: Mask, min_count: int) -> Integers:
    """Rank types by one of `SELECTORS`, those that may not be chosen last."""
    return descending_ranks(np.where(eligible, SELECTORS[selector](t, min_count), -np.inf))


def agreement(
    selector: str,
    splits: tuple[Totals, Totals],
    ks: Sequence[int],
    eligible: Mask,
    min_count: int,
    *,
    seed: int,
) -> Agreement:
    """Compare the top-K lists of the two sides of every split. Fields of shape (splits, K).

    Equal scores, such as the 0 of types that a side lacks, are ordered at random on each side: the
    order of ids must not look like agreement.
    """
    rng = np.random.default_rng(seed)
    first, second = (
        _rank_ties_at_random(selector, side, eligible, min_count, rng) for side in splits
    )
    return top_agreement(first, second, ks, max(int(eligible.sum()), 1))


def _rank_ties_at_random(
    selector: str, t: Totals, eligible: Mask, min_count: int, rng: np.random.Generator
) -> Integers:
    scores = np.where(eligible, SELECTORS[selector](t, min_count), -np.inf)
    order = rng.permuted(np.broadcast_to(np.arange(eligible.size), scores.shape), axis=1)
    ranks = np.empty(scores.shape, np.int64)
    shuffled = np.take_along_axis(scores, order, axis=1)
    np.put_along_axis(ranks, order, descending_ranks(shuffled), axis=1)
    return ranks


def same_rows(sums: Sums, lists: Lists, eligible: Mask, min_count: int, *, seed: int) -> Shares:
    """Measure lists on the rows that chose them: an optimistic figure."""
    member = _members(whole_totals(sums), lists, eligible, min_count)
    listed = [np.asarray(a @ member) for a in _measured(sums)]
    everything = [per_prompt(a)[:, None] for a in _measured(sums)]
    return _shares(listed, everything, None, seed)


def other_half(sums: Sums, lists: Lists, eligible: Mask, min_count: int, *, seed: int) -> Shares:
    """Measure lists on the half of the prompts that did not choose them, both ways."""
    members = [_members(half_totals(sums, half), lists, eligible, min_count) for half in (0, 1)]
    second = (sums.half == 1)[:, None]
    listed, everything = [], []
    for matrix in _measured(sums):
        by_first, by_second = (np.asarray(matrix @ member) for member in members)
        each = per_prompt(matrix)
        # Divided by its half's total, a sum counts so that the ratio is the mean of both ways.
        whole = np.bincount(sums.half, each, 2)
        weight = np.where(whole > TINY, 1 / np.maximum(whole, TINY), 0)[sums.half][:, None]
        listed.append(weight * np.where(second, by_first, by_second))
        everything.append(weight * each[:, None])
    return _shares(listed, everything, sums.half, seed)


def _measured(sums: Sums) -> tuple[Any, Any, Any]:
    return sums.n[0], sums.x[0], sums.gradient


def _members(t: Totals, lists: Lists, eligible: Mask, min_count: int) -> Floats:
    """Tell which types stand in each list, of those that occur. Shape (types, lists)."""
    able = eligible & (t.n > 0)
    ranks = {name: rank_by(name, t, able, min_count) for name in dict(lists)}
    return np.column_stack([ranks[name] <= k for name, k in lists]).astype(np.float64)


def _shares(
    listed: Sequence[Floats],
    everything: Sequence[Floats],
    half: npt.NDArray[np.uint8] | None,
    seed: int,
) -> Shares:
    """Bootstrap shares and lift from occurrences, loss and gradient of each prompt."""
    (n, x, g), (all_n, all_x, all_g) = listed, everything
    return Shares(
        positions=ratio(n, all_n, seed=seed, strata=half),
        coverage=ratio(x, all_x, seed=seed, strata=half),
        lift=ratio_of_ratios(x, n, all_x, all_n, seed=seed, strata=half),
        gradient=ratio(g, all_g, seed=seed, strata=half),
    )


def suggested_k(ks: Sequence[int], corrected: Floats, types: int) -> int | None:
    """Suggest the largest K such that it and every smaller one from 10 on is stable.

    Args:
        ks: List sizes, rising. Only those of `K_LIST` up to half of the types are judged.
        corrected: Corrected Jaccard index of each split, shape (splits, number of K).
        types: Types that could be chosen.
    """
    judged = [i for i, k in enumerate(ks) if k in K_LIST and 2 * k <= types]
    stable = {ks[i]: bool(np.quantile(corrected[:, i], SPREAD[0]) >= STABLE) for i in judged}
    able = [
        k
        for k in stable
        if stable[k] and all(stable[smaller] for smaller in stable if JUDGED_FROM <= smaller <= k)
    ]
    return max(able, default=None)
