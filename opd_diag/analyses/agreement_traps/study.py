"""Apply the rule to one checkpoint: what every table is made from."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.options import Options
from opd_diag.analyses.agreement_traps.phases import phase_sizes
from opd_diag.analyses.agreement_traps.quantities import Quantity, read_quantities
from opd_diag.analyses.agreement_traps.rule import (
    Cuts,
    Flags,
    Floats,
    Integers,
    Rule,
    Values,
    find_cuts,
    least_means,
)
from opd_diag.analyses.agreement_traps.shuffles import sample_prompts
from opd_diag.analyses.agreement_traps.thresholds import from_others, replayed
from opd_diag.analyses.agreement_traps.tokens import CountedTokens, ranges
from opd_diag.errors import TableError
from opd_diag.tables.source import Source


class Thresholds:
    """Thresholds of every rollout, for any window and eta."""

    def __init__(
        self, tokens: CountedTokens, prompt: Integers, rollouts: pl.DataFrame, options: Options
    ) -> None:
        """Take the tokens whose minima make the thresholds."""
        self._tokens, self._prompt, self._options = tokens, prompt, options
        self._step = _steps(rollouts["step"]) if options.mode == "replay" else None
        self._least: dict[int, Floats] = {}

    def least(self, window: int) -> Floats:
        """Return the least window mean of each rollout, nat."""
        if window not in self._least:
            kl, lengths = self._tokens.kl, self._tokens.lengths
            self._least[window] = least_means(kl, lengths, window)
        return self._least[window]

    def at(self, window: int, eta: float) -> tuple[Floats, Integers]:
        """Return the threshold of each rollout, nat, and how many minima it rests on."""
        options = self._options
        if isinstance(options.threshold, float):
            size = self._tokens.lengths.size
            return np.full(size, options.threshold), np.zeros(size, np.int64)
        if self._step is None:
            return from_others(self.least(window), self._prompt, eta=eta)
        return replayed(
            self.least(window),
            self._step,
            eta=eta,
            buffer=options.buffer,
            warmup_rollouts=options.warmup_rollouts,
            warmup_steps=options.warmup_steps,
            update=options.update,
        )


class Study(NamedTuple):
    """One checkpoint under the rule.

    Attributes:
        checkpoint: Its name.
        checkpoints: All checkpoints of the source, in order.
        rollouts: One row per rollout, with null for outcomes that the source does not hold.
        prompt: Number of the prompt of each rollout, from 0. Shape (rollouts,).
        tokens: The tokens that count.
        thresholds: Threshold of each rollout for any window and eta.
        least: Least window mean of each rollout, nat, NaN without a window. Shape (rollouts,).
        threshold: Its threshold, nat, NaN without one. Shape (rollouts,).
        others: Minima that the threshold rests on. Shape (rollouts,).
        eligible: Whether the rule could fire. Shape (rollouts,).
        cuts: Where it cuts each rollout.
        quantities: Sums over the phases.
        sample: Rows of the rollouts of the control, whole prompts.
        options: Every choice.
    """

    checkpoint: str
    checkpoints: tuple[str, ...]
    rollouts: pl.DataFrame
    prompt: Integers
    tokens: CountedTokens
    thresholds: Thresholds
    least: Floats
    threshold: Floats
    others: Integers
    eligible: Flags
    cuts: Cuts
    quantities: Mapping[str, Quantity]
    sample: Integers
    options: Options

    @property
    def sample_lengths(self) -> Integers:
        """Tokens of each rollout of the control."""
        return self.tokens.lengths[self.sample]

    @property
    def sample_kl(self) -> Values:
        """KL of their tokens, nat."""
        return self.quantities["reverse_kl"].sample

    def sample_thresholds(self, rules: list[Rule]) -> dict[tuple[int, float], Floats]:
        """Return their thresholds for each window and eta of the rules."""
        pairs = {(rule.window, rule.eta) for rule in rules}
        return {pair: self.thresholds.at(*pair)[0][self.sample] for pair in sorted(pairs)}


def study(source: Source, checkpoint: str, rollouts: pl.DataFrame, options: Options) -> Study:
    """Apply the rule to one checkpoint.

    Args:
        source: Tokens and rollouts.
        checkpoint: Name of the checkpoint.
        rollouts: Rollouts wanted, sorted by number.
        options: Every choice.

    Raises:
        TableError: If tokens occur twice, or checkpoints hold different ones.
    """
    rule = options.rule
    tokens = CountedTokens(source, checkpoint, rollouts["rollout"])
    prompt = (rollouts["prompt_id"].rank("dense") - 1).to_numpy().astype(np.int64)
    other = _other(source, checkpoint)
    reference = tokens
    if other is not None:
        for name in source.checkpoints:
            if name != checkpoint:
                tokens.same_as(name)
        if isinstance(options.threshold, str) and options.threshold != checkpoint:
            reference = CountedTokens(source, options.threshold, rollouts["rollout"])
    thresholds = Thresholds(reference, prompt, rollouts, options)
    least = least_means(tokens.kl, tokens.lengths, rule.window)
    threshold, others = thresholds.at(rule.window, rule.eta)
    eligible = np.isfinite(least) & np.isfinite(threshold)
    cuts = find_cuts(tokens.kl, tokens.lengths, [rule], {(rule.window, rule.eta): threshold})[rule]
    sample = sample_prompts(
        np.flatnonzero(eligible), prompt, most=options.control_rollouts, seed=options.seed
    )
    starts = np.cumsum(tokens.lengths) - tokens.lengths
    quantities = read_quantities(
        source,
        tokens,
        phase_sizes(cuts, tokens.lengths),
        ranges(starts[sample], tokens.lengths[sample]),
        correct=rollouts["correct"].cast(pl.Float64).to_numpy(),
        other=other,
        repeat_ngram=options.repeat_ngram,
    )
    return Study(
        checkpoint=checkpoint,
        checkpoints=source.checkpoints,
        rollouts=rollouts,
        prompt=prompt,
        tokens=tokens,
        thresholds=thresholds,
        least=least,
        threshold=threshold,
        others=others,
        eligible=eligible,
        cuts=cuts,
        quantities=quantities,
        sample=sample,
        options=options,
    )


def _other(source: Source, checkpoint: str) -> str | None:
    """Choose a checkpoint beside this one: the last, or the first if this is the last."""
    first, last = source.checkpoints[0], source.checkpoints[-1]
    return None if first == last else (first if checkpoint == last else last)


def _steps(step: pl.Series) -> Integers:
    """Return the training step of each rollout; one and the same where the dump names none."""
    if step.null_count() == step.len():
        return np.zeros(step.len(), np.int64)
    if step.null_count():
        raise TableError(
            f"rollouts: {step.null_count()} without a training step; expected one for each, "
            "or none at all"
        )
    return step.to_numpy().astype(np.int64)
