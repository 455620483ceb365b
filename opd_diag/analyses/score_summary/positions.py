"""The table `score_positions`: the divergences along the response."""

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.score_summary.sums import DIVERGENCES, Rollouts, means
from opd_diag.analyses.tables import result_table
from opd_diag.analyses.tokens import TokenTable, bin_width

RELATIVE_BINS = 10
ABSOLUTE_BINS = 16


def positions_table(
    checkpoint: str, tokens: TokenTable, rollouts: Rollouts, longest: int
) -> pl.DataFrame:
    """Average the divergences over bins of relative and absolute position.

    Places are counted in tokens in the loss, so that what tools and users wrote moves none.

    Args:
        checkpoint: Name of the checkpoint.
        tokens: Tokens in the loss. Relative position counts these alone.
        rollouts: Their rollouts.
        longest: Tokens of the longest response, in the loss or not.
    """
    width = bin_width(longest, ABSOLUTE_BINS)

    def relative(batch: pl.DataFrame) -> npt.NDArray[np.int64]:
        bins = pl.col("index") * RELATIVE_BINS // pl.col("n_tokens")
        return batch.select(bins.cast(pl.Int64)).to_series().to_numpy()

    def absolute(batch: pl.DataFrame) -> npt.NDArray[np.int64]:
        return batch["index"].to_numpy().astype(np.int64) // width

    axes = (
        ("relative", RELATIVE_BINS, relative, 1 / RELATIVE_BINS),
        ("absolute", ABSOLUTE_BINS, absolute, float(width)),
    )
    parts = []
    for column in DIVERGENCES:
        for axis, bins, place, size in axes:
            starts = np.arange(bins) * size
            for sums in rollouts.sums(tokens, column, bins, place):
                values = means(sums, column, rollouts.prompts) | {
                    "axis": axis,
                    "bin": np.arange(bins),
                    "start": starts,
                    "end": starts + size,
                }
                parts.append(result_table("score_positions", values, checkpoint=checkpoint))
    return pl.concat(parts).filter(pl.col("n") > 0)
