"""Part the rollouts of a run by what their dump tells: its groups, and what training dropped."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

GROUP, TRAINED = "group", "trained"
UNKNOWN, OTHERS = "unknown", "others"
MOST = 40  # groups of their own


class Parts(NamedTuple):
    """The parts that one column makes of the rollouts: every rollout is in one of them.

    Attributes:
        split: `group`, or `trained`.
        names: Names of the parts: groups by their number of rollouts, most first; `kept` and
            `dropped`; `unknown` where the dump does not tell.
        code: Number of the part of each rollout. Shape (rollouts,).
    """

    split: str
    names: list[str]
    code: npt.NDArray[np.int64]

    @property
    def titles(self) -> list[str]:
        """Names of the parts for a table that holds other groups too, such as `group: math`."""
        return [f"{self.split}: {name}" for name in self.names]

    def members(self) -> npt.NDArray[np.bool_]:
        """Tell which rollouts each part holds. Shape (rollouts, parts)."""
        return np.asarray(self.code[:, None] == np.arange(len(self.names)))


def parts_of(rollouts: pl.DataFrame) -> Iterator[Parts]:
    """Give the parts of the rollouts, where there are two or more.

    Args:
        rollouts: With the columns `group` and `trained`.
    """
    trained = rollouts[TRAINED].replace_strict(
        [True, False, None], ["kept", "dropped", UNKNOWN], return_dtype=pl.String
    )
    for split, labels in ((GROUP, rollouts[GROUP].fill_null(UNKNOWN)), (TRAINED, trained)):
        names = labels.value_counts(sort=True).sort("count", split, descending=[True, False])
        known = names[split].to_list()
        if len(known) < 2:
            continue
        if len(known) > MOST:
            labels = labels.replace(known[MOST - 1 :], OTHERS)
            known = [*known[: MOST - 1], OTHERS]
        code = labels.replace_strict(known, list(range(len(known))), return_dtype=pl.Int64)
        yield Parts(split, known, code.to_numpy())
