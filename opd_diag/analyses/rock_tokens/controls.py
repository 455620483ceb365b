"""Give every rock a control: a type as frequent that is none."""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.stats.hashing import hashed_uniform
from opd_diag.stats.matching import match_nearest

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

CALIPER = 0.2  # log10 units
TINY = 1e-4


class Controls(NamedTuple):
    """Controls of the rocks.

    Attributes:
        rock: Types, best rank first. Shape (rocks,).
        control: Their controls, -1 where no type is near enough.
        distance: Difference of their log10 frequencies, NaN without control.
    """

    rock: Integers
    control: Integers
    distance: Floats


def match_controls(
    n: Floats,
    ranks: Integers,
    eligible: npt.NDArray[np.bool_],
    token_id: npt.NDArray[np.int32],
    *,
    top: int,
    next_ranks: bool,
    seed: int,
) -> Controls:
    """Find controls one to one, by log frequency, or the next ranks.

    Args:
        n: Occurrences of each type. Shape (types,).
        ranks: Rank of each type by R, from 1.
        eligible: Types that are ranked.
        token_id: Their ids, which with the seed decide between types as frequent.
        top: Rocks: ranks up to this one.
        next_ranks: Take ranks top + 1 to 2 top, as arXiv 2605.09253 does, at any distance.
        seed: Seed of ties.
    """
    order = np.argsort(ranks, kind="stable")[: int(eligible.sum())]
    rock, rest = order[:top], order[top:]
    control = np.full(rock.size, -1)
    if next_ranks:
        control[: rest[:top].size] = rest[:top]
    else:
        # A tiny second coordinate tells types as frequent apart: distances have to differ.
        tie = TINY * hashed_uniform(token_id, seed=seed)
        points = np.column_stack([np.log10(np.maximum(n, 1)), tie])
        found = match_nearest(points[rock], points[rest], [CALIPER, TINY])
        control[found.left] = rest[found.right]
    distance = np.abs(np.log10(n[rock]) - np.log10(np.maximum(n[control], 1)))
    return Controls(rock, control, np.where(control >= 0, distance, np.nan))
