import numpy as np
import pytest

from opd_diag.stats.selection import choose, rounded_budget

BUDGETS = (0.01, 0.1, 0.25, 0.5, 1.0)


def plainly(score, budgets, order, groups):
    """Sort each group by falling score, then by order, and take the first rows."""
    level = np.full(len(score), len(budgets))
    tied = np.zeros(len(budgets), int)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        ranked = sorted(rows, key=lambda i: (-score[i], order[i]))
        for b, share in reversed(list(enumerate(budgets))):
            size = int(np.floor(share * len(rows) + 0.5))
            chosen = [i for i in ranked[:size] if np.isfinite(score[i])]
            level[chosen] = b
            if chosen:
                same = [i for i in ranked if score[i] == score[chosen[-1]]]
                inside = [i for i in same if i in chosen]
                tied[b] += len(inside) if len(inside) < len(same) else 0
    return level, tied


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("values", [3, 10, 100_000])
@pytest.mark.parametrize("grouped", [False, True])
def test_choice_equals_sorting(seed, values, grouped):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 120))
    score = rng.integers(0, values, n) / values
    score[rng.random(n) < 0.2] = -np.inf
    order = rng.permutation(n).astype(np.uint64)
    groups = rng.integers(0, 4, n) if grouped else np.zeros(n, int)
    found = choose(score, BUDGETS, order, groups if grouped else None)
    level, tied = plainly(score, BUDGETS, order, groups)
    np.testing.assert_array_equal(found.level, level)
    np.testing.assert_array_equal(found.tied, tied)


def test_a_budget_is_met_exactly_whatever_the_ties():
    score = np.repeat([2.0, 1.0, 0.0], [5, 90, 5])
    order = np.random.default_rng(0).permutation(100).astype(np.uint64)
    found = choose(score, [0.03, 0.05, 0.5], order)
    counts = [(found.level <= b).sum() for b in range(3)]
    assert counts == [3, 5, 50]
    assert found.tied.tolist() == [3, 0, 45]
    picked = np.flatnonzero(found.level <= 2)[5:] - 5
    assert set(order[5:95][picked]) == set(np.sort(order[5:95])[:45])


def test_half_a_row_is_rounded_up():
    assert rounded_budget(0.1, np.array([4, 5, 14, 15])).tolist() == [0, 1, 1, 2]
