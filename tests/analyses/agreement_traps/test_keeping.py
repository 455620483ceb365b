"""Every other way to keep tokens keeps exactly as many."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from opd_diag.analyses.agreement_traps.keeping import (
    of_neighbours,
    random_windows,
    rescaled,
    same_number,
    same_share,
)

rollouts = st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), min_size=1, max_size=30)


@given(rollouts, st.floats(0, 1))
def test_budgets_are_exact_and_no_rollout_keeps_more_than_it_has(pairs, share):
    lengths = np.array([n for n, _ in pairs])
    kept = np.array([round(n * part) for n, part in pairs])
    total = round(share * lengths.sum())
    for held in (
        rescaled(kept, lengths, total),
        same_number(lengths, total),
        same_share(lengths, total),
    ):
        assert held.sum() == total
        assert (held >= 0).all()
        assert (held <= lengths).all()


@given(rollouts)
def test_holding_a_rule_to_its_own_budget_changes_nothing(pairs):
    lengths = np.array([n for n, _ in pairs])
    kept = np.array([round(n * part) for n, part in pairs])
    assert rescaled(kept, lengths, int(kept.sum())).tolist() == kept.tolist()


def test_by_hand():
    lengths = np.array([2, 10, 6])
    assert same_number(lengths, 10).tolist() == [2, 4, 4]
    assert same_share(lengths, 9).tolist() == [1, 5, 3]
    assert rescaled(np.array([2, 8, 2]), lengths, 6).tolist() == [1, 4, 1]
    assert rescaled(np.array([2, 2, 2]), lengths, 12).tolist() == [2, 6, 4]


def test_neighbours_in_length_lend_their_share():
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.repeat([100, 1000], 40))
    kept = np.where(lengths == 100, 50, 1000)
    lent = [of_neighbours(kept, lengths, rng) for _ in range(20)]
    for one in lent:
        assert (one <= lengths).all()
    # Only rollouts next to the border of the two lengths can get the other share.
    short = np.stack(lent)[:, lengths == 100]
    assert 0.6 < (short == 50).mean() < 1
    assert any((one != kept).any() for one in lent)


def test_random_windows_keep_the_same_number_inside_the_rollout():
    rng = np.random.default_rng(0)
    lengths = np.array([5, 50, 50, 0])
    kept = np.array([5, 10, 0, 0])
    for _ in range(50):
        start, stop = random_windows(kept, lengths, rng)
        assert (stop - start).tolist() == kept.tolist()
        assert (start >= 0).all()
        assert (stop <= lengths).all()
