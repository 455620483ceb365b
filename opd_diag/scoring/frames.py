"""Columns of a part: those that no model is needed for, and those that come from the models."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray

from opd_diag.scoring.batches import Part, Ragged
from opd_diag.scoring.repeat import repeats
from opd_diag.tables.columns.tokens import token_columns
from opd_diag.text.segments import segment_responses

Array = NDArray[np.generic]


def part_responses(responses: Ragged, part: Part) -> Ragged:
    """Return the responses of a part."""
    offsets = responses.offsets[part.start : part.stop + 1]
    return Ragged(responses.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def key_columns(
    table: pl.DataFrame, part: Part, responses: Ragged, vocab: pl.DataFrame, segmenter: str
) -> pl.DataFrame:
    """Make the columns of a part that are the same under every checkpoint, and `half`.

    Args:
        table: The rollouts.
        part: The part.
        responses: Its responses, as far as they are scored.
        vocab: The vocabulary table.
        segmenter: Name of the segmenter.
    """
    rollouts = table[part.start : part.stop]
    lengths = responses.lengths
    number = np.repeat(np.arange(part.start, part.stop), lengths)
    segments = segment_responses(
        [responses[i] for i in range(len(lengths))],
        vocab["bytes"].to_list(),
        vocab["is_special"].to_numpy(),
        segmenter=segmenter,
    )
    return pl.DataFrame(
        {
            "rollout": pl.Series(number, dtype=pl.UInt32),
            "position": pl.Series(
                np.arange(part.rows) - np.repeat(responses.offsets[:-1], lengths), dtype=pl.UInt32
            ),
            "token_id": responses.values,
            "segment": np.concatenate([np.empty(0, np.uint32), *segments]),
            "in_loss": flat(rollouts["loss_mask"], lengths).fill_null(True),
            "repeat": repeats(responses),
            "half": rollouts["half"].to_numpy()[number - part.start],
        }
    )


def flat(lists: pl.Series, lengths: NDArray[np.int64]) -> pl.Series:
    """Put the values of a column of lists one after the other, cut to what is scored.

    Args:
        lists: One list per rollout, as long as its response, or null.
        lengths: Number of tokens that are scored. Shape (rollouts,).

    Returns:
        One value per scored token, null where the list is.
    """
    assert isinstance(lists.dtype, pl.List)
    missing = pl.lit(None, dtype=lists.dtype.inner).repeat_by("length")
    rows = pl.DataFrame({"list": lists, "length": lengths}).filter(pl.col("length") > 0)
    cut = pl.col("list").list.head(pl.col("length")).fill_null(missing)
    return rows.select(cut.explode()).to_series()


def token_frame(
    keys: pl.DataFrame, columns: dict[str, Array], k_grid: Sequence[int]
) -> pl.DataFrame:
    """Join keys and measured columns; what is not finite becomes null.

    Args:
        keys: The columns that no model is needed for.
        columns: Measured columns, and `finite`.
        k_grid: The K of the array columns.
    """
    measured = pl.DataFrame({"finite": columns["finite"]})
    for column in token_columns(k_grid):
        if column.name in columns:
            values = pl.Series(column.name, columns[column.name])
            measured = measured.with_columns(values.cast(column.dtype))
    floats = cs.by_dtype(pl.Float32)
    measured = measured.select(
        pl.when("finite").then(~floats - cs.by_name("finite")),
        pl.when(pl.col("finite") & floats.is_finite()).then(floats),
    )
    names = [column.name for column in token_columns(k_grid)[1:]]
    return pl.concat([keys, measured], how="horizontal").select(names)
