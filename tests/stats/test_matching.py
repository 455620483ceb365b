import itertools

import numpy as np
import pytest

from opd_diag.stats.matching import match_nearest, nearest_others


def greedy(left, right, caliper):
    """Go through all candidate pairs by rising distance, and take those still free."""
    candidates = []
    for i, j in itertools.product(range(len(left)), range(len(right))):
        gap = left[i] - right[j]
        if (np.abs(gap) <= caliper).all():
            candidates.append((np.sqrt((gap**2).sum()), i, j))
    taken_left, taken_right, pairs = set(), set(), []
    for distance, i, j in sorted(candidates):
        if i not in taken_left and j not in taken_right:
            taken_left.add(i)
            taken_right.add(j)
            pairs.append((i, j, distance))
    return pairs


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("width", [0.05, 0.3, 5.0])
def test_matching_equals_going_through_all_pairs(seed, width):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 60, 2)
    left, right = rng.standard_normal((n, 3)), rng.standard_normal((m, 3))
    right[:, 1] = np.exp(right[:, 1])  # one group is skewed
    caliper = np.array([width, 2 * width, width])
    found = match_nearest(left, right, caliper)
    expected = greedy(left, right, caliper)
    assert list(zip(found.left, found.right, strict=True)) == [(i, j) for i, j, _ in expected]
    np.testing.assert_allclose(found.distance, [d for *_, d in expected], rtol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_equal_points_are_matched_by_the_tie_coordinate(seed):
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, 2, (40, 3)) * 1.0, rng.integers(0, 2, (50, 3)) * 1.0
    left[:, 2], right[:, 2] = 1e-6 * rng.random(40), 1e-6 * rng.random(50)
    caliper = np.array([0.2, 0.2, 1e-5])
    found = match_nearest(left, right, caliper)
    expected = greedy(left, right, caliper)
    assert list(zip(found.left, found.right, strict=True)) == [(i, j) for i, j, _ in expected]


def test_the_nearest_point_is_passed_over_where_it_lies_outside_the_caliper():
    left = np.array([[0.0, 0.0]])
    outside = np.column_stack([0.11 + 1e-4 * np.arange(30), np.zeros(30)])
    right = np.concatenate([outside, [[0.09, 0.09]]])  # farther away, yet within 0.1 in each
    found = match_nearest(left, right, [0.1, 0.1])
    assert found.right.tolist() == [30]
    assert found.distance[0] == pytest.approx(0.09 * np.sqrt(2))


def test_nothing_to_match_gives_no_pairs():
    points = np.zeros((3, 2))
    for left, right in ((points[:0], points), (points, points[:0]), (points, points + 1.0)):
        found = match_nearest(left, right, [0.5, 0.5])
        assert [len(field) for field in found] == [0, 0, 0]


def test_neighbours_are_the_nearest_other_points():
    points = np.random.default_rng(3).standard_normal((80, 3))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    expected = np.argsort(distance, axis=1)[:, :7]
    np.testing.assert_array_equal(nearest_others(points, 7), expected)


def test_a_point_is_never_its_own_neighbour_among_equal_points():
    found = nearest_others(np.zeros((30, 2)), 5)
    assert found.shape == (30, 5)
    assert (found != np.arange(30)[:, None]).all()
