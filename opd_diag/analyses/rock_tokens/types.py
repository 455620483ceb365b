"""What stands beside R for every token type: intervals of shares, lift and rank, the funnel."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from opd_diag.analyses.rock_tokens.sums import Sums, per_prompt, total
from opd_diag.stats.bootstrap import Interval, ratio, ratio_of_ratios
from opd_diag.stats.ranks import rank_intervals

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

FEWEST_OCCURRENCES = 10
FEWEST_PROMPTS = 5
FUNNEL = (0.1, 0.9)


class TypeIntervals(NamedTuple):
    """Intervals of some types; every field is of shape (k,), as `items`.

    Attributes:
        items: Types.
        R: Summed loss.
        loss_share: Its share of all loss.
        grad_share: Share of the summed grad_logits.
        lift: Mean loss over that of all tokens.
        rank: Rank by R among the eligible types.
    """

    items: Integers
    R: Interval
    loss_share: Interval
    grad_share: Interval
    lift: Interval
    rank: Interval


def type_intervals(
    sums: Sums, items: Integers, eligible: npt.NDArray[np.bool_], *, signed: bool, seed: int
) -> TypeIntervals:
    """Bootstrap R, shares, lift and rank of some types over prompts.

    Args:
        sums: Sums per prompt and type.
        items: Types, each of them eligible.
        eligible: Types that are ranked.
        signed: Whether the loss can be negative: then nothing is put on the log scale.
        seed: Seed of the draws.
    """
    n, x, g = (columns(a, items) for a in (sums.n[0], sums.x[0], sums.gradient))
    each = per_prompt(sums.x[0])[:, None]
    prompts = len(sums.prompt_id)
    ones = np.ones((prompts, 1))
    # A sum over prompts is their number times the mean: drawing prompts does not change it.
    R = ratio(x, ones, seed=seed, log=not signed)
    place = np.cumsum(eligible) - 1
    present = np.asarray((n != 0).sum(axis=0)).ravel()
    return TypeIntervals(
        items=items,
        R=R._replace(low=R.low * prompts, high=R.high * prompts, estimate=R.estimate * prompts),
        loss_share=ratio(x, each, seed=seed, log=not signed),
        grad_share=ratio(g, per_prompt(sums.gradient)[:, None], seed=seed, log=True),
        lift=ratio_of_ratios(x, n, each, per_prompt(sums.n[0])[:, None], seed=seed),
        rank=rank_intervals(
            sums.x[0][:, np.flatnonzero(eligible)], place[items], present, seed=seed
        ),
    )


def funnel(sums: Sums, *, signed: bool) -> tuple[Floats, Floats]:
    """Give the 10-90 % range of the mean loss of as many tokens drawn from the whole run.

    Returns:
        Lower and upper end for each type, nat. A gamma law of the right mean and variance; a
        normal one where the loss can be negative. Shape (types,).
    """
    n = np.maximum(total(sums.n[0]), 1)
    everything = n.sum()
    mean = total(sums.x[0]).sum() / everything
    variance = max(total(sums.square).sum() / everything - mean**2, 1e-300)
    sizes, place = np.unique(n, return_inverse=True)
    if signed:
        ends = [stats.norm.ppf(q, mean, np.sqrt(variance / sizes)) for q in FUNNEL]
    elif mean <= 0:  # no loss at all
        ends = [np.zeros(sizes.size)] * 2
    else:
        shape = sizes * mean**2 / variance
        ends = [stats.gamma.ppf(q, shape, scale=mean / np.maximum(shape, 1e-300)) for q in FUNNEL]
    return ends[0][place], ends[1][place]


def trusted(n: Any) -> npt.NDArray[np.bool_]:
    """Tell which types occur often enough, and in enough prompts, to have an interval."""
    prompts = np.bincount(n.tocoo().col, minlength=n.shape[1])
    return np.asarray((total(n) >= FEWEST_OCCURRENCES) & (prompts >= FEWEST_PROMPTS))


def columns(matrix: Any, items: Integers) -> Any:
    """Take the columns of some types: dense, for they are the common ones, unless that is huge."""
    part = matrix[:, items]
    return part.toarray() if part.shape[0] * part.shape[1] <= 16_000_000 else part
