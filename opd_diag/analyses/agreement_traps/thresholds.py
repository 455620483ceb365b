"""The threshold of every rollout: from all others at once, or in step order as in training."""

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.options import Options
from opd_diag.analyses.agreement_traps.rule import Flags, Floats, Integers, Values, least_means
from opd_diag.errors import TableError
from opd_diag.stats.quantiles import quantile_of_others

FEWEST_OTHERS = 20


class Thresholds:
    """Thresholds of every rollout, for any window and eta."""

    def __init__(
        self,
        kl: Values,
        lengths: Integers,
        breaks: Flags | None,
        prompt: Integers,
        rollouts: pl.DataFrame,
        options: Options,
    ) -> None:
        """Take the tokens whose minima make the thresholds.

        Args:
            kl: KL of every token, nat, one rollout after the other. Shape (tokens,).
            lengths: Tokens of each rollout. Shape (rollouts,).
            breaks: Whether others' text stands before a token. Shape (tokens,).
            prompt: Number of the prompt of each rollout, from 0. Shape (rollouts,).
            rollouts: One row per rollout, for their steps.
            options: Every choice.

        Raises:
            TableError: If steps are replayed and only some rollouts have one.
        """
        self._kl, self._lengths, self._prompt, self._options = kl, lengths, prompt, options
        self._breaks = breaks
        self._step = _steps(rollouts["step"]) if options.mode == "replay" else None
        self._least: dict[int, Floats] = {}

    def at(self, window: int, eta: float) -> tuple[Floats, Integers]:
        """Return the threshold of each rollout, nat, and how many minima it rests on."""
        options = self._options
        if isinstance(options.threshold, float):
            size = self._lengths.size
            return np.full(size, options.threshold), np.zeros(size, np.int64)
        if window not in self._least:
            self._least[window] = least_means(self._kl, self._lengths, window, self._breaks)
        least = self._least[window]
        if self._step is None:
            return from_others(least, self._prompt, eta=eta)
        return replayed(
            least,
            self._step,
            eta=eta,
            buffer=options.buffer,
            warmup_rollouts=options.warmup_rollouts,
            warmup_steps=options.warmup_steps,
            update=options.update,
        )


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
