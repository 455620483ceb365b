"""Give every rock a control: a type as frequent that is none."""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.stats.matching import match_nearest

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

CALIPER = 0.2  # log10 units


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
    top: int,
    *,
    next_ranks: bool,
) -> Controls:
    """Find controls one to one, by log frequency, or the next ranks.

    Args:
        n: Occurrences of each type. Shape (types,).
        ranks: Rank of each type by R, from 1.
        eligible: Types that are ranked.
        top: Rocks: ranks up to this one.
        next_ranks: Take ranks top + 1 to 2 top, as arXiv 2605.09253 does, at any distance.
    """
    order = np.argsort(ranks, kind="stable")[: int(eligible.sum())]
    rock, rest = order[:top], order[top:]
    control = np.full(rock.size, -1)
    if next_ranks:
        control[: rest[:top].size] = rest[:top]
    else:
        found = match_nearest(_points(n, rock), _points(n, rest), [CALIPER, np.inf])
        control[found.left] = rest[found.right]
    distance = np.abs(np.log10(n[rock]) - np.log10(np.maximum(n[control], 1)))
    return Controls(rock, control, np.where(control >= 0, distance, np.nan))


def _points(n: Floats, types: Integers) -> Floats:
    """Place types by log frequency, and by a tiny coordinate of their own that breaks ties."""
    return np.column_stack([np.log10(n[types]), 1e-9 * types])
