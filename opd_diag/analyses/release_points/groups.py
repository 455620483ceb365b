"""Split rollouts into the groups that users ask for."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from opd_diag.stats.ragged import Integers, run_lengths, run_starts

SPLITS = ("policy", "step", "correct", "finish_reason")


class Group(NamedTuple):
    """Some of the rows of a frame.

    Attributes:
        split: `all`, or the column that splits the rows.
        name: The value of that column, `unknown` where it is missing.
        rows: Places of the rows that belong to the group, rising.
    """

    split: str
    name: str
    rows: Integers


def groups(frame: pl.DataFrame) -> Iterator[Group]:
    """Give all rows, then those of each value of each column that has two values or more."""
    yield Group("all", "all", np.arange(frame.height))
    for split in SPLITS:
        labels = frame[split].cast(pl.String).fill_null("unknown")
        code = labels.rank("dense").to_numpy()
        order = np.argsort(code, kind="stable")
        starts = run_starts(code[order])
        if len(starts) > 1:
            for start, size in zip(starts, run_lengths(starts, len(order)), strict=True):
                rows = order[start : start + size]
                yield Group(split, labels[int(rows[0])], rows)
