"""The null: the same rule on the same rollouts, blocks of their tokens shuffled in each rollout.

A shuffle keeps every value and takes away the order of the blocks, and a token keeps its other
columns with its KL. Single tokens (blocks of 1) are no null for a rule on windows: any
autocorrelation of neighbours makes longer runs than they do. Blocks keep it inside of them. What
the rule does on shuffled blocks it does without persistence: a cut placed at low KL keeps more KL
per token, and more of all that goes with KL, by construction.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from opd_diag.analyses.agreement_traps.rule import (
    Cuts,
    Flags,
    Floats,
    Integers,
    Numbers,
    Rule,
    Sums,
    Values,
    by_phase,
    find_cuts,
)
from opd_diag.analyses.agreement_traps.same_tokens import find_lows, shift_thresholds
from opd_diag.stats.ragged import (
    blocks,
    index_in_sequence,
    ranges,
    run_lengths,
    run_starts,
    sequence_sums,
    starts_of,
)

TENTHS = 10


class Shuffled(NamedTuple):
    """What the rule finds in shuffled rollouts; sums are means over the draws.

    Attributes:
        cuts: Its cuts; every field has shape (draws, rollouts).
        phases: Sum of each quantity over each phase, and its tokens there. Shapes (rollouts, 4).
        kept: The same over what is kept, once all thresholds are shifted by one amount so that as
            many tokens are kept as by the observed cuts. Shapes (rollouts,).
    """

    cuts: Cuts
    phases: Mapping[str, Sums]
    kept: Mapping[str, Sums]


def shuffled_rules(
    samples: Mapping[str, Values],
    lengths: Integers,
    thresholds: Mapping[tuple[int, float], Floats],
    budgets: Mapping[Rule, int],
    *,
    block: int,
    draws: int,
    seed: int,
    breaks: Flags | None = None,
) -> dict[Rule, Shuffled]:
    """Apply rules to shuffled rollouts, and measure every quantity there.

    Args:
        samples: Each quantity of every token, `reverse_kl` among them. Shape (tokens,).
        lengths: Tokens of each rollout.
        thresholds: Threshold of each rollout, the one that it has unshuffled.
        budgets: The rules, and how many tokens each keeps unshuffled.
        block: Tokens that stay together.
        draws: Number of shuffles.
        seed: Seed of the shuffles: the same ones for every rule.
        breaks: Whether others' text stands before a token. Shape (tokens,).
    """
    rules = list(budgets)
    cuts: dict[Rule, list[Cuts]] = {rule: [] for rule in rules}
    phases = {rule: {name: np.zeros((2, lengths.size, 4)) for name in samples} for rule in rules}
    kept = {rule: {name: np.zeros((2, lengths.size)) for name in samples} for rule in rules}
    for order in shuffles(lengths, block=block, draws=draws, seed=seed, breaks=breaks):
        kl = samples["reverse_kl"][order]
        drawn = find_cuts(kl, lengths, rules, thresholds, breaks)
        held = _keep_budgets(kl, lengths, thresholds, budgets, breaks)
        for rule in rules:
            cuts[rule].append(drawn[rule])
        ends = np.stack([_ends(drawn[rule], lengths, held[rule]) for rule in rules], axis=1)
        for name, values in samples.items():
            sums = first_sums(values, lengths, ends, order=order)
            for i, rule in enumerate(rules):
                fired = drawn[rule].triggered
                for side, first in enumerate(sums):
                    parts = np.diff(first[:, i, :3], axis=1, prepend=0)
                    phases[rule][name][side] += by_phase(parts, fired)
                    kept[rule][name][side] += first[:, i, 3]
    return {
        rule: Shuffled(
            Cuts(*(np.stack(field) for field in zip(*cuts[rule], strict=True))),
            {name: (x / draws, m / draws) for name, (x, m) in phases[rule].items()},
            {name: (x / draws, m / draws) for name, (x, m) in kept[rule].items()},
        )
        for rule in rules
    }


def _keep_budgets(
    kl: Values,
    lengths: Integers,
    thresholds: Mapping[tuple[int, float], Floats],
    budgets: Mapping[Rule, int],
    breaks: Flags | None,
) -> dict[Rule, Integers]:
    """Shift the thresholds of each rule until it keeps its budget; tokens kept of each rollout."""
    bare = {rule._replace(eta=0) for rule in budgets}
    places = {one: find_lows(kl, lengths, one, breaks) for one in bare}
    return {
        rule: shift_thresholds(
            places[rule._replace(eta=0)], lengths, thresholds[rule.window, rule.eta], total
        )
        for rule, total in budgets.items()
    }


def _ends(cuts: Cuts, lengths: Integers, held: Integers) -> Integers:
    """List where pre, agreement and post end, and what is kept; shape (rollouts, 4)."""
    return np.stack([cuts.kept, cuts.stretch_end, lengths, held], axis=1)


def first_sums(
    values: Values, lengths: Integers, ends: Integers, *, order: Integers
) -> tuple[Floats, Floats]:
    """Sum the first values of each rollout, up to each of some ends, once they are reordered.

    Args:
        values: Value of every token, NaN where null. Shape (tokens,).
        lengths: Tokens of each rollout. Shape (rollouts,).
        ends: How many of its tokens each sum is over. Shape (rollouts, ...).
        order: Tokens in their new order, each in its rollout. Shape (tokens,).

    Returns:
        Sums, and how many values each is made of, in the shape of `ends`.
    """
    starts = starts_of(lengths)
    places = ends + starts.reshape(-1, *(1,) * (ends.ndim - 1))
    sums, counts = np.empty(ends.shape), ends.astype(np.float64)
    some_missing = bool(np.isnan(values).any())
    for rows, tokens in blocks(lengths):
        here = places[rows] - tokens.start
        first = starts[rows].reshape(-1, *(1,) * (ends.ndim - 1)) - tokens.start
        part = values[order[tokens]]
        if some_missing:
            missing = np.isnan(part)
            part = np.where(missing, 0, part)
            counts[rows] -= _between(missing, first, here)
        sums[rows] = _between(part, first, here)
    return sums, counts


def _between(values: Numbers, first: Integers, last: Integers) -> Floats:
    running = np.zeros(values.size + 1)
    np.cumsum(values, dtype=np.float64, out=running[1:])
    return np.asarray(running[last] - running[first])


def shuffled_cuts(
    kl: Values,
    lengths: Integers,
    rules: Sequence[Rule],
    thresholds: Mapping[tuple[int, float], Floats],
    *,
    block: int,
    draws: int,
    seed: int,
    course: Floats | None = None,
    breaks: Flags | None = None,
) -> dict[Rule, Cuts]:
    """Apply rules to shuffled rollouts; every field of the cuts has shape (draws, rollouts).

    Args:
        kl: KL of every token, nat. Shape (tokens,).
        lengths: Tokens of each rollout.
        rules: The rules.
        thresholds: Threshold of each rollout, the one that it has unshuffled.
        block: Tokens that stay together.
        draws: Number of shuffles.
        seed: Seed of the shuffles: the same ones for every rule.
        course: Factor at each place that stays where it is, from `steady_course`; only what
            remains of KL is shuffled. Shape (tokens,).
        breaks: Whether others' text stands before a token. Shape (tokens,).
    """
    rest = kl if course is None else kl / course
    drawn = []
    for order in shuffles(lengths, block=block, draws=draws, seed=seed, breaks=breaks):
        moved = rest[order] if course is None else rest[order] * course
        drawn.append(find_cuts(moved, lengths, rules, thresholds, breaks))
    return {
        rule: Cuts(*(np.stack(field) for field in zip(*(one[rule] for one in drawn), strict=True)))
        for rule in rules
    }


def steady_course(kl: Values, lengths: Integers) -> Floats:
    """Fit the steady rise or fall of KL along the responses: a line in log KL, one for all.

    It is fitted to the tenths of the response, over rollouts scaled to a mean of 1, by the mean of
    square roots, which heavy tails do not carry off.

    Args:
        kl: KL of every token, nat, one rollout after the other. Shape (tokens,).
        lengths: Tokens of each rollout. Shape (rollouts,).

    Returns:
        Factor at each token, above 0. Shape (tokens,).
    """
    row = np.repeat(np.arange(lengths.size), lengths)
    place = (index_in_sequence(lengths) + 0.5) / lengths[row]
    mean = sequence_sums(kl, lengths)[0] / np.maximum(lengths, 1)
    scaled = np.sqrt(np.maximum(kl, 0) / np.where(mean > 0, mean, np.inf)[row])
    tenth = (place * TENTHS).astype(np.int64)
    count = np.bincount(tenth, minlength=TENTHS)
    level = np.bincount(tenth, scaled, TENTHS) / np.maximum(count, 1)
    known = level > 0
    if known.sum() < 2:
        return np.ones(kl.size)
    centre = (np.arange(TENTHS)[known] + 0.5) / TENTHS
    slope = np.polyfit(centre, 2 * np.log(level[known]), 1)[0]
    return np.asarray(np.exp(slope * (place - 0.5)))


def shuffles(
    lengths: Integers, *, block: int, draws: int, seed: int, breaks: Flags | None = None
) -> Iterator[Integers]:
    """Draw orders that shuffle blocks of tokens inside each rollout. Shape (tokens,) each.

    Where the first block ends is drawn too, so the first and the last one may be shorter. Tokens
    stay inside their span, which ends where others' text stands (`breaks`, shape (tokens,)).
    """
    rng = np.random.default_rng(seed)
    if breaks is not None:
        row = np.repeat(np.arange(lengths.size), lengths)
        lengths = run_lengths(run_starts(row, np.cumsum(breaks)), row.size)
    parts = [(tokens, lengths[rows]) for rows, tokens in blocks(lengths)]
    for _ in range(draws):
        order = np.empty(int(lengths.sum()), np.int64)
        for tokens, sizes in parts:
            rollout, starts, counts = _pieces(sizes, rng.integers(block, size=sizes.size), block)
            mixed = rng.permutation(rollout.size)
            # Stable: each rollout gets its blocks back in the order in which they were drawn.
            mixed = mixed[np.argsort(rollout[mixed], kind="stable")]
            moved = starts[mixed] if block == 1 else ranges(starts[mixed], counts[mixed])
            order[tokens] = tokens.start + moved
        yield order


def _pieces(lengths: Integers, first: Integers, block: int) -> tuple[Numbers, Integers, Integers]:
    """Cut rollouts into blocks, the first of so many tokens: rollout, start, number of tokens."""
    short = np.minimum(first, lengths)
    some = (short > 0).astype(np.int64)
    counts = some - (short - lengths) // block
    # Small integers are sorted by radix.
    kind = np.uint16 if lengths.size <= np.iinfo(np.uint16).max else np.int64
    rollout = np.repeat(np.arange(lengths.size).astype(kind), counts)
    start = short[rollout] + (index_in_sequence(counts) - some[rollout]) * block
    stop = np.minimum(start + block, lengths[rollout])
    start = np.maximum(start, 0)
    return rollout, start + starts_of(lengths)[rollout], stop - start
