"""From numbers of rollouts to estimates with intervals over prompts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from opd_diag.stats import bootstrap
from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.intervals import as_interval

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Prompts:
    """Which rollouts belong to which prompt, and intervals over prompts.

    Attributes:
        count: Number of prompts.
    """

    def __init__(self, prompt: Integers, *, seed: int) -> None:
        """Take the number of the prompt of each rollout, shape (rollouts,), and a seed."""
        self._order = np.argsort(prompt, kind="stable")
        names, self._starts = np.unique(prompt[self._order], return_index=True)
        self._seed = seed
        self.count = names.size

    def sums(self, values: npt.ArrayLike) -> Floats:
        """Sum over the rollouts of each prompt: (rollouts, k) to (prompts, k)."""
        x = np.asarray(values, np.float64)
        return np.add.reduceat(x[self._order], self._starts, axis=0) if self.count else x

    def ratio(self, x: Floats, m: Floats, *, log: bool = False) -> Interval:
        """Estimate sum x / sum m for each column, from `sums`. Shapes (prompts, k)."""
        return self._estimate(bootstrap.ratio, x, m, log=log)

    def difference(self, x: Floats, m: Floats, x0: Floats, m0: Floats) -> Interval:
        """Estimate sum x / sum m - sum x0 / sum m0 for each column. Shapes (prompts, k)."""
        return self._estimate(bootstrap.ratio_difference, x, m, x0, m0)

    def quotient(self, x: Floats, m: Floats, x0: Floats, m0: Floats) -> Interval:
        """Estimate (sum x / sum m) / (sum x0 / sum m0) for each column. Shapes (prompts, k)."""
        return self._estimate(bootstrap.ratio_of_ratios, x, m, x0, m0)

    def _estimate(
        self, estimator: Callable[..., Interval], *values: Floats, **options: Any
    ) -> Interval:
        if not self.count:
            none = np.full(values[0].shape[1], np.nan)
            return as_interval(none, none, none, np.zeros(none.size, np.int64))
        return estimator(*values, seed=self._seed, **options)


def columns(name: str, interval: Interval) -> dict[str, list[float | None]]:
    """Name an estimate and its two ends as columns, null where there is none."""
    parts = {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {key: nulls(value) for key, value in parts.items()}


def part(interval: Interval, which: slice) -> Interval:
    """Take some of the statistics."""
    estimate, low, high, clusters, reason = interval
    return Interval(estimate[which], low[which], high[which], clusters[which], reason[which])


def nulls(values: npt.ArrayLike) -> list[Any]:
    """Turn an array into a list with None in the place of NaN."""
    x = np.asarray(values, np.float64)
    return filled(np.isfinite(x), x)


def filled(known: npt.NDArray[np.bool_], values: npt.NDArray[Any]) -> list[Any]:
    """Turn an array into a list with None where the value is not known."""
    return [value if there else None for value, there in zip(values.tolist(), known, strict=True)]


def reasons(interval: Interval) -> list[str | None]:
    """Return the reason of each statistic, None where there is nothing to say."""
    return [str(reason) or None for reason in interval.reason]
