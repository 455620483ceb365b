"""Sum values of tokens over bins, by prompt, for all rollouts, correct and wrong ones.

Without bins the sums make the table `score_summary`: means over all tokens of a group.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses import reasons
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.tables import result_table
from opd_diag.analyses.tokens import TokenTable
from opd_diag.tables.columns.score_summary import ALL, CORRECT, WRONG
from opd_diag.tables.columns.tokens import TOKENS

Floats: TypeAlias = npt.NDArray[np.float64]

DIVERGENCES = ("reverse_kl", "forward_kl")
COLUMNS = (*DIVERGENCES, "student_entropy", "teacher_entropy", "grad_logits")
UNITS = {column.name: column.unit for column in TOKENS}
_OUTCOMES = (None, True, False)


class Sums(NamedTuple):
    """Sums over tokens.

    Attributes:
        group: `all`, `correct` or `wrong`.
        x: Sums of the values. Shape (prompts, bins).
        m: Tokens with a value. Same shape.
        unknown: Whether there are tokens, and none of them has a value, whatever its group.
    """

    group: str
    x: Floats
    m: Floats
    unknown: bool

    def why(self, reason: npt.ArrayLike) -> npt.ArrayLike:
        """Return the reasons of estimates, or that the run does not know the column."""
        return reasons.UNKNOWN if self.unknown else reason


class Rollouts:
    """The rollouts that are summarised: their prompts, and which of them are correct."""

    def __init__(self, table: pl.DataFrame, *, seed: int) -> None:
        self.prompts = Prompts(table["prompt_id"], seed=seed)
        correct = table["correct"]
        self._outcome = correct.replace_strict(
            _OUTCOMES, [0, 1, 2], return_dtype=pl.Int64
        ).to_numpy()
        self._known = correct.is_not_null().any()

    def sums(
        self,
        tokens: TokenTable,
        column: str,
        bins: int = 1,
        place: Callable[[pl.DataFrame], npt.NDArray[np.integer]] | None = None,
    ) -> Iterator[Sums]:
        """Sum a column over the tokens of each prompt and bin, what is not finite left out.

        Args:
            tokens: The tokens.
            column: What is summed.
            bins: Number of bins.
            place: Returns the bin of each token of a batch; None: one bin.

        Yields:
            One entry for each group of rollouts.
        """
        shape = (len(_OUTCOMES), self.prompts.count, bins)
        x, m = np.zeros(shape), np.zeros(shape)
        for batch in tokens.batches([column]):
            value = batch[column].cast(pl.Float64).to_numpy()
            there = np.isfinite(value)
            row = batch["row"].to_numpy()
            cell = self._outcome[row] * self.prompts.count + self.prompts.code[row]
            cell = (cell * bins + (0 if place is None else place(batch)))[there]
            x += np.bincount(cell, value[there], x.size).reshape(shape)
            m += np.bincount(cell, minlength=x.size).reshape(shape)
        unknown = bool(tokens.lengths.any() and not m.any())
        yield Sums(ALL, x.sum(axis=0), m.sum(axis=0), unknown)
        if self._known:
            yield Sums(CORRECT, x[1], m[1], unknown)
            yield Sums(WRONG, x[2], m[2], unknown)


def means(sums: Sums, column: str, prompts: Prompts) -> dict[str, object]:
    """Return the columns of a table that hold the mean of each bin, one row per bin."""
    interval = prompts.ratio(sums.x, sums.m)
    return {
        "group": sums.group,
        "column": column,
        "unit": UNITS[column],
        "n": sums.m.sum(axis=0),
        "n_prompts": interval.clusters,
        "value": interval.estimate,
        "value_low": interval.low,
        "value_high": interval.high,
        "reason": sums.why(interval.reason),
    }


def summary_table(checkpoint: str, tokens: TokenTable, rollouts: Rollouts) -> pl.DataFrame:
    """Average every column, for every group of rollouts."""
    parts = [
        result_table("score_summary", means(sums, column, rollouts.prompts), checkpoint=checkpoint)
        for column in COLUMNS
        for sums in rollouts.sums(tokens, column)
    ]
    return pl.concat(parts)
