"""Pair the members of two groups that lie near each other, nearest pairs first."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from opd_diag.stats.intervals import Floats

Integers = npt.NDArray[np.int64]

_FIRST_LIST = 8  # nearest points that are looked at first
_LONGER = 4  # times as many where the lists were too short for most points
_FREE, _TAKEN, _OPEN = 0, 1, 2


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


class _Candidates(NamedTuple):
    """The nearest points of the other group that each point of a group knows.

    Attributes:
        own: Place of the point in its group. Shape (candidates,).
        other: Place of the candidate in the other group.
        distance: How far apart they are.
        reach: Distance up to which a point knows all its candidates. Shape (points of the group,).
    """

    own: Integers
    other: Integers
    distance: Floats
    reach: Floats


def match_nearest(left: Floats, right: Floats, caliper: npt.ArrayLike) -> Pairs:
    """Match two groups one to one: candidate pairs by rising distance, without replacement.

    A pair is a candidate if it differs by at most the caliper in every coordinate. Distances have
    to differ: a tiny random coordinate breaks their ties.

    Each point lists its nearest free points of the other group. The listed pairs are gone through
    by rising distance; a pair is made only where both know that nothing nearer is left to them,
    and what stays open is asked again with the points that are left, by longer lists if need be.

    Args:
        left: Points of the first group. Shape (n, d). Finite.
        right: Points of the second group. Shape (m, d).
        caliper: Largest difference in each coordinate, finite. Shape (d,).

    Returns:
        The pairs, by rising distance.
    """
    widths = np.asarray(caliper, np.float64)
    rows, others = np.arange(len(left)), np.arange(len(right))
    pairs: list[tuple[Integers, Integers, Floats]] = []
    longest = _FIRST_LIST
    while rows.size and others.size:
        one = _nearest(left[rows], right[others], widths, longest)
        two = _nearest(right[others], left[rows], widths, longest)
        own, other, distance = _pairs_in_order(one, two)
        pairs.append((rows[own], others[other], distance))
        # Who knows of no candidate has none: the other group only shrinks.
        some, some_other = (np.isfinite(side.reach) for side in (one, two))
        some[one.own] = some_other[two.own] = True
        some[own] = some_other[other] = False
        if 2 * own.size < min(some.sum(), some_other.sum()):
            longest *= _LONGER
        rows, others = rows[some], others[some_other]
    if not pairs:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    all_left, all_right, distances = map(np.concatenate, zip(*pairs, strict=True))
    order = np.argsort(distances, kind="stable")
    return Pairs(all_left[order], all_right[order], distances[order])


def nearest_others(points: Floats, count: int) -> Integers:
    """List the nearest other points of every point.

    Args:
        points: Shape (n, d). Finite, n > count.
        count: Number of neighbours.

    Returns:
        Row numbers, shape (n, count).
    """
    tree = cKDTree(points)
    place = np.empty((len(points), count + 1), np.int64)
    # Points in the order of the tree find what they need still in the cache: twice as fast.
    place[tree.indices] = tree.query(points[tree.indices], k=range(1, count + 2))[1]
    own = place == np.arange(len(points))[:, None]
    # Among equal points a row may be missing from its own list: then the farthest goes.
    own[~own.any(axis=1), -1] = True
    return np.asarray(place[~own]).reshape(len(points), count)


def _nearest(points: Floats, others: Floats, caliper: Floats, longest: int) -> _Candidates:
    """List the candidates among the nearest others of every point."""
    longest = min(longest, len(others))
    bound = np.nextafter(np.sqrt(np.square(caliper).sum()), np.inf)
    order = cKDTree(points).indices
    nearest = cKDTree(others).query(
        points[order], k=range(1, longest + 1), distance_upper_bound=bound
    )
    distance, place = np.empty((len(points), longest)), np.empty((len(points), longest), np.int64)
    distance[order], place[order] = nearest
    all_known = ~np.isfinite(distance[:, -1]) | (longest == len(others))
    reach = np.where(all_known, np.inf, distance[:, -1])
    own, column = np.nonzero(np.isfinite(distance))
    other = place[own, column]
    near = (np.abs(others[other] - points[own]) <= caliper).all(axis=1)
    own, column, other = own[near], column[near], other[near]
    return _Candidates(own, other, distance[own, column], reach)


def _pairs_in_order(one: _Candidates, two: _Candidates) -> tuple[Integers, Integers, Floats]:
    """Make the pairs that are certain: both ends are free and know all that lies nearer.

    A pair whose ends are free but which is not certain leaves both open: each may yet be taken by
    the other, so that no later pair of theirs is certain either.
    """
    known = one.distance <= two.reach[one.other]
    seen = two.distance <= one.reach[two.other]  # such a pair stands in the first list already
    own = np.concatenate([one.own, two.other[~seen]])
    other = np.concatenate([one.other, two.own[~seen]])
    distance = np.concatenate([one.distance, two.distance[~seen]])
    certain = np.concatenate([known, np.zeros(int((~seen).sum()), np.bool_)])
    order = np.argsort(distance, kind="stable")
    state, state_other = bytearray(len(one.reach)), bytearray(len(two.reach))
    made = []
    steps = zip(
        order.tolist(), own[order].tolist(), other[order].tolist(), certain[order].tolist(),
        strict=True,
    )  # fmt: skip
    for place, i, j, sure in steps:
        if state[i] == _TAKEN or state_other[j] == _TAKEN:
            continue
        if sure and state[i] == _FREE and state_other[j] == _FREE:
            state[i] = state_other[j] = _TAKEN
            made.append(place)
        else:
            state[i] = state_other[j] = _OPEN
    return own[made], other[made], distance[made]
