"""Where nothing is there nothing is found: rates over a few dozen seeds with binomial bounds."""

import numpy as np
import polars as pl
import scipy.stats
from scipy.sparse import csr_array

from opd_diag.analyses.rock_tokens.null import lift_p
from opd_diag.analyses.rock_tokens.occurrences import read_occurrences
from opd_diag.analyses.rock_tokens.persistence import (
    GROUPS,
    choose_groups,
    group_changes,
    label,
    type_changes,
)
from opd_diag.analyses.rock_tokens.selectors import eligible_types
from opd_diag.analyses.rock_tokens.sums import prompt_sums, total
from opd_diag.analyses.rock_tokens.types import (
    funnel,
    trusted,
    type_intervals,
)
from opd_diag.datasets import null_run, unchanged_run
from opd_diag.stats.permutation import skewed_p, third_moment
from opd_diag.stats.ranks import descending_ranks
from opd_diag.tables.source import as_source

CERTAIN = 0.9999
BINS = ((2, 9), (10, 29), (30, 99), (100, 10**9))


def read(data):
    source = as_source(data.tokens, data.rollouts)
    return read_occurrences(source, source.checkpoints, source.rollouts, "reverse_kl")


def at_most(count, of, rate):
    return count <= scipy.stats.binom.ppf(CERTAIN, of, rate)


def test_lift_differs_from_1_no_more_often_than_its_level_at_any_frequency():
    wrong, tested = np.zeros(len(BINS)), np.zeros(len(BINS))
    found = 0
    for seed in range(24):
        data = null_run(prompts=24, samples=2, tokens=100, types=200, seed=seed)
        occurrences = read(data)
        sums = prompt_sums(occurrences)
        p, adjusted = lift_p(sums, occurrences, seed)
        n = total(sums.n[0])
        for i, (low, high) in enumerate(BINS):
            inside = (n >= low) & (n <= high)
            wrong[i] += (p[inside] < 0.05).sum()
            tested[i] += inside.sum()
        found += bool((adjusted < 0.05).any())
    assert (tested > 100).all()
    for count, of in zip(wrong, tested, strict=True):
        assert at_most(count, of, 0.05)
        assert count >= scipy.stats.binom.ppf(1 - CERTAIN, of, 0.05) - 1  # nor is p too large
    assert at_most(found, 24, 0.05)


def test_moments_and_p_of_the_permutation_are_those_of_many_permutations():
    rng = np.random.default_rng(3)
    size = np.array([40, 25, 60])
    prompt = np.repeat(np.arange(3), size)
    values = rng.gamma(0.5, 1.0, prompt.size) * (1 + prompt)
    kind = rng.choice(3, prompt.size, p=[0.7, 0.2, 0.1])
    n = csr_array((np.ones(prompt.size), (prompt, kind)), shape=(3, 3))
    centred = values - (np.bincount(prompt, values) / size)[prompt]
    third = third_moment(n, size.astype(float), np.bincount(prompt, centred**3))
    permuted = np.concatenate(
        [rng.permuted(np.tile(centred[prompt == i], (60_000, 1)), axis=1) for i in range(3)], axis=1
    )
    drawn = np.stack([permuted[:, kind == k].sum(axis=1) for k in range(3)], axis=1)
    error = (drawn**3).std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(third - (drawn**3).mean(axis=0)) < 4 * error).all()
    spread = drawn.std(axis=0)
    for away in (1.0, 2.0, 3.0):
        p = skewed_p(away * spread, np.zeros(3), spread**2, third)
        share = (np.abs(drawn) >= away * spread).mean(axis=0)
        np.testing.assert_allclose(p, share, rtol=0.15, atol=0.002)
    assert third[2] / spread[2] ** 3 > 0.2  # far from normal
    normal = skewed_p(np.array([1.96]), np.zeros(1), np.ones(1), np.zeros(1))
    assert abs(normal[0] - 0.05) < 1e-4
    assert skewed_p(np.ones(1), np.ones(1), np.zeros(1), np.zeros(1)) == 1


def test_skewed_losses_of_common_types_are_not_called_special_after_adjustment():
    found = 0
    for seed in range(30):
        data = null_run(prompts=20, samples=2, tokens=150, types=70, seed=seed)
        # Even frequencies, about 85 of each type, and a long tail.
        ids = np.random.default_rng([seed, 5]).integers(70, size=data.tokens.height)
        tokens = data.tokens.with_columns(
            token_id=pl.Series(ids, dtype=pl.Int32), reverse_kl=pl.col("reverse_kl") ** 2
        )
        occurrences = read(data._replace(tokens=tokens))
        found += bool((lift_p(prompt_sums(occurrences), occurrences, seed)[1] < 0.05).any())
    assert at_most(found, 30, 0.07)


def test_intervals_of_lift_hold_1_where_types_are_alike():
    outside = total_types = 0
    for seed in range(8):
        sums = prompt_sums(read(null_run(prompts=40, samples=2, tokens=150, types=120, seed=seed)))
        eligible = eligible_types(total(sums.n[0]), 2, 0)
        items = np.flatnonzero(trusted(sums.n[0]) & eligible)
        lift = type_intervals(sums, items, eligible, signed=False, seed=seed).lift
        outside += int(((lift.low > 1) | (lift.high < 1)).sum())
        total_types += items.size
    assert total_types > 500
    assert at_most(outside, total_types, 0.07)


def test_the_funnel_holds_four_of_five_types_that_are_alike():
    inside = of = 0
    for seed in range(6):
        sums = prompt_sums(read(null_run(prompts=40, samples=2, tokens=150, types=150, seed=seed)))
        n, x = total(sums.n[0]), total(sums.x[0])
        low, high = funnel(sums, signed=False)
        common = n >= 10
        inside += int(
            ((x / np.maximum(n, 1) >= low) & (x / np.maximum(n, 1) <= high))[common].sum()
        )
        of += int(common.sum())
    assert 0.75 < inside / of < 0.85


def changes(seed, *, top=30, **shape):
    sums = prompt_sums(read(unchanged_run(seed=seed, **shape)))
    eligible = eligible_types(total(sums.n[0]), 2, 0)
    chosen = np.stack(
        [
            choose_groups(sums, half, eligible, top=top, min_count=2, next_ranks=False, seed=seed)
            for half in (0, 1)
        ]
    )
    return sums, chosen, group_changes(sums, chosen, signed=False, seed=seed)[-1].relative


def test_without_change_the_honest_figure_covers_0_and_the_naive_one_shows_learning():
    seeds = 24
    outside = dict.fromkeys(GROUPS, 0)
    naive_wrong, naive = 0, []
    for seed in range(seeds):
        shape = {"prompts": 40, "samples": 2, "tokens": 60, "types": 1000}
        *_, relative = changes(seed, top=60, **shape)
        for i, group in enumerate(GROUPS):
            outside[group] += not relative.low[i] <= 0 <= relative.high[i]
        same_half = len(GROUPS) + GROUPS.index("high_kl")
        naive_wrong += bool(relative.high[same_half] < 0)
        naive.append(relative.estimate[same_half])
    for group, count in outside.items():
        assert at_most(count, seeds, 0.07), group
    assert naive_wrong >= 0.8 * seeds
    assert np.mean(naive) < -0.15


def test_labels_of_single_types_are_wrong_no_more_often_than_said():
    changed = of = 0
    for seed in range(8):
        sums, chosen, _ = changes(seed, prompts=40, samples=2, tokens=100, types=150, top=20)
        items = np.flatnonzero(total(sums.n[0]) >= 10)
        found = type_changes(sums, items, chosen[:, 0], signed=False, seed=seed)
        labels = [name for name in label(found.relative, found.usable) if name]
        changed += labels.count("changed")
        of += len(labels)
    assert of > 500
    assert at_most(changed, of, 0.07)


def test_a_label_says_what_its_interval_shows():
    *_, relative = changes(0, prompts=12, samples=1, tokens=60, types=70)
    low = np.array([-0.05, 0.02, -0.30, -0.30, 0.01, 0.11, np.nan, -0.05])
    high = np.array([0.05, 0.08, -0.02, 0.05, 0.30, 0.20, np.nan, 0.05])
    made = relative._replace(low=low, high=high)
    usable = np.array([True] * 7 + [False])
    expected = ["stagnant", "stagnant", "changed", "undecided", "changed", "changed", None, None]
    assert label(made, usable) == expected


def test_a_type_is_measured_where_it_was_not_chosen():
    sums, chosen, _ = changes(1, prompts=12, samples=2, tokens=60, types=100, top=10)
    items = np.arange(total(sums.n[0]).size)
    rock = chosen[:, 0]
    found = type_changes(sums, items, rock, signed=False, seed=0)
    n, x0, x = (a.toarray() for a in (sums.n[0], sums.x[0], sums.x[-1]))
    kinds = set()
    for kind in items:
        by_first, by_second = rock[:, kind]
        sides = {(True, False): [1], (False, True): [0]}.get((by_first, by_second), [0, 1])
        kinds.add(tuple(sides))
        inside = np.isin(sums.half, sides)
        assert found.n[kind] == n[inside, kind].sum()
        if x0[inside, kind].sum() > 0:
            expected = x[inside, kind].sum() / x0[inside, kind].sum() - 1
            assert abs(found.relative.estimate[kind] - expected) < 1e-6 * (1 + abs(expected))
    assert len(kinds) == 3


def test_rank_intervals_hold_the_rank_of_a_larger_run():
    """Types of known means: their intervals cover the ranks of the truth."""
    data = unchanged_run(prompts=60, samples=2, tokens=150, types=60, spread=1.0, seed=2)
    sums = prompt_sums(read(data))
    eligible = eligible_types(total(sums.n[0]), 2, 0)
    weight = 1 / np.arange(1, 61)
    truth = descending_ranks((weight * data.truth["means"])[sums.token_id])
    items = np.flatnonzero(trusted(sums.n[0]))
    rank = type_intervals(sums, items, eligible, signed=False, seed=0).rank
    covered = (rank.low <= truth[items]) & (truth[items] <= rank.high)
    assert covered.mean() > 0.85
    assert np.mean(rank.high - rank.low) < 15


def test_null_datasets_keep_tokens_in_step():
    data = unchanged_run(prompts=6, tokens=30, types=70)
    sides = [data.tokens.filter(checkpoint=name)["token_id"] for name in ("step0", "step150")]
    assert pl.Series.equals(*sides)
