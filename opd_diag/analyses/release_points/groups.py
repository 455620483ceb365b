"""Split rollouts into the groups that users ask for.

Groups of too few prompts for an interval may be many, such as training steps of one rollout each.
They are summed all at once, without a bootstrap: cost grows with rollouts, not with groups.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.intervals import FEWEST_CLUSTERS, TOO_FEW
from opd_diag.stats.ragged import Integers, run_lengths, run_starts

SPLITS = ("policy", "step", "correct", "finish_reason", "group", "trained")


class Group(NamedTuple):
    """Some of the rows of a frame.

    Attributes:
        split: `all`, or the column that splits the rows.
        name: The value of that column, `unknown` where it is missing.
        rows: Places of the rows that belong to the group.
    """

    split: str
    name: str
    rows: Integers


class SmallGroups(NamedTuple):
    """All groups of one column with fewer than 5 prompts.

    Attributes:
        split: The column.
        names: Its values.
        rows: Places of the rows of all these groups, one group after the other, and one prompt
            after the other in each.
        pairs: Where in `rows` each pair of a group and a prompt starts.
        firsts: Which pair is the first of each group.
    """

    split: str
    names: npt.NDArray[np.str_]
    rows: Integers
    pairs: Integers
    firsts: Integers

    def sums(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum values of rows over each group. Shape (rows, ...) to (groups, ...)."""
        return np.add.reduceat(values[self.rows], self.pairs[self.firsts], axis=0)

    def prompts(self, counts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Count the prompts with data in each group. Shape (rows, ...) to (groups, ...)."""
        of_pairs = np.add.reduceat(counts[self.rows], self.pairs, axis=0) > 0
        return np.add.reduceat(of_pairs.astype(np.int64), self.firsts, axis=0)

    def members(self) -> Iterator[Integers]:
        """Give the rows of each group."""
        yield from np.split(self.rows, self.pairs[self.firsts][1:])


def no_interval(estimate: npt.NDArray[np.float64], prompts: npt.NDArray[np.int64]) -> Interval:
    """Give estimates of small groups the reason why there is no interval. Flat, in C order."""
    nothing = np.full(estimate.size, np.nan)
    reason = np.full(estimate.size, TOO_FEW)
    return Interval(estimate.ravel(), nothing, nothing, prompts.ravel(), reason)


def groups(frame: pl.DataFrame, prompt: Integers) -> Iterator[Group | SmallGroups]:
    """Give all rows, then those of each value of each column that has two values or more.

    Args:
        frame: Rows with the columns of the splits.
        prompt: Prompt of each row.
    """
    yield Group("all", "all", np.arange(frame.height))
    for split in SPLITS:
        labels = frame[split].cast(pl.String).fill_null("unknown")
        code = labels.rank("dense").to_numpy().astype(np.int64)
        order = np.lexsort((prompt, code))
        pairs = run_starts(code[order], prompt[order])
        firsts = run_starts(code[order][pairs])
        if len(firsts) < 2:
            continue
        sizes = run_lengths(firsts, len(pairs))
        starts = pairs[firsts]
        lengths = run_lengths(starts, len(order))
        names = labels.to_numpy()[order[starts]]
        small = sizes < FEWEST_CLUSTERS
        for place in np.flatnonzero(~small):
            rows = order[starts[place] : starts[place] + lengths[place]]
            yield Group(split, str(names[place]), np.sort(rows))
        if small.any():
            kept = order[np.repeat(small, lengths)]
            kept_pairs = run_starts(code[kept], prompt[kept])
            kept_firsts = run_starts(code[kept][kept_pairs])
            yield SmallGroups(split, names[small], kept, kept_pairs, kept_firsts)
