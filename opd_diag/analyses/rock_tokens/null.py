"""Test whether a type's loss differs from that of other tokens of the same prompts."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from opd_diag.analyses.rock_tokens.occurrences import Occurrences
from opd_diag.analyses.rock_tokens.sums import Sums, per_prompt, total
from opd_diag.stats.permutation import drawn_p, permutation_moments

Floats: TypeAlias = npt.NDArray[np.float64]

EXACT_BELOW = 30  # occurrences under which a smooth law is not trusted for a p value
STRAIGHT = 1e-4  # skewness below which the law is normal


def lift_p(sums: Sums, occurrences: Occurrences, seed: int) -> tuple[Floats, Floats]:
    """Test for every type whether its lift differs from 1.

    The loss is permuted among the occurrences of each prompt, so a type is not called special
    for standing in hard prompts. Mean, variance and skewness of that permutation are known; the
    normal law would call too many types special after adjustment, for losses are skewed.

    Returns:
        Two-sided p, and p adjusted over all types (Benjamini-Hochberg); NaN where a type does
        not occur. Shape (types,).
    """
    n, x = sums.n[0], sums.x[0]
    size = per_prompt(n)
    observed = total(x)
    mean, variance = permutation_moments(n, size, per_prompt(x), per_prompt(sums.square))
    prompt = occurrences.rollout_prompt[occurrences.rollout[occurrences.at]]
    loss = occurrences.loss[0]
    p = skewed_p(
        observed, mean, variance, third_moment(n, size, _central_cubes(prompt, loss, size))
    )
    count = total(n)
    few = np.flatnonzero((count > 0) & (count < EXACT_BELOW))
    values = loss[np.argsort(prompt, kind="stable")]
    p[few] = drawn_p(n[:, few], observed[few], mean[few], values, size, seed=seed)
    p[count == 0] = np.nan
    adjusted = np.full(p.shape, np.nan)
    adjusted[count > 0] = stats.false_discovery_control(p[count > 0])
    return p, adjusted


def _central_cubes(
    prompt: npt.NDArray[np.int32], loss: npt.NDArray[np.float32], size: Floats
) -> Floats:
    """Sum the cubed distances from each prompt's mean. Shape (prompts,)."""
    average = np.bincount(prompt, loss, size.size) / np.maximum(size, 1)
    cubes = (loss - average[prompt]) ** 3
    return np.asarray(np.bincount(prompt, cubes, size.size), np.float64)


def third_moment(n: Any, size: Floats, cubes: Floats) -> Floats:
    """Give the third central moment of each type's sum under permutation inside prompts.

    Args:
        n: Occurrences of each type in each prompt. Sparse, shape (prompts, types).
        size: Occurrences of all types in each prompt. Shape (prompts,).
        cubes: Sum over them of the cubed distance from the prompt's mean.

    Source: sampling without replacement: n (N - n) (N - 2 n) / ((N - 1) (N - 2)) times the
        third central moment, summed over prompts (Cochran 1977, section 2.15).
    """
    each = cubes / np.maximum(size * (size - 1) * (size - 2), 1)
    square = n.multiply(n)
    found = n.T @ (each * size**2) - 3 * (square.T @ (each * size))
    return np.asarray(found + 2 * (square.multiply(n).T @ each))


def skewed_p(observed: Floats, mean: Floats, variance: Floats, third: Floats) -> Floats:
    """Give the two-sided p of sums by a gamma law of their first three moments.

    Returns:
        Chance to lie at least as far from the mean; 1 where the permutation cannot move a sum.
    """
    moved = variance > 1e-20 * np.maximum(mean**2, observed**2)
    spread = np.sqrt(np.where(moved, variance, 1))
    skew = np.where(moved, third, 0) / spread**3
    away = np.abs(observed - mean) / spread
    skew = np.where(np.abs(skew) < STRAIGHT, 0, skew)
    p = stats.pearson3.sf(away, skew) + stats.pearson3.cdf(-away, skew)
    return np.where(moved, np.minimum(p, 1), 1.0)
