"""Pair the members of two groups that lie near each other, nearest pairs first."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from opd_diag.stats.intervals import Floats

Integers = npt.NDArray[np.int64]


class Pairs(NamedTuple):
    """Pairs of rows of two groups.

    Attributes:
        left: Row in the first group. Shape (pairs,).
        right: Row in the second group.
        distance: Euclidean distance of the two.
    """

    left: Integers
    right: Integers
    distance: Floats


def match_nearest(left: Floats, right: Floats, caliper: npt.ArrayLike) -> Pairs:
    """Match two groups one to one: candidate pairs by rising distance, without replacement.

    A pair is a candidate if it differs by at most the caliper in every coordinate. Two points that
    are each other's nearest free candidate stand in the answer whatever else does, so they are
    matched in one step, and again among those that are left, until no candidate is free: a few
    dozen steps in all. Distances have to differ: a tiny random coordinate breaks their ties.

    Args:
        left: Points of the first group. Shape (n, d). Finite.
        right: Points of the second group. Shape (m, d).
        caliper: Largest difference in each coordinate, finite. Shape (d,).

    Returns:
        The pairs, by rising distance.
    """
    widths = np.asarray(caliper, np.float64)
    sides = _Side(left), _Side(right)
    found: list[Integers] = []
    while all(side.free.any() for side in sides):
        sides[0].look(sides[1], widths)
        sides[1].look(sides[0], widths)
        rows = np.flatnonzero(sides[0].free)
        rows = rows[sides[1].nearest[sides[0].nearest[rows]] == rows]
        partners = sides[0].nearest[rows]
        found.append(np.column_stack([rows, partners, sides[0].distance[rows].view(np.int64)]))
        sides[0].free[rows] = sides[1].free[partners] = False
    if not found:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    one, other, bits = np.concatenate(found).T
    distance = np.ascontiguousarray(bits).view(np.float64)
    order = np.argsort(distance, kind="stable")
    return Pairs(one[order], other[order], distance[order])


class _Side:
    """One group while it is matched: which points are free, and the nearest candidate of each."""

    def __init__(self, points: Floats) -> None:
        self.points = points
        self.free = np.ones(len(points), np.bool_)
        self.nearest = np.full(len(points), -1)
        self.distance = np.full(len(points), np.inf)

    def look(self, other: "_Side", caliper: Floats) -> None:
        """Find a nearest free candidate for the points that have none; without one they go."""
        lost = (self.nearest < 0) | ~other.free[self.nearest]
        rows, others = np.flatnonzero(self.free & lost), np.flatnonzero(other.free)
        if not rows.size:
            return
        place, self.distance[rows] = _nearest(self.points[rows], other.points[others], caliper)
        self.nearest[rows] = np.append(others, -1)[place]
        # The other group only shrinks: what has no candidate now has none later.
        self.free[rows[place < 0]] = False


def nearest_others(points: Floats, k: int) -> Integers:
    """List the k nearest other points of every point.

    Args:
        points: Shape (n, d). Finite, n > k.
        k: Number of neighbours.

    Returns:
        Row numbers, shape (n, k).
    """
    found = cKDTree(points).query(points, k=range(1, k + 2), workers=-1)
    place = np.asarray(found[1], np.int64)
    own = place == np.arange(len(points))[:, None]
    # Among equal points a row may be missing from its own list: then the farthest goes.
    own[~own.any(axis=1), -1] = True
    return np.asarray(place[~own]).reshape(len(points), k)


def _nearest(points: Floats, others: Floats, caliper: Floats) -> tuple[Integers, Floats]:
    """Find each point's nearest candidate among the others, -1 and inf where there is none."""
    found, distance = np.full(len(points), -1), np.full(len(points), np.inf)
    if not len(others):
        return found, distance
    tree = cKDTree(others)
    rows, k = np.arange(len(points)), 1
    bound = np.nextafter(np.sqrt(np.square(caliper).sum()), np.inf)
    while rows.size:
        k = min(k, len(others))
        near = tree.query(points[rows], k=range(1, k + 1), distance_upper_bound=bound, workers=-1)
        far, place = np.asarray(near[0]), np.asarray(near[1])
        there = np.isfinite(far)
        gap = np.abs(others[np.where(there, place, 0)] - points[rows, None])
        good = there & (gap <= caliper).all(axis=2)
        first, hit = good.argmax(axis=1), good.any(axis=1)
        at = np.flatnonzero(hit)
        found[rows[hit]], distance[rows[hit]] = place[at, first[hit]], far[at, first[hit]]
        # A point goes on only while its k nearest are all within reach and none is a candidate.
        rows = rows[~hit & there[:, -1] & (k < len(others))]
        k *= 8
    return found, distance
