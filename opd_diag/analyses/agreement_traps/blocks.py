"""Work through many rollouts in blocks of tokens that stay in the cache of a core."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

BLOCK_TOKENS = 100_000


def blocks(lengths: npt.NDArray[np.int64]) -> Iterator[tuple[slice, slice]]:
    """Cut the rollouts into runs of few enough tokens: a slice of rollouts, one of tokens.

    A rollout is never cut. There is always a block, an empty one where there is no rollout.

    Args:
        lengths: Tokens of each rollout. Shape (rollouts,).
    """
    ends = np.concatenate([[0], np.cumsum(lengths)])
    start = 0
    while True:
        most = int(np.searchsorted(ends, ends[start] + BLOCK_TOKENS, side="right")) - 1
        stop = min(max(start + 1, most), lengths.size)
        yield slice(start, stop), slice(int(ends[start]), int(ends[stop]))
        if stop == lengths.size:
            return
        start = stop
