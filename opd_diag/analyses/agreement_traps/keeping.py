"""Other ways to keep as many tokens: the controls of a cut."""

import numpy as np

from opd_diag.analyses.agreement_traps.rule import Integers, Numbers

NEIGHBOURS = 20  # rollouts next in length that may lend each other their cut


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
