"""Compare the outcomes of two arms on the same problems, with intervals over problems."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import ndtri
from scipy.stats import t

from opd_diag.analyses.prompts import Prompts
from opd_diag.stats.intervals import ENOUGH_CLUSTERS, FEW, FEWEST_CLUSTERS, TOO_FEW
from opd_diag.stats.p_values import sign_flip_p

Floats = npt.NDArray[np.float64]

POWER = 0.8
LEVEL = 0.05
ALIKE = "few problems differ: two were added for the interval"


class Estimate(NamedTuple):
    """An estimate with its interval over problems.

    Attributes:
        value: The estimate; NaN where there is none.
        low: Lower end of its 95 % interval; NaN where there is none.
        high: Upper end.
        p: Two-sided p of 0, NaN where it is not tested.
        reason: Why there is no interval, or what weakens it, or "".
    """

    value: float
    low: float
    high: float
    p: float
    reason: str

    def columns(self, name: str) -> dict[str, Any]:
        """Name the estimate and its ends, as columns of a table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    @property
    def smallest(self) -> float:
        """Difference that is shown in 80 % of studies with an interval as wide; NaN without one."""
        error = (self.high - self.low) / (2 * ndtri(1 - LEVEL / 2))
        return float(error * (ndtri(1 - LEVEL / 2) + ndtri(POWER)))


NONE = Estimate(np.nan, np.nan, np.nan, np.nan, "")


def share_right(correct: Floats, problem: npt.ArrayLike, *, seed: int) -> Estimate:
    """Estimate a share of responses.

    Args:
        correct: 1 where a response is right, else 0. Shape (responses,).
        problem: Problem of each, from 0. Shape (responses,).
        seed: Seed of the bootstrap.
    """
    prompts = Prompts(problem, seed=seed)
    if not prompts.count:
        return NONE
    found = prompts.rate(
        prompts.sums(correct)[:, None], prompts.sums(np.ones(len(correct)))[:, None]
    )
    low, high = (float(np.clip(end[0], 0, 1)) for end in (found.low, found.high))
    return Estimate(float(found.estimate[0]), low, high, np.nan, str(found.reason[0]))


def difference(one: Floats, other: Floats, weight: Floats, *, seed: int) -> Estimate:
    """Estimate a difference of two means that every problem has, weighted by its responses.

    The interval is Student's t over problems. Most problems differ by 0 and the others by a few
    steps: a bootstrap-t covered a difference of 0 in 90 to 93 % of studies of nothing.

    Args:
        one: Sum over the responses of each problem under the one arm. Shape (problems,).
        other: The same under the other arm.
        weight: Number of these responses, equal in both arms.
        seed: Seed of the flips.
    """
    there = weight > 0
    apart, n = (one - other)[there], weight[there]
    if not n.size:
        return NONE
    value = float(apart.sum() / n.sum())
    p = float(sign_flip_p(apart, seed=seed))
    effective = float(n.sum() ** 2 / np.square(n).sum())
    if effective < FEWEST_CLUSTERS:
        return Estimate(value, np.nan, np.nan, p, TOO_FEW)
    reason = FEW if effective < ENOUGH_CLUSTERS else ""
    if np.count_nonzero(apart) < FEWEST_CLUSTERS:
        return Estimate(value, *_with_pseudo_problems(apart / n.mean()), p, ALIKE)
    residual = apart - value * n
    error = np.sqrt(np.square(residual).sum() * n.size / (n.size - 1)) / n.sum()
    half = float(t.ppf(1 - LEVEL / 2, effective - 1) * error)
    return Estimate(value, value - half, value + half, p, reason)


def _with_pseudo_problems(apart: Floats) -> tuple[float, float]:
    """Give the interval of a mean of which fewer than five terms are not 0.

    Two problems are added: one that differs by as much as those that do, and one that does not.

    Source: Agresti and Min 2005, who add half a pair to each of four cells.
    """
    size = apart.size + 2
    differing = apart[apart != 0]
    typical = float(np.square(differing).mean()) if differing.size else 1.0
    middle = apart.sum() / size
    error = np.sqrt(((np.square(apart).sum() + typical) / size - middle**2) / size)
    half = t.ppf(1 - LEVEL / 2, apart.size - 1) * error
    return float(middle - half), float(middle + half)


def variance_saved(common: Floats, others: Floats) -> float:
    """Divide the variance of differences with other random numbers by that with common ones.

    Args:
        common: Difference of each problem with common random numbers. Shape (problems,).
        others: The same with other random numbers.
    """
    if common.size < 2 or not common.var() > 0:
        return float("nan")
    return float(others.var() / common.var())


def disagreement(rollouts: pl.DataFrame) -> float | None:
    """Estimate how often two responses to one problem differ in being right.

    Args:
        rollouts: Columns `prompt_id` and `correct`.

    Returns:
        The mean over prompts with two or more known outcomes; None without such prompts.
    """
    known = rollouts.drop_nulls("correct").group_by("prompt_id")
    counts = known.agg(n=pl.len().cast(pl.Float64), right=pl.col("correct").sum())
    counts = counts.filter(pl.col("n") > 1)
    if counts.is_empty():
        return None
    n, right = counts["n"].to_numpy(), counts["right"].to_numpy()
    return float((2 * right * (n - right) / (n * (n - 1))).mean())


def smallest_before(exposure: float, disagree: float, problems: int, samples: int) -> float:
    """Say before a study which difference it would show in 80 % of such studies.

    Only exposed responses can differ between an arm and the same without its ban, and of them, if
    the ban does nothing, as many as two responses to one problem differ.

    Args:
        exposure: Share of the responses that can differ.
        disagree: How often two responses to a problem differ in being right.
        problems: Number of problems.
        samples: Responses of each problem.

    Returns:
        The difference, a share.
    """
    error = np.sqrt(exposure * disagree / (samples * problems))
    return float(error * (ndtri(1 - LEVEL / 2) + ndtri(POWER)))
