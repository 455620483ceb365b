"""Every way to keep tokens keeps as many; the moved threshold is held against the rule itself."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from opd_diag.analyses.agreement_traps.rule import Rule, find_cuts
from opd_diag.analyses.agreement_traps.same_tokens import (
    find_lows,
    of_neighbours,
    random_windows,
    rescaled,
    same_number,
    same_share,
    shift_thresholds,
)

# Multiples of 1/8: sums are exact, so the rule and the lows see the same numbers.
series = st.lists(st.lists(st.integers(0, 9), max_size=40), min_size=1, max_size=6)


@settings(max_examples=200)
@given(series, st.integers(1, 6), st.integers(1, 5), st.integers(0, 12), st.integers(-8, 40))
def test_what_the_rule_keeps_at_any_threshold_is_kept_again(parts, window, run, grace, shift):
    rule = Rule(window, 0.3, max(grace, window), run)
    lengths = np.array([len(one) for one in parts])
    kl = np.concatenate(parts).astype(np.float32) / 8
    own = np.linspace(0.2, 0.4, lengths.size)  # no two levels can be as far above their own
    moved = {(window, 0.3): own + shift / 16}
    expected = find_cuts(kl, lengths, [rule], moved)[rule].kept
    found = shift_thresholds(find_lows(kl, lengths, rule), lengths, own, int(expected.sum()))
    assert found.tolist() == expected.tolist()


def test_by_hand():
    # Windows of 2: 4 3 2 3 | 5 1 3; the lows are 4 3 2 and 5 1.
    kl = np.array([4, 4, 2, 2, 4, 5, 5, -3, 9], np.float32)
    lengths = np.array([5, 4])
    lows = find_lows(kl, lengths, Rule(2, 0.3, 2, 1))
    assert lows.rollout.tolist() == [0, 0, 0, 1, 1]
    assert lows.kept.tolist() == [0, 1, 2, 0, 1]
    assert lows.level.tolist() == [4, 3, 2, 5, 1]
    level = np.zeros(2)
    kept = {total: shift_thresholds(lows, lengths, level, total).tolist() for total in range(10)}
    # Above 1 the second keeps 1, above 2 the first 2, above 3 it keeps 1, above 4 and 5 nothing.
    assert kept[9] == [5, 4]
    assert kept[6] == [5, 1]
    assert kept[3] == [2, 1]
    assert kept[2] == [1, 1]
    assert kept[1] == [0, 1]
    assert kept[0] == [0, 0]
    assert kept[8] == [5, 3]
    assert all(sum(one) == total for total, one in kept.items())


def test_a_rollout_without_enough_windows_keeps_all():
    lengths = np.array([3, 0, 10])
    kl = np.arange(13, dtype=np.float32)
    lows = find_lows(kl, lengths, Rule(2, 0.3, 2, 4))
    assert set(lows.rollout) == {2}
    assert shift_thresholds(lows, lengths, np.zeros(3), 3).tolist() == [3, 0, 0]


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


def test_other_ways_by_hand():
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
