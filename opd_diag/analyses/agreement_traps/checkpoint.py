"""One checkpoint under the rule: what every table is made from."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.options import Options
from opd_diag.analyses.agreement_traps.rule import (
    Cuts,
    Flags,
    Floats,
    Integers,
    Numbers,
    Rule,
    Values,
    find_cuts,
    least_means,
    part,
    phase_sizes,
)
from opd_diag.analyses.agreement_traps.thresholds import Thresholds
from opd_diag.analyses.tokens import TokenTable, read_tokens
from opd_diag.stats.ragged import ranges, sequence_sums, starts_of
from opd_diag.tables.source import Source

COLUMNS = (
    "in_loss",
    "reverse_kl",
    "grad_logits",
    "student_logp",
    "teacher_logp",
    "teacher_entropy",
    "teacher_top_logp",
    "overlap",
    "repeat",
)
COLUMNS_OF_TWO = ("forward_kl",)

OVERLAP_K = 16


class Quantity(NamedTuple):
    """A quantity of every token, summed.

    Attributes:
        sums: Sum over pre, agreement and post of each rollout. Shape (rollouts, 3).
        counts: Tokens with a value there. Shape (rollouts, 3).
        sample: Its values on the rollouts of the control, NaN where null. Shape (tokens,).
    """

    sums: Floats
    counts: Integers
    sample: Values


class Checkpoint(NamedTuple):
    """One checkpoint under the rule.

    Attributes:
        name: Its name.
        names: Names of all checkpoints of the source, in order.
        rollouts: One row per rollout, with null for outcomes that the source does not hold.
        prompt: Number of the prompt of each rollout, from 0. Shape (rollouts,).
        kl: KL of the tokens that count, those in the loss with a measured reverse_kl, nat; one
            rollout after the other. Shape (tokens,).
        position: Their places in the response. Shape (tokens,).
        token_id: Their types. Shape (tokens,).
        lengths: How many each rollout has. Shape (rollouts,).
        missing: Tokens in the loss without a measured reverse_kl, left out. Shape (rollouts,).
        thresholds: Threshold of each rollout for any window and eta.
        least: Least window mean of each rollout, nat, NaN without a window. Shape (rollouts,).
        threshold: Its threshold, nat, NaN without one. Shape (rollouts,).
        others: Minima that the threshold rests on. Shape (rollouts,).
        eligible: Whether the rule could fire. Shape (rollouts,).
        cuts: Where it cuts each rollout.
        breaks: Whether others' text stands before a token, in the responses of several turns: no
            window goes across it. Shape (tokens,); None: before none.
        quantities: Sums over the phases.
        sample: Rows of the rollouts of the control, whole prompts.
        options: Every choice.
    """

    name: str
    names: tuple[str, ...]
    rollouts: pl.DataFrame
    prompt: Integers
    kl: Values
    position: Numbers
    token_id: Numbers
    lengths: Integers
    missing: Integers
    thresholds: Thresholds
    least: Floats
    threshold: Floats
    others: Integers
    eligible: Flags
    cuts: Cuts
    breaks: Flags | None
    quantities: Mapping[str, Quantity]
    sample: Integers
    options: Options

    @property
    def fired(self) -> Flags:
        """Whether the rule fired on each rollout. Shape (rollouts,)."""
        return self.cuts.triggered & self.eligible

    @property
    def sample_lengths(self) -> Integers:
        """Tokens of each rollout of the control."""
        return self.lengths[self.sample]

    @property
    def sample_kl(self) -> Values:
        """KL of their tokens, nat."""
        return self.quantities["reverse_kl"].sample

    @property
    def sample_token_id(self) -> Numbers:
        """Types of their tokens. Shape (tokens,)."""
        return self.token_id[ranges(starts_of(self.lengths)[self.sample], self.sample_lengths)]

    @property
    def sample_breaks(self) -> Flags | None:
        """Whether others' text stands before a token of theirs."""
        starts = starts_of(self.lengths)[self.sample]
        return part(self.breaks, ranges(starts, self.sample_lengths))

    def sample_thresholds(self, rules: list[Rule]) -> dict[tuple[int, float], Floats]:
        """Return their thresholds for each window and eta of the rules."""
        pairs = {(rule.window, rule.eta) for rule in rules}
        return {pair: self.thresholds.at(*pair)[0][self.sample] for pair in sorted(pairs)}


class RunningSums:
    """Running sums of a quantity, which give the sum between any two places of a rollout."""

    def __init__(self, values: Values, lengths: Integers) -> None:
        """Take the values of all rollouts, NaN where null, and the tokens of each."""
        missing = np.isnan(values)
        self._known: Integers | None = None
        if missing.any():
            self._known = np.concatenate([[0], np.cumsum(~missing)])
            values = np.where(missing, 0, values)
        self._sums = np.zeros(values.size + 1)
        np.cumsum(values, dtype=np.float64, out=self._sums[1:])
        self._starts = starts_of(lengths)

    def between(self, start: Integers, stop: Integers) -> tuple[Floats, Integers]:
        """Sum from each start to its stop, exclusive; shapes (..., rollouts)."""
        a, b = self._starts + start, self._starts + stop
        counts = stop - start if self._known is None else self._known[b] - self._known[a]
        return self._sums[b] - self._sums[a], counts


def read_checkpoint(
    source: Source, name: str, rollouts: pl.DataFrame, options: Options
) -> Checkpoint:
    """Read one checkpoint and apply the rule to it.

    Args:
        source: Tokens and rollouts.
        name: Name of the checkpoint.
        rollouts: Rollouts wanted, sorted by number.
        options: Every choice.

    Raises:
        TableError: If tokens occur twice, or checkpoints hold different ones.
    """
    rule = options.rule
    all_tokens = read_tokens(source, rollouts, (name, *source.checkpoints))
    in_loss = all_tokens.where(all_tokens.column("in_loss"))
    kl = in_loss.column("reverse_kl")
    measured = ~np.isnan(kl)
    tokens = in_loss.where(measured)
    breaks = breaks_among(in_loss.breaks, measured)
    kl, lengths = kl[measured], tokens.lengths
    prompt = (rollouts["prompt_id"].rank("dense") - 1).to_numpy().astype(np.int64)
    thresholds = Thresholds(
        *_reference(in_loss, options.threshold, name, (kl, lengths, breaks)),
        prompt,
        rollouts,
        options,
    )
    least = least_means(kl, lengths, rule.window, breaks)
    threshold, others = thresholds.at(rule.window, rule.eta)
    eligible = np.isfinite(least) & np.isfinite(threshold)
    cuts = find_cuts(kl, lengths, [rule], {(rule.window, rule.eta): threshold}, breaks)[rule]
    sample = sample_prompts(
        np.flatnonzero(eligible), prompt, most=options.control_rollouts, seed=options.seed
    )
    return Checkpoint(
        name=name,
        names=source.checkpoints,
        rollouts=rollouts,
        prompt=prompt,
        kl=kl,
        position=tokens.position,
        token_id=tokens.column("token_id"),
        lengths=lengths,
        missing=in_loss.lengths - lengths,
        thresholds=thresholds,
        least=least,
        threshold=threshold,
        others=others,
        eligible=eligible,
        cuts=cuts,
        breaks=breaks,
        quantities=_read_quantities(
            tokens,
            kl,
            (source.checkpoints[0], source.checkpoints[-1]),
            phase_sizes(cuts, lengths),
            ranges(starts_of(lengths)[sample], lengths[sample]),
            k_grid=source.k_grid,
            repeat_ngram=options.repeat_ngram,
        ),
        sample=sample,
        options=options,
    )


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


def _reference(
    in_loss: TokenTable,
    threshold: float | str | None,
    name: str,
    own: tuple[Values, Integers, Flags | None],
) -> tuple[Values, Integers, Flags | None]:
    """Return KL, lengths and breaks of the tokens whose minima make the thresholds."""
    if not isinstance(threshold, str) or threshold == name:
        return own
    kl = in_loss.column("reverse_kl", threshold)
    measured = ~np.isnan(kl)
    lengths = in_loss.where(measured).lengths
    return kl[measured], lengths, breaks_among(in_loss.breaks, measured)


def breaks_among(breaks: Flags | None, kept: Flags) -> Flags | None:
    """Give each break to the first token kept behind it. Shapes (tokens,) to (tokens kept,).

    Tokens that are left out for want of a value are no break.
    """
    if breaks is None:
        return None
    before = np.cumsum(breaks)[kept]
    return np.diff(before, prepend=before[:1]) > 0


def _read_quantities(
    tokens: TokenTable,
    kl: Values,
    ends: tuple[str, str],
    sizes: Integers,
    sample: Integers,
    *,
    k_grid: tuple[int, ...],
    repeat_ngram: int,
) -> Mapping[str, Quantity]:
    """Read the quantities one column at a time and sum them over the phases.

    Args:
        tokens: The tokens that count.
        kl: Their KL, nat.
        ends: First and last checkpoint of the source.
        sizes: Tokens in pre, agreement and post. Shape (rollouts, 3).
        sample: Places of the tokens of the control's rollouts.
        k_grid: The K of the columns that hold one value per K.
        repeat_ngram: Tokens of an n-gram that count as a repetition.
    """
    read = tokens.column
    k = OVERLAP_K if OVERLAP_K in k_grid else k_grid[-1]
    correct = tokens.rollouts["correct"].cast(pl.Float32).to_numpy()
    readers: dict[str, Callable[[], Values]] = {
        "reverse_kl": lambda: kl,
        "grad_logits": lambda: read("grad_logits"),
        "teacher_entropy": lambda: read("teacher_entropy"),
        "teacher_top_prob": lambda: np.exp(read("teacher_top_logp")),
        "overlap": lambda: read("overlap", k=k),
        "in_repeat": lambda: (read("repeat") >= repeat_ngram).astype(np.float32),
        "correct": lambda: np.repeat(correct, tokens.lengths),
        "advantage": lambda: read("teacher_logp") - read("student_logp"),
    }
    first, last = ends
    if first != last:
        other = first if tokens.checkpoints[0] == last else last
        readers["gain_reverse_kl"] = lambda: read("reverse_kl", first) - read("reverse_kl", last)
        readers["gain_forward_kl"] = lambda: read("forward_kl", first) - read("forward_kl", last)
        readers["grad_logits_other"] = lambda: read("grad_logits", other)
    quantities = {}
    for name, reader in readers.items():
        values = reader()
        quantities[name] = Quantity(*sequence_sums(values, sizes), values[sample])
        if name == "advantage":
            squared = np.square(values)
            quantities["advantage_squared"] = Quantity(
                *sequence_sums(squared, sizes), squared[sample]
            )
    return quantities
