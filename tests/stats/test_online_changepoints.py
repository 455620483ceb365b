"""Alarms while a series is read: against the scan of every beginning of it."""

import numpy as np
import pytest

from opd_diag.stats.changepoints import scan_shifts
from opd_diag.stats.online_changepoints import LOOKS, first_alarms


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("statistic", "threshold"), [("bic", 2.0), ("cusum", 1.1)])
def test_an_alarm_is_the_first_beginning_whose_scan_passes_the_threshold(
    statistic, threshold, weighted
):
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 50, 60)
    values = rng.normal(size=lengths.sum()) + 3.0
    weights = rng.uniform(0.5, 3, values.size) if weighted else None
    alarms = first_alarms(
        values, lengths, threshold=threshold, min_size=2, min_length=7, weights=weights,
        statistic=statistic,
    )  # fmt: skip
    expected = []
    for start, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        alarm = -1
        for i in range(7, length + 1):
            part = slice(start, start + i)
            shifts = scan_shifts(
                values[part], [i], min_size=2, statistic=statistic,
                weights=None if weights is None else weights[part],
            )  # fmt: skip
            if (shifts.gain if statistic == "bic" else shifts.cusum)[0] > threshold:
                alarm = i
                break
        expected.append(alarm)
    assert alarms.tolist() == expected
    assert 0.05 < np.mean(alarms > 0) < 0.6


def test_a_drop_is_seen_soon_after_it_and_a_rise_never():
    values = np.r_[np.full(40, 1.0), np.full(30, 0.0)] + np.tile([0.05, -0.05], 35)
    fall, rise = first_alarms(np.r_[values, -values], [70, 70], threshold=6.0)
    assert 41 <= fall <= 44
    assert rise == -1
    assert first_alarms(np.ones(30), [30], threshold=0.0).tolist() == [-1]


def test_a_long_series_is_looked_at_so_many_times_and_at_its_end():
    n = 10 * LOOKS
    values = np.r_[np.zeros(n - 12), np.full(12, -9.0)] + np.tile([0.1, -0.1], n // 2)
    (alarm,) = first_alarms(values, [n], threshold=6.0)
    assert alarm == n - 10  # two values after the drop, and looks at every tenth
    (alarm,) = first_alarms(np.r_[values, values[-50:]], [n + 50], threshold=6.0)
    assert alarm > n - 12
    assert (n + 50 - alarm) % 11 == 0


def test_series_of_one_length_and_of_many_are_the_same():
    rng = np.random.default_rng(2)
    lengths = np.array([300, 9, 40, 0, 40])
    values = rng.normal(size=lengths.sum()).cumsum()
    whole = first_alarms(values, lengths, threshold=3.0)
    ends = np.cumsum(lengths)
    alone = [
        first_alarms(values[end - n : end], [n], threshold=3.0)[0]
        for end, n in zip(ends, lengths, strict=True)
    ]
    assert whole.tolist() == alone


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="shape"):
        first_alarms(np.ones(3), [4], threshold=1.0)
    with pytest.raises(ValueError, match="min_size: 0"):
        first_alarms(np.ones(3), [3], threshold=1.0, min_size=0)
