"""The table `release_example`: one rollout segment by segment."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from opd_diag.analyses.release_points.segments import Segments
from opd_diag.analyses.tables import result_table


def choose_example(points: pl.DataFrame) -> int | None:
    """Choose the accepted rollout whose gain is nearest to their median.

    Returns:
        Its row; if none is accepted, that of the most segments; None without any segment.
    """
    rows = points.with_row_index("place")
    accepted = rows.filter("accepted")
    if accepted.height:
        away = (pl.col("gain") - pl.col("gain").median()).abs()
        return int(accepted.sort(away, "place")["place"][0])
    some = rows.filter(pl.col("n_segments") > 0)
    longest = some.sort("n_segments", "place", descending=[True, False])
    return int(longest["place"][0]) if longest.height else None


def example_table(
    checkpoint: str,
    point: dict[str, Any],
    segments: Segments,
    k: int,
    spelled: Sequence[bytes] | None,
) -> pl.DataFrame:
    """Describe every segment of one rollout.

    Args:
        checkpoint: Name of the checkpoint.
        point: The rollout's row of `release_points`.
        segments: Its scored segments.
        k: Which column of the scores.
        spelled: What each token of its response spells; None where that is unknown.
    """
    count = len(segments.score)
    place = np.arange(count)
    tau = point["tau"]
    fitted: list[float | None] = [None] * count
    if tau is not None:
        fitted = [point["mean_before"]] * tau + [point["mean_after"]] * (count - tau)
    return result_table(
        "release_example",
        {
            "segment": place,
            "first_token": segments.position,
            "n_tokens": segments.tokens,
            "text": _texts(segments.position.tolist(), spelled),
            "score": segments.score[:, k],
            "fitted": pl.Series(fitted, dtype=pl.Float64),
            "kept": place < (tau if point["accepted"] else count),
        },
        checkpoint=checkpoint,
        rollout=point["rollout"],
    )


def _texts(starts: Sequence[int], spelled: Sequence[bytes] | None) -> pl.Series:
    if spelled is None:
        return pl.Series([None] * len(starts), dtype=pl.String)
    stops = [*starts[1:], len(spelled)]
    texts = [b"".join(spelled[a:b]) for a, b in zip(starts, stops, strict=True)]
    return pl.Series([text.decode("utf-8", errors="backslashreplace") for text in texts])
