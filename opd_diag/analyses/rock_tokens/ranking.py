"""Score and rank token types, and give every rock a control that is as frequent."""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from opd_diag.analyses.rock_tokens.occurrences import Occurrences, Sums, total
from opd_diag.analyses.rock_tokens.options import Options
from opd_diag.stats.hashing import hashed_uniform
from opd_diag.stats.matching import match_nearest
from opd_diag.stats.ranks import descending_ranks

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

CALIPER = 0.2  # log10 units
TIE = 1e-4


class Totals(NamedTuple):
    """Totals over some prompts; every array has shape (..., types).

    Attributes:
        rank_by: Which checkpoint ranks, `first` or `last`, or `joint`.
        n: Occurrences.
        square: Squared loss under the checkpoint that ranks.
        first: Loss under the first checkpoint.
        last: Loss under the last checkpoint.
    """

    rank_by: str
    n: Floats
    square: Floats
    first: Floats
    last: Floats

    @property
    def x(self) -> Floats:
        """Loss under the checkpoint that ranks."""
        return self.first if self.rank_by == "first" else self.last

    @property
    def R(self) -> Floats:  # noqa: N802
        """What ranks: that loss, or the smaller one of both checkpoints."""
        return np.minimum(self.first, self.last) if self.rank_by == "joint" else self.x


def totals(sums: Sums, rank_by: str, rows: Integers | None = None) -> Totals:
    """Add up some prompts, or all."""
    matrices = (sums.n[0], sums.square, sums.x[0], sums.x[-1])
    return Totals(rank_by, *(total(a if rows is None else a[rows]) for a in matrices))


def half_totals(sums: Sums, rank_by: str, half: int) -> Totals:
    """Add up the prompts of one half."""
    return totals(sums, rank_by, np.flatnonzero(sums.half == half))


def by_summed_loss(t: Totals, min_count: int) -> Floats:
    """Score by summed loss, R = n m; 0 for a type that does not occur.

    Source: arXiv 2605.09253.
    """
    return t.R


def by_frequency(t: Totals, min_count: int) -> Floats:
    """Score by occurrences alone: the control that knows no loss."""
    return t.n


def by_mean(t: Totals, min_count: int) -> Floats:
    """Score by mean loss, types of at least `min_count` occurrences."""
    return _where(t.n >= min_count, _mean(t))


def by_joint(t: Totals, min_count: int) -> Floats:
    """Score by the smaller R of the first and the last checkpoint."""
    return np.minimum(t.first, t.last)


def by_lower_bound(t: Totals, min_count: int) -> Floats:
    """Score by n times the lower 95 % bound of the mean, LCB = n max(m - t s / sqrt n, 0)."""
    able = t.n >= max(min_count, 2)
    n = np.where(able, t.n, 2)
    variance = np.maximum(t.square - t.n * _mean(t) ** 2, 0) / (n - 1)
    sizes, place = np.unique(n, return_inverse=True)
    quantile = np.asarray(stats.t.ppf(0.95, sizes - 1))[place].reshape(n.shape)
    return _where(able, n * np.maximum(_mean(t) - quantile * np.sqrt(variance / n), 0))


def by_shrunken_mean(t: Totals, min_count: int) -> Floats:
    """Score by the mean, drawn towards that of all types by empirical Bayes.

    The variances inside and between types are the moment estimates for unbalanced counts.

    Source: Searle, Casella and McCulloch 1992, section 3.6.
    """
    n = np.maximum(t.n.sum(axis=-1, keepdims=True), 1)
    groups = (t.n > 0).sum(axis=-1, keepdims=True)
    grand = t.x.sum(axis=-1, keepdims=True) / n
    inside = np.maximum(t.square - t.n * _mean(t) ** 2, 0).sum(axis=-1, keepdims=True)
    inside /= np.maximum(n - groups, 1)
    between = (t.n * (_mean(t) - grand) ** 2).sum(axis=-1, keepdims=True)
    between /= np.maximum(groups - 1, 1)
    size = (n - (t.n**2).sum(axis=-1, keepdims=True) / n) / np.maximum(groups - 1, 1)
    spread = np.maximum(between - inside, 0) / np.maximum(size, 1)
    weight = spread / np.maximum(spread + inside / np.maximum(t.n, 1), np.finfo(np.float64).tiny)
    # Without a difference between types there is nothing to choose by.
    return _where((t.n >= min_count) & (spread > 0), grand + weight * (_mean(t) - grand))


SELECTORS = {
    "R": by_summed_loss,
    "mean": by_mean,
    "frequency": by_frequency,
    "lower_bound": by_lower_bound,
    "empirical_bayes": by_shrunken_mean,
    "joint": by_joint,
}


def eligible_types(n: Floats, min_count: int, exclude_top_frequent: int) -> Mask:
    """Tell which types may be chosen: frequent enough, and not among the most frequent.

    Args:
        n: Occurrences of each type in the whole run. Shape (types,).
        min_count: Fewest occurrences.
        exclude_top_frequent: How many of the most frequent types to leave out.
    """
    allowed = n >= min_count
    allowed[np.argsort(-n, kind="stable")[:exclude_top_frequent]] = False
    return np.asarray(allowed)


class Controls(NamedTuple):
    """Controls of the rocks.

    Attributes:
        rock: Types, best rank first. Shape (rocks,).
        control: Their controls, -1 where no type is near enough.
        distance: Difference of their log10 frequencies, NaN without control.
    """

    rock: Integers
    control: Integers
    distance: Floats


def match_controls(
    n: Floats,
    ranks: Integers,
    eligible: Mask,
    token_id: npt.NDArray[np.int32],
    options: Options,
) -> Controls:
    """Find controls one to one, by log frequency, or the next ranks.

    Args:
        n: Occurrences of each type. Shape (types,).
        ranks: Rank of each type by R, from 1.
        eligible: Types that are ranked.
        token_id: Their ids, which with the seed decide between types as frequent.
        options: Choices of the user. Rocks are the ranks up to K; with `next_ranks` their controls
            are ranks K + 1 to 2 K, as in arXiv 2605.09253, at any distance.
    """
    order = np.argsort(ranks, kind="stable")[: int(eligible.sum())]
    rock, rest = order[: options.top], order[options.top :]
    control = np.full(rock.size, -1)
    if options.next_ranks:
        control[: rest[: options.top].size] = rest[: options.top]
    else:
        # A tiny second coordinate tells types as frequent apart: distances have to differ.
        tie = TIE * hashed_uniform(token_id, seed=options.seed)
        points = np.column_stack([np.log10(np.maximum(n, 1)), tie])
        pairs = match_nearest(points[rock], points[rest], [CALIPER, TIE])
        control[pairs.left] = rest[pairs.right]
    distance = np.abs(np.log10(n[rock]) - np.log10(np.maximum(n[control], 1)))
    return Controls(rock, control, np.where(control >= 0, distance, np.nan))


class Ranking(NamedTuple):
    """Types ranked by R, and what they are ranked from.

    Attributes:
        options: Choices of the user.
        occurrences: Tokens of the run under all checkpoints.
        sums: Their sums per prompt and type.
        panel: Sums that compare first and last: the same, or two runs beside one another.
        eligible: Types of `sums` that may be chosen. Shape (types,).
        ranks: Their ranks by R.
        controls: Controls of the rocks.
    """

    options: Options
    occurrences: Occurrences
    sums: Sums
    panel: Sums
    eligible: Mask
    ranks: Integers
    controls: Controls

    @property
    def pairing(self) -> str:
        """`one checkpoint`, `paired` or `unpaired`."""
        if not self.panel.paired:
            return "unpaired"
        return "paired" if len(self.sums.names) > 1 else "one checkpoint"

    @property
    def constants(self) -> dict[str, str]:
        """Columns with one value throughout."""
        return {
            "checkpoint": self.sums.names[self.sums.ranked],
            "pairing": self.pairing,
            "loss": self.options.loss,
            "rank_by": self.options.rank_by,
        }

    @property
    def is_rock(self) -> Mask:
        """Which types stand in the list. Shape (types,)."""
        return np.asarray(self.ranks <= self.options.top)

    @property
    def panel_rank_by(self) -> str:
        """Which loss of `panel` ranks: of two runs that of the run itself, its first."""
        return self.options.rank_by if self.panel.paired else "first"

    @property
    def panel_eligible(self) -> Mask:
        """The types of `panel` that may be chosen."""
        return np.isin(self.panel.token_id, self.sums.token_id[self.eligible])


def rank_types(occurrences: Occurrences, sums: Sums, panel: Sums, options: Options) -> Ranking:
    """Rank the types by summed loss, and match their controls.

    Args:
        occurrences: Tokens of the run under all checkpoints.
        sums: Their sums per prompt and type.
        panel: Sums that compare first and last.
        options: Choices of the user.
    """
    n = total(sums.n[0])
    eligible = eligible_types(n, options.min_count, options.left_out)
    ranks = descending_ranks(np.where(eligible, totals(sums, options.rank_by).R, -np.inf))
    controls = match_controls(n, ranks, eligible, sums.token_id, options)
    return Ranking(options, occurrences, sums, panel, eligible, ranks, controls)


def _mean(t: Totals) -> Floats:
    return np.asarray(t.x / np.maximum(t.n, 1))


def _where(able: Mask, score: Floats) -> Floats:
    return np.where(able, score, -np.inf)
