"""The moved threshold against the rule itself, run at thresholds of all kinds."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from opd_diag.analyses.agreement_traps.equal_tokens import find_lows, keep
from opd_diag.analyses.agreement_traps.rule import Rule, find_cuts

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
    found = keep(find_lows(kl, lengths, rule), lengths, own, int(expected.sum()))
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
    kept = {total: keep(lows, lengths, level, total).tolist() for total in range(10)}
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
    assert keep(lows, lengths, np.zeros(3), 3).tolist() == [3, 0, 0]
