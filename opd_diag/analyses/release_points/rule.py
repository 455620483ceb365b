"""Score segments and find the release point of every rollout."""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.release_points.batches import run_starts
from opd_diag.stats.changepoints import Shifts, scan_shifts

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

FLAT = 1e-6
TOO_FEW_SEGMENTS = "too few segments"
IS_FLAT = "flat"
NO_SPLIT = "no downward split"


class Rule(NamedTuple):
    """When a downward shift is a release point.

    Attributes:
        min_size: Fewest segments on each side.
        min_segments: Fewest segments of a rollout.
        threshold: The BIC gain, in nat, that has to be exceeded.
    """

    min_size: int
    min_segments: int
    threshold: float


# The paper's rule accepts most noise of few segments: two or three fit perfectly.
PRESETS = {"paper": Rule(1, 4, 0.0), "opd-diag": Rule(3, 8, 6.0)}


class Segments(NamedTuple):
    """Segments with a scored token in the loss, by rollout and place.

    Attributes:
        lengths: Segments of each rollout. Shape (rollouts,).
        score: log(1 + mean margin), one column for each K. Shape (segments, K).
        tokens: Tokens in the loss. Shape (segments,).
        position: Position of the first of them in the response.
        before: The rollout's tokens in the loss before it.
    """

    lengths: Integers
    score: Floats
    tokens: Integers
    position: Integers
    before: Integers


def score_segments(
    row: Integers,
    segment: Integers,
    position: Integers,
    before: Integers,
    margins: Floats,
    rows: int,
) -> Segments:
    """Average margins over segments; a segment without any margin is left out.

    Args:
        row: Rollout of each token, rising, below `rows`. Shape (tokens,).
        segment: Its segment.
        position: Its position in the response.
        before: Tokens in the loss before it in its rollout.
        margins: Its margin for each K in nat, NaN where not measured. Shape (tokens, K).
        rows: Number of rollouts.

    Source: arXiv 2605.13643, segment score with K = 4: log1p after the mean.
    """
    if not len(row):
        empty = np.zeros(0, np.int64)
        no_scores = np.zeros((0, margins.shape[1]))
        return Segments(np.zeros(rows, np.int64), no_scores, empty, empty, empty)
    starts = run_starts(row, segment)
    measured = np.logical_and.reduce(np.isfinite(margins), axis=1)
    if measured.all():
        known = np.diff(np.append(starts, len(row)))
        total = np.add.reduceat(margins, starts, axis=0)
    else:
        known = np.add.reduceat(measured.astype(np.int64), starts)
        total = np.add.reduceat(np.where(measured[:, None], margins, 0), starts, axis=0)
    kept = np.flatnonzero(known)
    size = np.diff(np.append(starts, len(row)))
    return Segments(
        np.bincount(row[starts[kept]], minlength=rows),
        np.log1p(total[kept] / known[kept, None]),
        size[kept],
        position[starts[kept]],
        before[starts[kept]],
    )


def judge(segments: Segments, k: int, rule: Rule, *, token_weighted: bool = False) -> pl.DataFrame:
    """Apply the rule to every rollout.

    Args:
        segments: Scored segments.
        k: Which column of the scores.
        rule: What is accepted.
        token_weighted: Weigh each segment by its tokens.

    Returns:
        One row per rollout: n_segments, tau, gain, gain_up, step_beats_line, autocorrelation,
        mean_before, mean_after, accepted, reason, release_token, release_index.
    """
    score, lengths = np.ascontiguousarray(segments.score[:, k]), segments.lengths
    weights = segments.tokens.astype(np.float64) if token_weighted else None
    found = scan_shifts(score, lengths, min_size=rule.min_size, weights=weights)
    few = lengths < rule.min_segments
    flat = ~few & np.asarray(_range(score, lengths) < FLAT)
    able = ~few & ~flat
    tau = np.where(able, found.tau, -1)
    split = tau > 0
    gain = np.where(split, found.gain, np.nan)
    accepted = split & (gain > rule.threshold)
    cut = np.where(accepted, np.cumsum(lengths) - lengths + tau, 0)
    at = {"release_token": segments.position, "release_index": segments.before}
    frame = pl.DataFrame(
        {
            "n_segments": lengths,
            "tau": pl.Series(tau).set(pl.Series(~split), None),
            "gain": gain,
            **_where(able, {"gain_up": found.gain_up, "autocorrelation": found.autocorrelation}),
            **_where(split, {"mean_before": found.mean_before, "mean_after": found.mean_after}),
            "step_beats_line": _beats_line(found, split),
            "accepted": accepted,
            "reason": np.select(
                [few, flat, ~split], [TOO_FEW_SEGMENTS, IS_FLAT, NO_SPLIT], default=""
            ),
            **{
                name: pl.Series(np.append(values, 0)[cut]).set(pl.Series(~accepted), None)
                for name, values in at.items()
            },
        }
    )
    return frame.with_columns(pl.col("reason").replace("", None), pl.col(pl.Float64).fill_nan(None))


def shuffled_gains(
    score: Floats,
    lengths: Integers,
    weights: Floats | None,
    rule: Rule,
    *,
    repeats: int,
    rng: np.random.Generator,
) -> Floats:
    """Find the downward gains after shuffling the segments inside each rollout.

    Args:
        score: Segment scores, one rollout after the other.
        lengths: Segments of each rollout.
        weights: Weight of each segment, or None.
        rule: Gives the fewest segments on a side.
        repeats: Shuffles of each rollout.
        rng: Where the order comes from.

    Returns:
        Gains in nat, NaN where there is no downward split. Shape (repeats, rollouts).
    """
    owner = np.repeat(np.arange(len(lengths)), lengths)
    gains = []
    for _ in range(repeats):
        order = np.lexsort((rng.random(len(score)), owner))
        moved = None if weights is None else weights[order]
        gains.append(scan_shifts(score[order], lengths, min_size=rule.min_size, weights=moved).gain)
    return np.array(gains)


def _where(there: npt.NDArray[np.bool_], columns: dict[str, Floats]) -> dict[str, Floats]:
    return {name: np.where(there, values, np.nan) for name, values in columns.items()}


def _beats_line(found: Shifts, split: npt.NDArray[np.bool_]) -> pl.Series:
    return pl.Series(found.gain_over_line > 0).set(pl.Series(~split), None)


def _range(score: Floats, lengths: Integers) -> Floats:
    """Find maximum minus minimum of each rollout's scores, 0 without any."""
    spread = np.zeros(len(lengths))
    some = lengths > 0
    if some.any():
        starts = (np.cumsum(lengths) - lengths)[some]
        spread[some] = np.maximum.reduceat(score, starts) - np.minimum.reduceat(score, starts)
    return spread
