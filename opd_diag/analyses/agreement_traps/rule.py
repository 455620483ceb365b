"""The rule: where does the windowed KL fall below its threshold and stay there.

Places are counted from 0 over the tokens that count in each rollout; positions of the response are
put in their stead only in the tables.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.stats.ragged import blocks, run_lengths, run_starts
from opd_diag.stats.windows import Windows, alternate, minima, moving_means

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Values: TypeAlias = npt.NDArray[np.floating]
Numbers: TypeAlias = npt.NDArray[Any]
# Sum of a quantity, and the tokens that it is a sum over.
Sums: TypeAlias = tuple[Floats, Floats]

PHASES = ("pre", "agreement", "post", "untriggered")


class Rule(NamedTuple):
    """The four numbers of the rule.

    Attributes:
        window: Tokens in a window.
        eta: Share of the minima above the threshold.
        grace: Windows that end before so many tokens are passed over.
        consecutive: Windows in a row below the threshold that fire the rule.
    """

    window: int
    eta: float
    grace: int
    consecutive: int


class Cuts(NamedTuple):
    """Where the rule cuts each rollout; every field has shape (rollouts,).

    Attributes:
        triggered: Whether the rule fired.
        trigger: The token at which it fired, -1 where it did not.
        kept: Tokens before the cut; all tokens where the rule did not fire.
        stretch_end: Tokens up to the end of the unbroken stretch; all where it did not fire.
        windows_after: Windows after the one at which the rule fired.
        below_after: Those of them that are below the threshold.
        longest_run: Windows in the rollout's longest run below the threshold.
    """

    triggered: Flags
    trigger: Integers
    kept: Integers
    stretch_end: Integers
    windows_after: Integers
    below_after: Integers
    longest_run: Integers


class _Runs(NamedTuple):
    """Unbroken runs of windows below the threshold, in order.

    Attributes:
        rollout: Row of the rollout. Shape (runs,).
        first: First window of the run, 0-based in its rollout. Shape (runs,).
        length: Windows in the run. Shape (runs,).
        below: Number of windows below the threshold before each window. Shape (windows + 1,).
        whole: Number of windows without a break before each window. Shape (windows + 1,).
        starts: Place of each rollout's first window among all. Shape (rollouts + 1,).
    """

    rollout: Integers
    first: Integers
    length: Integers
    below: Integers
    whole: Integers
    starts: Integers


def least_means(kl: Values, lengths: Integers, window: int, breaks: Flags | None = None) -> Floats:
    """Find the least window mean of each rollout, nat; NaN where it has no whole window."""
    return np.concatenate(
        [
            minima(
                moving_means(kl[tokens], lengths[rows], size=window, breaks=part(breaks, tokens))
            )
            for rows, tokens in blocks(lengths)
        ]
    )


def part(breaks: Flags | None, tokens: slice | Integers) -> Flags | None:
    """Take the breaks of some tokens."""
    return None if breaks is None else breaks[tokens]


def longest_spans(lengths: Integers, breaks: Flags | None) -> Integers:
    """Count the tokens of each rollout's longest unbroken span. Shape (rollouts,)."""
    longest = lengths.copy()
    if breaks is not None:
        row = np.repeat(np.arange(lengths.size), lengths)
        starts = run_starts(row, np.cumsum(breaks))
        longest[:] = 0
        np.maximum.at(longest, row[starts], run_lengths(starts, row.size))
    return longest


def find_cuts(
    kl: Values,
    lengths: Integers,
    rules: Sequence[Rule],
    thresholds: Mapping[tuple[int, float], Floats],
    breaks: Flags | None = None,
) -> dict[Rule, Cuts]:
    """Apply one or more rules to rollouts.

    The rule fires at the first token that ends `consecutive` windows in a row whose mean is below
    the threshold. The cut is the first token of the first of them, which may be the first of all.

    Args:
        kl: KL of every token, nat, one rollout after the other. Shape (tokens,).
        lengths: Tokens of each rollout. Shape (rollouts,).
        rules: The rules.
        thresholds: For each (window, eta) the threshold of each rollout, nat, NaN where it has
            none. Shape (rollouts,).
        breaks: Whether others' text stands before a token: no window and no stretch goes across
            it. Shape (tokens,). None: it stands before none.

    Source: arXiv 2606.09471, termination rule.
    """
    parts: dict[Rule, list[Cuts]] = {rule: [] for rule in rules}
    for rows, tokens in blocks(lengths):
        for window, group in groupby(sorted(parts), key=lambda rule: rule.window):
            own = part(breaks, tokens)
            windows = moving_means(kl[tokens], lengths[rows], size=window, breaks=own)
            for (eta, grace), same in groupby(group, key=lambda rule: (rule.eta, rule.grace)):
                runs = _low_runs(windows, thresholds[window, eta][rows], grace, own)
                for rule in same:
                    parts[rule].append(_cut(runs, lengths[rows], rule))
    return {
        rule: Cuts(*(np.concatenate(field) for field in zip(*some, strict=True)))
        for rule, some in parts.items()
    }


def _low_runs(windows: Windows, thresholds: Floats, grace: int, breaks: Flags | None) -> _Runs:
    counts = windows.counts
    starts = np.concatenate([[0], np.cumsum(counts)])
    low = windows.means < np.repeat(thresholds, counts)
    skipped = np.clip(grace - windows.size, 0, counts)
    if skipped.any():
        low &= ~alternate(skipped, counts - skipped)
    opens, closes = low.copy(), low.copy()
    opens[1:] &= ~low[:-1]
    closes[:-1] &= ~low[1:]
    some = counts > 0
    first, last = starts[:-1][some], starts[1:][some] - 1  # a run ends with its rollout
    opens[first], closes[last] = low[first], low[last]
    if breaks is not None and windows.size == 1:  # longer windows leave a gap at a break
        after = np.flatnonzero(breaks)
        opens[after], closes[after - 1] = low[after], low[after - 1]
    begin, end = np.flatnonzero(opens), np.flatnonzero(closes)
    rollout = np.searchsorted(starts[1:], begin, side="right")
    below = np.concatenate([[0], np.cumsum(low)])
    whole = np.concatenate([[0], np.cumsum(~np.isnan(windows.means))])
    return _Runs(rollout, begin - starts[rollout], end - begin + 1, below, whole, starts)


def _cut(runs: _Runs, lengths: Integers, rule: Rule) -> Cuts:
    long = np.flatnonzero(runs.length >= rule.consecutive)
    rows, place = np.unique(runs.rollout[long], return_index=True)
    first, length = runs.first[long[place]], runs.length[long[place]]
    fired = first + rule.consecutive - 1

    triggered = np.zeros(lengths.size, np.bool_)
    triggered[rows] = True
    trigger = np.full(lengths.size, -1)
    trigger[rows] = fired + rule.window - 1
    kept, stretch_end = lengths.copy(), lengths.copy()
    kept[rows] = first
    stretch_end[rows] = first + length + rule.window - 1
    after, end = runs.starts[rows] + fired + 1, runs.starts[rows + 1]
    windows_after, below_after = np.zeros((2, lengths.size), np.int64)
    windows_after[rows] = runs.whole[end] - runs.whole[after]
    below_after[rows] = runs.below[end] - runs.below[after]
    longest = np.zeros(lengths.size, np.int64)
    np.maximum.at(longest, runs.rollout, runs.length)
    return Cuts(triggered, trigger, kept, stretch_end, windows_after, below_after, longest)


def phase_sizes(cuts: Cuts, lengths: Integers) -> Integers:
    """Count the tokens of pre, agreement and post; all are pre where the rule did not fire.

    Returns:
        Shape (rollouts, 3).
    """
    return np.stack([cuts.kept, cuts.stretch_end - cuts.kept, lengths - cuts.stretch_end], axis=1)


def by_phase(values: Numbers, fired: Flags) -> Floats:
    """Part pre, agreement and post from rollouts on which the rule never fired.

    Args:
        values: Shape (rollouts, 3).
        fired: Shape (rollouts,).

    Returns:
        One column for each of `PHASES`. Shape (rollouts, 4).
    """
    inside = values * fired[:, None]
    return np.column_stack([inside, values[:, 0] * ~fired]).astype(np.float64)
