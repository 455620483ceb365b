"""The null: the same rule on the same rollouts, their tokens shuffled inside each rollout.

A shuffle keeps every value and only takes away their order, and a token keeps its other columns
with its KL. What the rule finds there it finds without any persistence: a cut placed at low KL
keeps more KL per token, and more of all that goes with KL, by construction.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from opd_diag.analyses.agreement_traps.keeping import rescaled
from opd_diag.analyses.agreement_traps.phases import Sums, by_phase, phase_sizes
from opd_diag.analyses.agreement_traps.quantities import Running
from opd_diag.analyses.agreement_traps.rule import (
    Cuts,
    Floats,
    Integers,
    Rule,
    Values,
    find_cuts,
)


class Shuffled(NamedTuple):
    """What the rule finds in shuffled rollouts; sums are means over the draws.

    Attributes:
        cuts: Its cuts; every field has shape (draws, rollouts).
        phases: Sum of each quantity over each phase, and its tokens there. Shapes (rollouts, 4).
        kept: The same over what is kept, once all cuts are moved by one factor so that as many
            tokens are kept as by the observed cuts. Shapes (rollouts,).
    """

    cuts: Cuts
    phases: Mapping[str, Sums]
    kept: Mapping[str, Sums]


def shuffled_study(
    samples: Mapping[str, Values],
    lengths: Integers,
    thresholds: Mapping[tuple[int, float], Floats],
    budgets: Mapping[Rule, int],
    *,
    draws: int,
    seed: int,
) -> dict[Rule, Shuffled]:
    """Apply rules to shuffled rollouts, and measure every quantity there.

    Args:
        samples: Each quantity of every token, `reverse_kl` among them. Shape (tokens,).
        lengths: Tokens of each rollout.
        thresholds: Threshold of each rollout, the one that it has unshuffled.
        budgets: The rules, and how many tokens each keeps unshuffled.
        draws: Number of shuffles.
        seed: Seed of the shuffles: the same ones for every rule.
    """
    rules = list(budgets)
    cuts: dict[Rule, list[Cuts]] = {rule: [] for rule in rules}
    phases = {rule: {name: np.zeros((2, lengths.size, 4)) for name in samples} for rule in rules}
    kept = {rule: {name: np.zeros((2, lengths.size)) for name in samples} for rule in rules}
    start = np.zeros_like(lengths)
    for order in shuffles(lengths, draws=draws, seed=seed):
        found = find_cuts(samples["reverse_kl"][order], lengths, rules, thresholds)
        held = {rule: rescaled(found[rule].kept, lengths, budgets[rule]) for rule in rules}
        for rule in rules:
            cuts[rule].append(found[rule])
        for name, values in samples.items():
            running = Running(values[order], lengths)
            for rule in rules:
                sums = running.over(phase_sizes(found[rule], lengths))
                fired = found[rule].triggered
                phases[rule][name] += np.stack([by_phase(side, fired) for side in sums])
                kept[rule][name] += np.stack(running.between(start, held[rule]))
    return {
        rule: Shuffled(
            Cuts(*(np.stack(field) for field in zip(*cuts[rule], strict=True))),
            {name: (x / draws, m / draws) for name, (x, m) in phases[rule].items()},
            {name: (x / draws, m / draws) for name, (x, m) in kept[rule].items()},
        )
        for rule in rules
    }


def shuffled_cuts(
    kl: Values,
    lengths: Integers,
    rules: Sequence[Rule],
    thresholds: Mapping[tuple[int, float], Floats],
    *,
    draws: int,
    seed: int,
) -> dict[Rule, Cuts]:
    """Apply rules to shuffled rollouts; every field of the cuts has shape (draws, rollouts)."""
    found = [
        find_cuts(kl[order], lengths, rules, thresholds)
        for order in shuffles(lengths, draws=draws, seed=seed)
    ]
    return {
        rule: Cuts(*(np.stack(field) for field in zip(*(one[rule] for one in found), strict=True)))
        for rule in rules
    }


def shuffles(lengths: Integers, *, draws: int, seed: int) -> Iterator[Integers]:
    """Draw orders that shuffle the tokens inside each rollout. Shape (tokens,) each."""
    rng = np.random.default_rng(seed)
    # A stable sort of small integers is a radix sort: it puts shuffled tokens back to rollouts.
    kind = np.uint16 if lengths.size <= np.iinfo(np.uint16).max else np.int64
    rollout = np.repeat(np.arange(lengths.size, dtype=kind), lengths)
    for _ in range(draws):
        order = rng.permutation(rollout.size)
        yield order[np.argsort(rollout[order], kind="stable")]


def sample_prompts(eligible: Integers, prompt: Integers, *, most: int, seed: int) -> Integers:
    """Draw whole prompts until the next one would bring more rollouts than `most`.

    Args:
        eligible: Rows to draw from, rising.
        prompt: Number of the prompt of each row of the whole table, from 0.
        most: Most rollouts; one prompt is drawn at least.
        seed: Seed of the draw.

    Returns:
        The rows drawn, rising.
    """
    if eligible.size <= most:
        return eligible
    sizes = np.bincount(prompt[eligible])
    order = np.random.default_rng(seed).permutation(np.flatnonzero(sizes))
    taken = order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), most, side="right")))]
    return eligible[np.isin(prompt[eligible], taken)]
