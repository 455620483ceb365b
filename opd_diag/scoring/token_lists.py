"""Lists of token ids of many lengths, in two arrays."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ragged:
    """Lists of token ids, one after the other.

    Attributes:
        values: All ids, int32.
        offsets: Where each list starts, and where the last one ends. Shape (lists + 1,), int64.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of every list."""
        return np.diff(self.offsets)


def ragged(lists: pl.Series) -> Ragged:
    """Turn a column of lists into one array."""
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(lists.list.len().to_numpy(), out=offsets[1:])
    return Ragged(lists.list.explode(empty_as_null=False).to_numpy(), offsets)
