"""What is measured before, inside and after a stretch: sums of each quantity over the phases."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from opd_diag.analyses.agreement_traps.rule import Floats, Integers, Values
from opd_diag.analyses.agreement_traps.tokens import CountedTokens, tiled_sums
from opd_diag.tables.source import Source

COLUMNS = (
    "rollout",
    "position",
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
COLUMNS_OF_TWO = ("token_id", "forward_kl")

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


class Running:
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
        self._starts = np.cumsum(lengths) - lengths

    def between(self, start: Integers, stop: Integers) -> tuple[Floats, Integers]:
        """Sum from each start to its stop, exclusive; shapes (..., rollouts)."""
        a, b = self._starts + start, self._starts + stop
        counts = stop - start if self._known is None else self._known[b] - self._known[a]
        return self._sums[b] - self._sums[a], counts


def read_quantities(
    source: Source,
    tokens: CountedTokens,
    sizes: Integers,
    sample: Integers,
    *,
    correct: Floats,
    other: str | None,
    repeat_ngram: int,
) -> Mapping[str, Quantity]:
    """Read the quantities one column at a time and sum them over the phases.

    Args:
        source: Where the tokens come from.
        tokens: The tokens that count.
        sizes: Tokens in pre, agreement and post. Shape (rollouts, 3).
        sample: Places of the tokens of the control's rollouts.
        correct: Whether each rollout is correct, 0 or 1, NaN where unknown. Shape (rollouts,).
        other: A checkpoint other than the tokens' own; None: there is none.
        repeat_ngram: Tokens of an n-gram that count as a repetition.
    """
    read = tokens.column
    grid = source.k_grid
    place = grid.index(OVERLAP_K) if OVERLAP_K in grid else len(grid) - 1
    readers: dict[str, Callable[[], Values]] = {
        "reverse_kl": lambda: tokens.kl,
        "grad_logits": lambda: read("grad_logits"),
        "teacher_entropy": lambda: read("teacher_entropy"),
        "teacher_top_prob": lambda: np.exp(read("teacher_top_logp")),
        "overlap": lambda: read("overlap", place=place),
        "in_repeat": lambda: (read("repeat") >= repeat_ngram).astype(np.float32),
        "correct": lambda: np.repeat(correct.astype(np.float32), tokens.lengths),
        "advantage": lambda: read("teacher_logp") - read("student_logp"),
    }
    if other is not None:
        first, last = source.checkpoints[0], source.checkpoints[-1]
        readers["gain"] = lambda: read("forward_kl", first) - read("forward_kl", last)
        readers["grad_logits_other"] = lambda: read("grad_logits", other)
    found = {}
    for name, reader in readers.items():
        values = reader()
        found[name] = Quantity(*tiled_sums(values, sizes), values[sample])
        if name == "advantage":
            squared = np.square(values)
            found["advantage_squared"] = Quantity(*tiled_sums(squared, sizes), squared[sample])
    return found
