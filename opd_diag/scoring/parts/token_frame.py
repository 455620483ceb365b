"""Columns of a part: those that no model is needed for, and those that come from the models."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray

from opd_diag.scoring.token_lists import Ragged
from opd_diag.tables.columns.tokens import token_columns
from opd_diag.tables.manifest import Part
from opd_diag.text.segments import segment_responses

Array = NDArray[np.generic]

LONGEST_REPEAT = 32


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
        inside=_masks(rollouts["loss_mask"], lengths),
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


def _masks(masks: pl.Series, lengths: NDArray[np.int64]) -> list[NDArray[np.bool_] | None] | None:
    """Return which scored tokens of each response are in the loss, None where all are."""
    if masks.null_count() == len(masks):
        return None
    return [
        None if mask is None else mask.to_numpy()[:length]
        for mask, length in zip(masks, lengths, strict=True)
    ]


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
            if column.dtype.is_integer():  # below 0: not known
                values = values.set(values < 0, None)
            measured = measured.with_columns(values.cast(column.dtype))
    floats, lists = cs.by_dtype(pl.Float32), cs.array()
    measured = measured.select(
        pl.when("finite").then(~floats - lists - cs.by_name("finite")),
        pl.when(pl.col("finite") & floats.is_finite()).then(floats),
        pl.when(pl.col("finite")).then(
            lists.arr.eval(pl.when(pl.element().is_finite()).then(pl.element()))
        ),
    )
    frame = pl.concat([keys, measured], how="horizontal")
    return frame.select(
        column.name
        if column.name in frame.columns
        else pl.lit(None, column.dtype).alias(column.name)
        for column in token_columns(k_grid)[1:]
    )


def repeats(responses: Ragged) -> NDArray[np.uint16]:
    """Return the length of the longest n-gram ending at each token that ended earlier too.

    Both n-grams lie in the same response and may overlap; n is at most 32.

    Args:
        responses: Token ids.

    Returns:
        One length for each token. Shape (tokens,).
    """
    ids = np.unique(responses.values, return_inverse=True)[1].astype(np.int64)
    response = np.repeat(np.arange(len(responses.lengths)), responses.lengths)
    position = np.arange(len(ids)) - responses.offsets[response]
    lengths = np.zeros(len(ids), np.uint16)
    # Ends of n-grams that occur at least twice, and a number for each such n-gram.
    ends = np.arange(len(ids))
    gram = response
    for n in range(1, LONGEST_REPEAT + 1):
        inside = position[ends] >= n - 1
        ends, gram = ends[inside], gram[inside]
        key = gram * (ids.max(initial=0) + 1) + ids[ends - n + 1]
        _, first, gram, count = np.unique(
            key, return_index=True, return_inverse=True, return_counts=True
        )
        again = np.ones(len(ends), np.bool_)
        again[first] = False
        lengths[ends[again]] = n
        twice = count[gram] > 1
        ends, gram = ends[twice], gram[twice]
        if not len(ends):
            break
    return lengths
