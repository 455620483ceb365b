"""From numbers of rollouts or tokens to estimates with intervals over prompts."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.stats import bootstrap
from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.cluster_averages import cluster_median
from opd_diag.stats.intervals import as_interval

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]


class Prompts:
    """Which rows belong to which prompt, with the seed and the strata of every interval.

    A row is a rollout or a token. Rows of one prompt resemble each other, so the bootstrap draws
    whole prompts: sum first (`sums`, `sums_and_counts`), then estimate from the sums.

    Attributes:
        count: Number of prompts.
        seed: Seed of every bootstrap.
        code: Prompt of each row, from 0 in the order of the labels. Shape (rows,).
    """

    def __init__(
        self, prompt: npt.ArrayLike | pl.Series, *, seed: int, strata: npt.ArrayLike | None = None
    ) -> None:
        """Take the prompt of each row.

        Args:
            prompt: Label of the prompt of each row, text or numbers. Shape (rows,).
            seed: Seed of every bootstrap.
            strata: Group of each prompt, in the order of the labels, shape (prompts,): prompts are
                drawn inside their group. None: one group.
        """
        if isinstance(prompt, pl.Series):
            code = prompt.rank("dense").to_numpy().astype(np.int64) - 1
        else:
            code = np.unique(np.asarray(prompt), return_inverse=True)[1].astype(np.int64)
        self.code = code
        self.count = int(code.max(initial=-1)) + 1
        self.seed = seed
        self._strata = None if strata is None else np.asarray(strata)
        self._whole: tuple[Prompts, Integers | None] | None = None

    def of_rows(self, code: Integers) -> "Prompts":
        """Take the same prompts and draws for other rows, such as one for each prompt and step.

        Args:
            code: Prompt of each row, as in `code`.
        """
        other: Prompts = object.__new__(Prompts)
        other.code, other.count, other.seed = code, self.count, self.seed
        other._strata, other._whole = self._strata, (self, None)
        return other

    def part(self, rows: npt.NDArray[np.bool_] | Integers) -> "Prompts":
        """Keep some of the rows; the prompts left share the bootstrap draws of all.

        Args:
            rows: A mask, shape (rows,), or places of rows.
        """
        part: Prompts = object.__new__(Prompts)
        members, part.code = np.unique(self.code[rows], return_inverse=True)
        part.count, part.seed = len(members), self.seed
        part._strata = None if self._strata is None else self._strata[members]
        part._whole = self, members
        return part

    def sums(self, values: npt.ArrayLike) -> Floats:
        """Sum over the rows of each prompt: (rows,) or (rows, k) to (prompts,) or (prompts, k)."""
        x = np.asarray(values, np.float64)
        if x.ndim == 1:
            return np.bincount(self.code, x, self.count).astype(np.float64)
        columns = [np.bincount(self.code, column, self.count) for column in x.T]
        return np.column_stack(columns) if columns else np.zeros((self.count, 0))

    def sums_and_counts(self, values: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Sum values and count them in each prompt, what is not finite left out of both."""
        x = np.asarray(values, np.float64)
        there = np.isfinite(x)
        return self.sums(np.where(there, x, 0)), self.sums(there)

    def mean(self, x: Floats) -> Interval:
        """Estimate the mean over prompts, each counting once. Shape (prompts, k)."""
        return self._estimate(bootstrap.mean, x)

    def ratio(self, x: Floats, m: Floats, *, log: bool = False) -> Interval:
        """Estimate sum x / sum m for each column, from `sums`. Shapes (prompts, k).

        `log` builds the interval on the log scale, for positive ratios with a skewed spread.
        """
        return self._estimate(bootstrap.ratio, x, m, log=log)

    def rate(self, x: Floats, m: Floats) -> Interval:
        """Estimate shares of things counted, with an interval at 0 and 1 too, as `ratio` does."""
        return self._estimate(bootstrap.rate, x, m)

    def difference(self, x: Floats, m: Floats, x0: Floats, m0: Floats) -> Interval:
        """Estimate sum x / sum m - sum x0 / sum m0 for each column. Shapes (prompts, k)."""
        return self._estimate(bootstrap.ratio_difference, x, m, x0, m0)

    def quotient(self, x: Floats, m: Floats, x0: Floats, m0: Floats) -> Interval:
        """Estimate (sum x / sum m) / (sum x0 / sum m0) for each column. Shapes (prompts, k)."""
        return self._estimate(bootstrap.ratio_of_ratios, x, m, x0, m0)

    def median(self, values: npt.ArrayLike) -> Interval:
        """Estimate the median over rows, those that are not finite left out; fields of shape ()."""
        y = np.asarray(values, np.float64)
        there = np.isfinite(y)
        code = self.code[there]
        return cluster_median(y[there], code, counts=self.draws[:, np.unique(code)])

    @cached_property
    def draws(self) -> npt.NDArray[np.uint16]:
        """How often each bootstrap draw holds each prompt, for statistics that are no ratio.

        Shape (draws, prompts); equal for equal prompts, so that statistics go draw by draw.
        """
        if self._whole is not None:
            whole, members = self._whole
            return whole.draws if members is None else whole.draws[:, members]
        return bootstrap.cluster_counts(self.count, seed=self.seed, strata=self._strata)

    def _estimate(
        self, estimator: Callable[..., Interval], *sums: Floats, **options: Any
    ) -> Interval:
        if not self.count:
            none = np.full(np.shape(sums[0])[1:], np.nan)
            return as_interval(none, none, none, np.zeros(none.shape, np.int64))
        return estimator(*sums, counts=self.draws, strata=self._strata, **options)


def select(interval: Interval, which: Any) -> Interval:
    """Take some of the statistics of an interval, by a slice, mask or list of places."""
    return Interval(*(field[which] for field in interval))


def join(intervals: list[Interval]) -> Interval:
    """Put the statistics of several intervals one after the other."""
    fields = zip(*(map(np.atleast_1d, interval) for interval in intervals), strict=True)
    return Interval(*(np.concatenate(field) for field in fields))
