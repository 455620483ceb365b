"""The table `release_points`: the downward shift of every rollout, and whether it is accepted."""

from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.release_points.groups import SPLITS
from opd_diag.analyses.release_points.options import Rule
from opd_diag.analyses.release_points.segments import Segments
from opd_diag.analyses.tables import result_table
from opd_diag.stats.changepoints import Shifts, recoveries, reverse_around_lines, scan_shifts
from opd_diag.stats.ragged import run_starts, starts_of
from opd_diag.tables.columns.release_points import LINE_SEGMENTS

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

FLAT = 1e-6
TOO_FEW_SEGMENTS = "too few segments"
IS_FLAT = "flat"
NO_SPLIT = "no downward split"

DOWN = ("gain", "cusum", "mean_before", "mean_after")
UP = ("gain_up", "cusum_up", "autocorrelation")


def judge(segments: Segments, k: int, rule: Rule, *, token_weighted: bool = False) -> pl.DataFrame:
    """Apply the rule to every rollout.

    In a response of several turns every span is scanned by itself: what a tool or a user wrote
    between two of them may move the teacher's margin, which is no release. The rollout is released
    at the first of its spans that is.

    Args:
        segments: Scored segments.
        k: Which column of the scores.
        rule: What is accepted.
        token_weighted: Weigh each segment by its tokens.

    Returns:
        One row per rollout: n_segments, tau, gain, gain_up, cusum, cusum_up, gain_over_line,
        gain_over_line_reversed, recovery, step_beats_line, autocorrelation, mean_before,
        mean_after, accepted, accepted_up, reason, release_token, release_index.
    """
    if segments.spans.size == segments.lengths.size:
        return _judge(segments, k, rule, token_weighted=token_weighted)
    return _one_a_rollout(
        _judge(segments.by_span(), k, rule, token_weighted=token_weighted), segments, rule
    )


def _one_a_rollout(spans: pl.DataFrame, segments: Segments, rule: Rule) -> pl.DataFrame:
    """Join the verdicts on the spans of each rollout to one.

    The place and the sizes of the shift are those of the first span that is released, else of the
    largest one found. What the shift is held against must not be chosen by it: shifts upward are
    the largest of all spans, as those downward are, and the line is that of the longest span.
    """
    gain = "gain" if rule.statistic == "bic" else "cusum"
    before = starts_of(segments.spans) - starts_of(segments.lengths)[segments.owner]
    frame = spans.with_columns(
        owner=segments.owner, before=before, size=pl.col("n_segments"), tau=pl.col("tau") + before
    )
    largest = pl.col(gain).fill_null(float("-inf")).arg_max()
    first = pl.col("accepted").cast(pl.UInt8).arg_max()
    longest = pl.col("size").arg_max()
    shift = ("tau", *DOWN, "accepted", "reason", "release_token", "release_index")
    line = (
        *("gain_over_line", "gain_over_line_reversed", "recovery"),
        *("step_beats_line", "autocorrelation"),
    )
    chosen = (
        pl.when(pl.col("accepted").any())
        .then(first)
        .when(pl.col(gain).is_not_null().any())
        .then(largest)
        .otherwise(longest)
    )
    upward = [name for name in UP if name != "autocorrelation"]
    joined = frame.group_by("owner", maintain_order=True).agg(
        pl.col("n_segments").sum(),
        *(pl.col(name).get(chosen) for name in shift),
        *(pl.col(name).get(longest) for name in line),
        *(pl.col(name).max() for name in upward),
        pl.col("accepted_up").any(),
    )
    return joined.select(name for name in spans.columns)


def _judge(segments: Segments, k: int, rule: Rule, *, token_weighted: bool) -> pl.DataFrame:
    """Apply the rule to series of segments, one row for each."""
    score, lengths = np.ascontiguousarray(segments.score[:, k]), segments.lengths
    weights = segments.tokens.astype(np.float64) if token_weighted else None
    scan = partial(scan_shifts, min_size=rule.min_size, statistic=rule.statistic)
    shifts = scan(score, lengths, weights=weights)
    few = lengths < rule.min_segments
    flat = ~few & np.asarray(_range(score, lengths) < FLAT)
    able = ~few & ~flat
    tau = np.where(able, shifts.tau, -1)
    split = tau > 0
    accepted = split & (compared(shifts, rule) > rule.threshold)
    accepted_up = able & (compared(shifts, rule, up=True) > rule.threshold)
    long_enough = able & (lengths >= LINE_SEGMENTS)
    over_line = np.where(long_enough, shifts.gain_over_line, np.nan)
    turned, recovered = np.full((2, len(lengths)), np.nan)
    if long_enough.any():
        own = score[np.repeat(long_enough, lengths)]
        sizes = lengths[long_enough]
        backwards = reverse_around_lines(own, sizes)
        turned[long_enough] = scan(backwards, sizes).gain_over_line
        if token_weighted:  # both sides of the comparison without weights
            over_line[long_enough] = scan(own, sizes).gain_over_line
        recovered[long_enough] = recoveries(own, sizes, tau[long_enough])
    cut = np.where(accepted, starts_of(lengths) + tau, 0)
    at = {"release_token": segments.position, "release_index": segments.before}
    frame = pl.DataFrame(
        {
            "n_segments": lengths,
            "tau": pl.Series(tau).set(pl.Series(~split), None),
            **_where(split, {name: getattr(shifts, name) for name in DOWN}),
            **_where(able, {name: getattr(shifts, name) for name in UP}),
            "gain_over_line": over_line,
            "gain_over_line_reversed": turned,
            "recovery": recovered,
            "step_beats_line": _beats_line(shifts, split),
            "accepted": accepted,
            "accepted_up": accepted_up,
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


def compared(shifts: Shifts, rule: Rule, *, up: bool = False) -> Floats:
    """Give what the rule compares with its threshold, NaN where there is no shift."""
    if rule.statistic == "bic":
        return shifts.gain_up if up else shifts.gain
    return shifts.cusum_up if up else shifts.cusum


def shuffled_shifts(
    score: Floats,
    lengths: Integers,
    weights: Floats | None,
    rule: Rule,
    *,
    repeats: int,
    rng: np.random.Generator,
    owner: Integers | None = None,
) -> Floats:
    """Find the downward shifts after shuffling the segments inside each rollout.

    Args:
        score: Segment scores, one rollout after the other.
        lengths: Segments of each rollout.
        weights: Weight of each segment, or None.
        rule: Gives the fewest segments on a side, and what is compared.
        repeats: Shuffles of each rollout.
        rng: Where the order comes from.
        owner: Rollout of each series, rising, where several are one rollout's spans; None: one
            each.

    Returns:
        What the rule compares with its threshold, NaN where there is no downward split. Of the
        spans of a rollout the largest. Shape (repeats, rollouts).
    """
    series = np.repeat(np.arange(len(lengths)), lengths)
    values = []
    for _ in range(repeats):
        order = np.lexsort((rng.random(len(score)), series))
        moved = None if weights is None else weights[order]
        shifts = scan_shifts(
            score[order],
            lengths,
            min_size=rule.min_size,
            weights=moved,
            statistic=rule.statistic,
        )
        values.append(compared(shifts, rule))
    drawn = np.array(values)
    if owner is None or not len(owner):
        return drawn
    return np.asarray(np.fmax.reduceat(drawn, run_starts(owner), axis=1))


def complete(
    judged: pl.DataFrame, rollouts: pl.DataFrame, watched: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Give every rollout its row, also those without a token in the loss.

    Args:
        judged: What `judge` gives, with `row` and `n_tokens`.
        rollouts: All rollouts, with the columns of the splits.
        watched: What `scan` keeps under this name; None where it is not wanted.

    Returns:
        The columns of `points_table`, and `kept`: tokens in the loss before the release point.
    """
    known = rollouts.select("rollout", "prompt_id", *SPLITS).with_row_index("row")
    frame = known.join(judged, on="row", how="left", maintain_order="left")
    if watched is not None:
        frame = frame.join(watched, on="row", how="left", maintain_order="left").with_columns(
            stop_frac=pl.col("stop_index") / pl.col("n_tokens")
        )
    none = pl.col("n_tokens").is_null()
    return frame.with_columns(
        pl.col("n_tokens", "n_segments").fill_null(0),
        pl.col("accepted", "accepted_up").fill_null(value=False),
        reason=pl.when(none).then(pl.lit(TOO_FEW_SEGMENTS)).otherwise("reason"),
        release_frac=pl.col("release_index") / pl.col("n_tokens"),
        scale=(pl.col("n_tokens") / pl.col("release_index")).fill_null(1.0),
        kept=pl.coalesce("release_index", "n_tokens").fill_null(0),
    )


def points_table(checkpoint: str, points: pl.DataFrame) -> pl.DataFrame:
    """Make `release_points` of what `complete` gives."""
    return result_table(
        "release_points",
        points.drop(
            *("row", "release_index", "kept", "accepted_up"),
            *("stop_index", "stopped_up", "stopped_shuffled"),
        ),
        checkpoint=checkpoint,
    )


def _where(there: npt.NDArray[np.bool_], columns: dict[str, Floats]) -> dict[str, Floats]:
    return {name: np.where(there, values, np.nan) for name, values in columns.items()}


def _beats_line(shifts: Shifts, split: npt.NDArray[np.bool_]) -> pl.Series:
    return pl.Series(shifts.gain_over_line > 0).set(pl.Series(~split), None)


def _range(score: Floats, lengths: Integers) -> Floats:
    """Give maximum minus minimum of each rollout's scores, 0 without any."""
    spread = np.zeros(len(lengths))
    some = lengths > 0
    if some.any():
        starts = starts_of(lengths)[some]
        spread[some] = np.maximum.reduceat(score, starts) - np.minimum.reduceat(score, starts)
    return spread
