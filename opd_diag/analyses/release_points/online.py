"""The release rule as generation would meet it: after every segment, on the segments so far."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.release_points.options import Options, Rule
from opd_diag.analyses.release_points.points import TOO_FEW_SEGMENTS
from opd_diag.analyses.release_points.segments import Segments
from opd_diag.analyses.release_points.summary import Statistic, numbers, where
from opd_diag.stats.online_changepoints import first_alarms
from opd_diag.stats.ragged import starts_of

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

SHUFFLES = 4  # orders of the segments of each rollout


def online_stops(
    segments: Segments, rule: Rule, rng: np.random.Generator, *, token_weighted: bool = False
) -> pl.DataFrame:
    """Find after which segment the rule would have stopped each rollout.

    In a response of several turns every span is watched by itself, and the first alarm counts.

    Args:
        segments: Scored segments, the scores of one K.
        rule: What stops a rollout; fewest segments are those before the first look.
        rng: Where the orders of the shuffles come from.
        token_weighted: Weigh each segment by its tokens.

    Returns:
        One row per rollout: stop_segments, the segments read at the alarm, and stop_index, the
        tokens in the loss read then; null without one. stopped_up, whether the rule would have
        stopped it had the scores their signs changed; stopped_shuffled, the share of shuffles of
        its segments under which it would have.
    """
    spans = segments.by_span()
    score, lengths = spans.score[:, 0], spans.lengths
    weights = spans.tokens.astype(np.float64) if token_weighted else None

    def alarms(values: Floats, weights: Floats | None = weights) -> Integers:
        return first_alarms(
            values,
            lengths,
            threshold=rule.threshold,
            min_size=rule.min_size,
            min_length=rule.min_segments,
            weights=weights,
            statistic=rule.statistic,
        )

    rollouts = segments.lengths.size
    stop = alarms(score)
    stopped = np.flatnonzero(stop > 0)
    owner, first = np.unique(segments.owner[stopped], return_index=True)
    last = (starts_of(lengths) + stop - 1)[stopped[first]]  # segment that was read last
    read, index = np.full((2, rollouts), -1)
    read[owner] = last + 1 - starts_of(segments.lengths)[owner]
    index[owner] = (segments.before + segments.tokens)[last]

    def any_of(found: Integers) -> npt.NDArray[np.bool_]:
        return np.bincount(segments.owner[found > 0], minlength=rollouts) > 0

    chance = np.zeros(rollouts)
    series = np.repeat(np.arange(len(lengths)), lengths)
    for _ in range(SHUFFLES):
        order = np.lexsort((rng.random(len(score)), series))
        moved = None if weights is None else weights[order]
        chance += any_of(alarms(score[order], moved))
    seen = pl.Series(read > 0)
    return pl.DataFrame(
        {
            "stop_segments": pl.Series(read).set(~seen, None),
            "stop_index": pl.Series(index).set(~seen, None),
            "stopped_up": any_of(alarms(-score)),
            "stopped_shuffled": chance / SHUFFLES,
        }
    )


def online_statistics(points: pl.DataFrame, options: Options) -> list[Statistic]:
    """List what the rule would do while rollouts are generated, beside its false stops.

    Args:
        points: Release points of all rollouts, with what `online_stops` found of each.
        options: The choices.
    """
    able = points["reason"].fill_null("").to_numpy() != TOO_FEW_SEGMENTS
    k, threshold = options.k, options.rule.threshold
    read = numbers(points["stop_segments"])
    stopped = where(able, np.isfinite(read))
    up, chance = (
        where(able, numbers(points[f"stopped_{control}"])) for control in ("up", "shuffled")
    )
    accepted = points["accepted"].to_numpy()
    both = accepted & np.isfinite(read)
    delay = read - numbers(points["tau"])
    frac = numbers(points["stop_frac"])
    return [
        Statistic("stopped", "share", stopped, k, "rate", threshold),
        Statistic("stopped_up", "share", up, k, "rate", threshold),
        Statistic("stopped_shuffled", "share", chance, k, "rate", threshold),
        Statistic("stopped_minus_up", "share", stopped - up, k, "difference", threshold),
        Statistic("stopped_minus_shuffled", "share", stopped - chance, k, "difference", threshold),
        Statistic(
            "stopped_not_accepted", "share", where(stopped > 0, ~accepted), k, "rate", threshold
        ),
        Statistic("stop_saved", "share", where(able, 1 - np.nan_to_num(frac, nan=1.0)), k),
        Statistic("stop_delay", "segments", where(both, delay), k),
        Statistic(
            "stop_delay_frac", "share", where(both, frac - numbers(points["release_frac"])), k
        ),
    ]
