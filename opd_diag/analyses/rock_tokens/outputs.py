"""Count rocks in every rollout, and the hard tokens that are none."""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.analyses.rock_tokens.occurrences import Occurrences

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

EVENT = 0.95


class OutputCounts(NamedTuple):
    """Counts and sums of each rollout. Shape (rollouts,).

    Attributes:
        n: Occurrences.
        rocks: Those of a rock type.
        loss: Summed loss, nat.
        rock_loss: That of rock types.
        events: Occurrences whose loss is in the top 5 % of the run.
        other_events: Those of them that are no rock.
    """

    n: Floats
    rocks: Floats
    loss: Floats
    rock_loss: Floats
    events: Floats
    other_events: Floats


def output_counts(occurrences: Occurrences, is_rock: Mask) -> OutputCounts:
    """Count each rollout's rocks and events under the first checkpoint."""
    rollout = occurrences.rollout[occurrences.at]
    rock = is_rock[occurrences.kind[occurrences.at]]
    loss = occurrences.loss[0].astype(np.float64)
    event = occurrences.loss[0] >= np.quantile(occurrences.loss[0], EVENT)

    def count(weights: npt.NDArray[np.generic] | None = None) -> Floats:
        size = occurrences.rollout_id.size
        return np.bincount(rollout, weights, size).astype(np.float64)

    return OutputCounts(
        n=count(),
        rocks=count(rock),
        loss=count(loss),
        rock_loss=count(loss * rock),
        events=count(event),
        other_events=count(event & ~rock),
    )


def choose_example(counts: OutputCounts) -> int:
    """Choose the rollout whose share of rocks is nearest to the median; the first of equals."""
    share = counts.rocks / np.maximum(counts.n, 1)
    away = np.abs(share - np.median(share[counts.n > 0]))
    return int(np.argmin(np.where(counts.n > 0, away, np.inf)))
