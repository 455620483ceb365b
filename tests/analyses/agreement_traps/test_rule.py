"""The rule against a loop that reads one token after the other."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opd_diag.analyses.agreement_traps import rule as rule_module
from opd_diag.analyses.agreement_traps.rule import Rule, find_cuts, least_means
from opd_diag.stats.ragged import blocks


def loop(kl, threshold, rule):
    """Read a rollout token by token; n, -1 and so on where the rule never fires."""
    n, run, longest, below = len(kl), 0, 0, {}
    fired = first = end = None
    for t in range(rule.window, n + 1):
        mean = sum(kl[t - rule.window : t]) / rule.window
        below[t] = mean < threshold and t >= rule.grace
        run = run + 1 if below[t] else 0
        longest = max(longest, run)
        if fired is None and run == rule.consecutive:
            fired, first = t, t - rule.consecutive + 1
        if fired is not None and end is None and not below[t]:
            end = t - 1
    if fired is None:
        return False, -1, n, n, 0, 0, longest
    after = [t for t in below if t > fired]
    stays = sum(below[t] for t in after)
    return True, fired - 1, first - rule.window, end or n, len(after), stays, longest


# Multiples of 1/8: sums are exact, so ties with the threshold are the same for both.
values = st.lists(st.integers(0, 6), min_size=0, max_size=40)


@settings(max_examples=200)
@given(
    st.lists(values, min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(0, 15),
    st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.375, 0.5, np.nan]), min_size=6, max_size=6),
)
def test_find_cuts_equals_the_plain_loop(series, window, consecutive, grace, thresholds):
    rule = Rule(window, 0.3, max(grace, window), consecutive)
    lengths = np.array([len(one) for one in series])
    kl = np.concatenate(series).astype(np.float32) / 8
    s = np.array(thresholds[: len(series)])
    found = find_cuts(kl, lengths, [rule], {(window, 0.3): s})[rule]
    parts = np.split(kl.astype(float), np.cumsum(lengths)[:-1])
    expected = [loop(list(y), one, rule) for y, one in zip(parts, s, strict=True)]
    for field, column in zip(found, zip(*expected, strict=True), strict=True):
        assert field.tolist() == list(column)


def test_the_cut_is_the_first_token_of_the_first_low_window():
    # Level 1, then 0 from token 30 to 59: with threshold 1/8 a window of 8 is low only when whole.
    kl = np.ones(100, np.float32)
    kl[30:60] = 0
    rule = Rule(8, 0.3, 8, 4)
    cuts = find_cuts(kl, np.array([100]), [rule], {(8, 0.3): np.array([0.125])})[rule]
    assert cuts.kept.tolist() == [30]
    assert cuts.stretch_end.tolist() == [60]
    assert cuts.trigger.tolist() == [30 + 8 - 1 + 3]
    assert cuts.longest_run.tolist() == [60 - 30 - 8 + 1]
    assert cuts.windows_after.tolist() == [100 - 41]
    assert cuts.below_after.tolist() == [23 - 4]


def test_low_from_the_start_keeps_nothing_and_grace_passes_windows_over():
    kl = np.zeros(40, np.float32)
    early, late = Rule(8, 0.3, 8, 4), Rule(8, 0.3, 20, 4)
    cuts = find_cuts(kl, np.array([40]), [early, late], {(8, 0.3): np.array([0.1])})
    assert cuts[early].kept.tolist() == [0]
    assert cuts[late].kept.tolist() == [20 - 8]


def test_blocks_and_order_of_rollouts_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 90, 50)
    series = [rng.gamma(0.7, size=n).astype(np.float32) for n in lengths]
    rule = Rule(16, 0.3, 16, 2)
    s = rng.uniform(0.3, 0.7, 50)
    whole = find_cuts(np.concatenate(series), lengths, [rule], {(16, 0.3): s})[rule]
    least = least_means(np.concatenate(series), lengths, 16)
    monkeypatch.setattr(rule_module, "blocks", partial(blocks, most=200))
    order = rng.permutation(50)
    mixed = np.concatenate([series[i] for i in order])
    parts = find_cuts(mixed, lengths[order], [rule], {(16, 0.3): s[order]})[rule]
    for field, other in zip(whole, parts, strict=True):
        assert np.array_equal(field[order], other)
    assert np.array_equal(least_means(mixed, lengths[order], 16), least[order], equal_nan=True)


def test_many_rules_at_once_equal_one_at_a_time():
    rng = np.random.default_rng(1)
    lengths = np.full(20, 120)
    kl = rng.gamma(0.7, size=lengths.sum()).astype(np.float32)
    rules = [
        Rule(w, eta, g, c) for w in (8, 16) for eta in (0.2, 0.5) for g in (0, 40) for c in (1, 3)
    ]
    thresholds = {(w, eta): np.full(20, 0.4 + eta / 2) for w in (8, 16) for eta in (0.2, 0.5)}
    together = find_cuts(kl, lengths, rules, thresholds)
    for rule in rules:
        alone = find_cuts(kl, lengths, [rule], thresholds)[rule]
        assert all(np.array_equal(a, b) for a, b in zip(alone, together[rule], strict=True))


@pytest.mark.parametrize("size", [0, 3])
def test_rollouts_without_a_window_have_no_minimum(size):
    rule = Rule(8, 0.3, 8, 4)
    kl, lengths = np.zeros(size, np.float32), np.array([size])
    assert np.isnan(least_means(kl, lengths, 8)).all()
    assert not find_cuts(kl, lengths, [rule], {(8, 0.3): np.array([1.0])})[rule].triggered.any()
