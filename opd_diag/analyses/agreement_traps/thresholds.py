"""The threshold of every rollout: from all others at once, or in step order as in training."""

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.stats.quantiles import quantile_of_others

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FEWEST_OTHERS = 20


def from_others(least: Floats, prompt: Integers, *, eta: float) -> tuple[Floats, Integers]:
    """Take the threshold from the rollouts of other prompts.

    Args:
        least: Least window mean of each rollout, nat; NaN where it has no window. Shape
            (rollouts,).
        prompt: Number of the prompt of each rollout, from 0. Shape (rollouts,).
        eta: Share of the minima above the threshold.

    Returns:
        Threshold of each rollout that has a minimum, NaN where fewer than 20 others have one,
        and how many have. Shapes (rollouts,).
    """
    known = np.isfinite(least)
    threshold, others = np.full(least.size, np.nan), np.zeros(least.size, np.int64)
    threshold[known], others[known] = quantile_of_others(least[known], prompt[known], share=1 - eta)
    threshold[others < FEWEST_OTHERS] = np.nan
    return threshold, others


def replayed(
    least: Floats,
    step: Integers,
    *,
    eta: float,
    buffer: int,
    warmup_rollouts: int,
    warmup_steps: int,
    update: str,
) -> tuple[Floats, Integers]:
    """Take the threshold from the buffer as it stood in training when the rollout's turn came.

    Rollouts come in the order of their steps, and inside a step in the order of their rows. Each
    leaves its minimum in a buffer that forgets the oldest; one without a window leaves nothing.
    Minima are of whole rollouts, as the dump holds them.

    Args:
        least: Least window mean of each rollout, nat; NaN where it has no window. Shape
            (rollouts,).
        step: Training step of each rollout. Shape (rollouts,).
        eta: Share of the minima above the threshold.
        buffer: Minima that the buffer holds.
        warmup_rollouts: Minima that must have come before the rule is active.
        warmup_steps: Steps after the first one before the rule is active.
        update: `step`: a rollout sees the minima of earlier steps; `rollout`: of all rollouts
            before it.

    Returns:
        Threshold of each rollout, NaN in the warm-up, and how many minima had come. Shapes
        (rollouts,).

    Source: arXiv 2606.09471, dynamic threshold.
    """
    order = np.argsort(step, kind="stable")
    ordered, turns = least[order], step[order]
    known = np.isfinite(ordered)
    come = np.cumsum(known) - known
    if update == "step":
        come = come[np.searchsorted(turns, turns)]
    rolling = pl.Series(ordered[known]).rolling_quantile(
        1 - eta, interpolation="linear", window_size=buffer, min_samples=1
    )
    active = (come >= max(warmup_rollouts, 1)) & (turns >= turns[:1] + warmup_steps)
    threshold, before = np.full(least.size, np.nan), np.zeros(least.size, np.int64)
    threshold[order[active]] = rolling.to_numpy()[come[active] - 1]
    before[order] = come
    return threshold, before
