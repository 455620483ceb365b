"""Tell the hardest fifth of the occurrences under each checkpoint, and whether they stay hard."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.analyses.rock_tokens.occurrences import Cells, Mask, Occurrences

Floats: TypeAlias = npt.NDArray[np.float64]

QUANTILE = 0.8


class Hardness(NamedTuple):
    """Which occurrences are hard.

    Attributes:
        tau: Loss from which an occurrence is hard, nat. Shape (checkpoints,).
        hard: Whether it reaches that, and is above 0. Shape (checkpoints, n).
    """

    tau: Floats
    hard: Mask


class StaysHard(NamedTuple):
    """Hard occurrences of types that occur twice or more in their prompt.

    Each field is a sum over cells of prompt and type; sparse, shape (prompts, types).

    Attributes:
        n: Hard occurrences under the first checkpoint.
        observed: Those of them that are hard under a later one.
        expected: How many would be, if that did not depend on the occurrence: of each one the share
            among the other occurrences of its type in its prompt.
    """

    n: Any
    observed: Any
    expected: Any


def find_hard(occurrences: Occurrences, tau: str = "own") -> Hardness:
    """Find the 80th percentile of the loss and what lies at or above it.

    Args:
        occurrences: Tokens and losses.
        tau: `own`: each checkpoint's own percentile; `first`: that of the first one for all.
    """
    loss = occurrences.loss
    taus = np.quantile(loss, QUANTILE, axis=1).astype(np.float64)
    if tau == "first":
        taus = np.full(taus.shape, taus[0])
    # Where four of five losses are 0, 0 is no hard one.
    return Hardness(taus, (loss >= taus[:, None]) & (loss > 0))


def within_types(cells: Cells, first: Mask, later: Mask) -> StaysHard:
    """Compare the hard occurrences of each type and prompt with the others there.

    Args:
        cells: Cells of prompt and type.
        first: Whether an occurrence is hard under the first checkpoint. Shape (n,).
        later: The same under a later one.
    """
    size = cells.kind.size
    n, hard, last, both = (
        np.bincount(cells.cell, values, size).astype(np.float64)
        for values in (None, first, later, first & later)
    )
    others = np.maximum(n - 1, 1)
    several = n > 1
    return StaysHard(
        *(
            cells.matrix(np.where(several, values, 0))
            for values in (hard, both, (hard * last - both) / others)
        )
    )
