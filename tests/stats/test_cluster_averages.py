"""The mean over clusters: plain numbers, a known coverage, and what has no interval."""

import numpy as np
import pytest

import opd_diag as od
from opd_diag.stats import cluster_mean, cluster_median


def ends(interval):
    return float(interval.low), float(interval.high)


def test_the_estimate_is_the_mean_of_the_rows():
    rng = np.random.default_rng(0)
    values = rng.normal(size=300)
    labels = rng.choice([f"p{i}" for i in range(30)], 300)
    found = cluster_mean(values, labels)
    assert float(found.estimate) == pytest.approx(values.mean())
    assert found.low < found.estimate < found.high
    assert found.clusters == len(set(labels))
    assert found.reason == ""
    order = rng.permutation(300)
    again = cluster_mean(values[order], labels[order])
    assert ends(again) == pytest.approx(ends(found))


def test_missing_values_are_left_out():
    values = np.array([1.0, np.nan, 3.0] * 8)
    labels = np.repeat(np.arange(8), 3)
    found = cluster_mean(values + labels[:, None].ravel() * 0.1, labels)
    assert float(found.estimate) == pytest.approx(np.nanmean(values + labels * 0.1))


def test_rows_of_one_cluster_do_not_count_as_many():
    """Rows copied ten times carry no more: the interval stays, that of single rows shrinks."""
    rng = np.random.default_rng(1)
    values, labels = rng.normal(size=40), np.arange(40)
    once = cluster_mean(values, labels)
    copied = cluster_mean(np.tile(values, 10), np.tile(labels, 10))
    assert ends(copied) == pytest.approx(ends(once))


def test_the_interval_covers_the_truth():
    inside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(30), 5)
        values = rng.exponential(size=30)[labels] + rng.normal(size=150)
        found = cluster_mean(values, labels, seed=seed, draws=400)
        inside += bool(found.low <= 1 <= found.high)
    assert 176 <= inside <= 199  # 95 % of 200, and 88 % at least


@pytest.mark.parametrize(
    ("values", "labels"), [(np.zeros(0), np.zeros(0)), (np.ones(4), np.arange(4))]
)
def test_too_few_clusters_have_no_interval(values, labels):
    found = cluster_mean(values, labels)
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    assert str(found.reason)


@pytest.mark.parametrize("estimate", [cluster_mean, cluster_median])
def test_shapes_must_agree(estimate):
    for values, labels in (([1.0, 2.0], ["a"]), ([1.0], ["a", "b"]), (1.0, "a")):
        with pytest.raises(ValueError, match="clusters: shape"):
            estimate(values, labels)


def test_the_median_leaves_out_what_is_not_finite():
    rng = np.random.default_rng(4)
    values, labels = rng.normal(size=90), np.repeat([f"p{i}" for i in range(30)], 3)
    missing = values.copy()
    missing[::9] = np.nan, np.inf, -np.inf, np.nan, np.nan, np.inf, np.nan, np.nan, -np.inf, np.nan
    there = np.isfinite(missing)
    found = cluster_median(missing, clusters=labels, seed=1)
    assert float(found.estimate) == np.median(values[there])
    assert ends(found) == ends(cluster_median(values[there], labels[there], seed=1))
    none = cluster_median(np.full(6, np.nan), np.arange(6))
    assert np.isnan(none.estimate)
    assert none.reason == "too few prompts"


def test_what_stats_offers_can_be_listed_and_reached():
    names = dir(od.stats)
    assert {"cluster_mean", "cluster_median", "downward_shift", "changepoints"} <= set(names)
    for name in names:
        assert getattr(od.stats, name) is not None
    assert od.stats.changepoints.downward_shift is od.stats.downward_shift
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = od.stats.nothing
