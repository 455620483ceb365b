"""Split rollouts into the groups that users ask for."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

SPLITS = ("policy", "step", "correct", "finish_reason")


class Group(NamedTuple):
    """Some of the rows of a frame.

    Attributes:
        split: `all`, or the column that splits the rows.
        name: The value of that column, `unknown` where it is missing.
        rows: Which rows belong to the group. Shape (rows,).
    """

    split: str
    name: str
    rows: npt.NDArray[np.bool_]


def groups(frame: pl.DataFrame) -> Iterator[Group]:
    """Give all rows, then those of each value of each column that has two values or more."""
    yield Group("all", "all", np.ones(frame.height, np.bool_))
    for split in SPLITS:
        labels = frame[split].cast(pl.String).fill_null("unknown")
        values = labels.unique().sort()
        if len(values) > 1:
            for value in values:
                yield Group(split, value, (labels == value).to_numpy())
