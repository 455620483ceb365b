"""Test whether a type's loss differs from that of other tokens of the same prompts."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from opd_diag.analyses.rock_tokens.occurrences import Occurrences
from opd_diag.analyses.rock_tokens.sums import Sums, per_prompt, total
from opd_diag.stats.permutation import drawn_p, permutation_moments, skewed_p, third_moment

Floats: TypeAlias = npt.NDArray[np.float64]

EXACT_BELOW = 30  # occurrences under which a smooth law is not trusted for a p value


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
