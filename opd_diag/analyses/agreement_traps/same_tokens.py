"""Keep a given number of tokens: by moving the threshold of the rule, or by other ways to cut.

As the threshold rises, the cut of a rollout jumps from one low of its windows to an earlier one
that is not as low. These lows are few, so every threshold can be tried by sorting them once.
Shrinking or stretching the cuts instead would put them where the rule never cuts: a cut stands
right behind tokens of high KL, which is why a window there is the first low one.
"""

from typing import NamedTuple

import numpy as np

from opd_diag.analyses.agreement_traps.rule import (
    Flags,
    Floats,
    Integers,
    Numbers,
    Rule,
    Values,
    part,
)
from opd_diag.stats.ragged import blocks
from opd_diag.stats.windows import moving_means

NEIGHBOURS = 20  # rollouts next in length that may lend each other their cut


class Lows(NamedTuple):
    """Where the rule would cut if its threshold were a little higher than some level.

    Rollout after rollout; in each of them `kept` rises and `level` falls.

    Attributes:
        rollout: Row of the rollout. Shape (lows,).
        kept: Tokens before the cut. Shape (lows,).
        level: Greatest mean of the windows in a row that fire the rule there, nat; less than that
            of every place before. Shape (lows,).
    """

    rollout: Integers
    kept: Integers
    level: Floats


def find_lows(kl: Values, lengths: Integers, rule: Rule, breaks: Flags | None = None) -> Lows:
    """Find every place where the rule cuts at some threshold.

    Args:
        kl: KL of every token, nat, one rollout after the other. Shape (tokens,).
        lengths: Tokens of each rollout. Shape (rollouts,).
        rule: The rule; its eta plays no part.
        breaks: Whether others' text stands before a token. Shape (tokens,).
    """
    skipped = max(rule.grace - rule.window, 0)
    rollout, kept, level = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for rows, tokens in blocks(lengths):
        own = part(breaks, tokens)
        windows = moving_means(kl[tokens], lengths[rows], size=rule.window, breaks=own)
        means = np.nan_to_num(windows.means, nan=np.inf)
        highest = _moving_maxima(means, rule.consecutive)
        stops = np.cumsum(windows.counts) - rule.consecutive + 1
        starts = stops + rule.consecutive - 1 - windows.counts + skipped
        for i in np.flatnonzero(stops > starts):
            lowest = np.minimum.accumulate(highest[starts[i] : stops[i]])
            new = np.flatnonzero(np.append(np.isfinite(lowest[0]), lowest[1:] < lowest[:-1]))
            rollout.append(np.full(new.size, rows.start + i))
            kept.append(new + skipped)
            level.append(lowest[new])
    return Lows(np.concatenate(rollout), np.concatenate(kept), np.concatenate(level))


def shift_thresholds(lows: Lows, lengths: Integers, thresholds: Floats, total: int) -> Integers:
    """Shift all thresholds by one amount so that `total` tokens are kept.

    The shift at which so many are kept moves the cut of a last rollout too far; that one keeps
    what is missing.

    Args:
        lows: Where the rule can cut, from `find_lows`.
        lengths: Tokens of each rollout. Shape (rollouts,).
        thresholds: Threshold of each rollout before the shift, nat. Shape (rollouts,).
        total: Tokens to keep; at least what is before the first of the lows of every rollout.

    Returns:
        Tokens kept of each rollout. Shape (rollouts,).
    """
    kept = lengths.copy()
    if total >= kept.sum():
        return kept
    last = np.append(lows.rollout[1:] != lows.rollout[:-1], True)
    following = np.where(last, lengths[lows.rollout], np.roll(lows.kept, -1))
    order = np.argsort(lows.level - thresholds[lows.rollout], kind="stable")
    left = kept.sum() - np.cumsum((following - lows.kept)[order])
    reached = int(np.argmax(left <= total))
    moved = order[: reached + 1]
    np.minimum.at(kept, lows.rollout[moved], lows.kept[moved])
    kept[lows.rollout[order[reached]]] += total - left[reached]
    return kept


def _moving_maxima(values: Floats, size: int) -> Floats:
    width = 1
    while width < size and values.size:
        step = min(width, size - width)
        values = np.maximum(values[:-step], values[step:])
        width += step
    return values


def rescaled(kept: Integers, lengths: Integers, total: int) -> Integers:
    """Move all cuts by one factor so that exactly `total` tokens are kept.

    Too many kept: every kept part shrinks by the same factor; too few: every dropped part does.

    Args:
        kept: Tokens kept of each rollout. Shape (rollouts,).
        lengths: Tokens of each rollout. Shape (rollouts,).
        total: Tokens to keep, at most all.
    """
    before, whole = int(kept.sum()), int(lengths.sum())
    if before >= total:
        return rounded(kept * (total / max(before, 1)), total)
    return rounded(lengths - (lengths - kept) * ((whole - total) / (whole - before)), total)


def same_number(lengths: Integers, total: int) -> Integers:
    """Keep the same number of tokens of every rollout, all of a shorter one, `total` in all."""
    longer = lengths.size - np.cumsum(np.bincount(lengths))  # rollouts longer than 0, 1, 2 ...
    reached = np.concatenate([[0], np.cumsum(longer)])  # kept in all at 0, 1, 2 ... tokens each
    most = int(np.searchsorted(reached, total, side="right")) - 1
    if most >= longer.size:
        return lengths.copy()
    each = most + (total - reached[most]) / max(longer[most], 1)
    return rounded(np.minimum(lengths, each), total)


def same_share(lengths: Integers, total: int) -> Integers:
    """Keep the same share of every rollout, `total` tokens in all."""
    return rounded(lengths * (total / max(int(lengths.sum()), 1)), total)


def of_neighbours(kept: Integers, lengths: Integers, rng: np.random.Generator) -> Integers:
    """Give every rollout the share kept of a random rollout of about its length."""
    rank = np.arange(lengths.size)
    by_length = np.argsort(lengths, kind="stable")
    lender = by_length[np.argsort(rank + rng.uniform(0, NEIGHBOURS, rank.size))]
    share = kept[lender] / np.maximum(lengths[lender], 1)
    borrowed = np.empty(lengths.size, np.int64)
    borrowed[by_length] = np.rint(share * lengths[by_length]).astype(np.int64)
    return borrowed


def rounded(wanted: Numbers, total: int) -> Integers:
    """Round to whole tokens, the largest remainders up, so that they sum to `total`."""
    whole = np.floor(wanted + 1e-9).astype(np.int64)
    short = total - int(whole.sum())
    largest = np.argsort(-(wanted - whole), kind="stable")[:short]
    whole[largest] += 1
    return whole


def random_windows(
    kept: Integers, lengths: Integers, rng: np.random.Generator
) -> tuple[Integers, Integers]:
    """Keep as many tokens of each rollout, but somewhere: start and stop of a random window."""
    start = rng.integers(0, lengths - kept, endpoint=True)
    return start, start + kept
