"""Where nothing is there nothing is found: rates over a few dozen seeds with binomial bounds."""

import numpy as np
import polars as pl
import pytest
import scipy.stats
from scipy.sparse import csr_array

from opd_diag.analyses.rock_tokens.changes import (
    changed_p,
    choose_groups,
    group_changes,
    label,
    rocks_by_half,
    type_changes,
)
from opd_diag.analyses.rock_tokens.lift import lift_p, response_places
from opd_diag.analyses.rock_tokens.occurrences import (
    prompt_cells,
    prompt_sums,
    read_occurrences,
    total,
)
from opd_diag.analyses.rock_tokens.options import Options
from opd_diag.analyses.rock_tokens.ranking import by_mean, half_totals, rank_types
from opd_diag.analyses.rock_tokens.types import funnel, type_intervals
from opd_diag.datasets import null_run, rock_run, unchanged_run
from opd_diag.datasets.nulls import ugly_run
from opd_diag.stats.permutation import skewed_p, third_moment
from opd_diag.stats.ranks import descending_ranks
from opd_diag.tables.columns.rock_tokens import GROUPS
from opd_diag.tables.source import as_source

CERTAIN = 0.9999
BINS = ((10, 29), (30, 99), (100, 150), (151, 10**9))


def read(data):
    source = as_source(data.tokens, data.rollouts)
    return read_occurrences(source, source.checkpoints, source.rollouts, "reverse_kl")


def ranked(data, **choices):
    occurrences = read(data)
    sums = prompt_sums(occurrences, prompt_cells(occurrences))
    return rank_types(occurrences, sums, sums, Options(**choices))


def lift_tests(data, seed):
    """Counts of the types, p of their lift, and the same adjusted."""
    occurrences = read(data)
    places = response_places(occurrences, None)
    kind = occurrences.kind[occurrences.at]
    return np.bincount(kind), *lift_p(occurrences, places, seed)


def at_most(count, of, rate):
    return count <= scipy.stats.binom.ppf(CERTAIN, of, rate)


UGLY = {
    "zeros": {"sigma": 2.0, "zeros": 0.7},
    "prompts": {"prompt_effect": 1.0, "rollout_effect": 0.5},
    "topics": {"prompt_effect": 0.7, "topical": 0.5, "bursts": 0.3, "memory": 0.4},
    "trend": {"trend": -1.5, "segment_effect": 0.5},
}


@pytest.mark.parametrize("kind", UGLY)
def test_lift_differs_from_1_no_more_often_than_its_level_at_any_frequency(kind):
    wrong, of = np.zeros(len(BINS)), np.zeros(len(BINS))
    found = 0
    for seed in range(20):
        data = ugly_run(prompts=30, tokens=120, checkpoints=("a",), seed=seed, **UGLY[kind])
        n, p, adjusted = lift_tests(data, seed)
        assert np.isnan(p[n < 10]).all()
        for i, (low, high) in enumerate(BINS):
            inside = (n >= low) & (n <= high)
            wrong[i] += (p[inside] < 0.05).sum()
            of[i] += inside.sum()
        found += bool((adjusted < 0.05).any())
    assert (of > 60).all()
    for count, total_types in zip(wrong, of, strict=True):
        assert at_most(count, total_types, 0.06)
        low = scipy.stats.binom.ppf(1 - CERTAIN, total_types, 0.05)
        assert count >= low - 1  # nor is p too large
    assert at_most(found, 20, 0.07)


def test_planted_lift_of_rare_types_is_found_after_adjustment():
    hits = wrong = 0
    for seed in range(6):
        data = ugly_run(prompts=48, checkpoints=("a",), sigma=1.5, seed=seed)
        counts = data.tokens.group_by("token_id").len().filter(pl.col("len").is_between(18, 22))
        rare = counts.sort("token_id")["token_id"].to_list()
        planted = np.random.default_rng(seed).permutation(rare)[:6].tolist()
        factor = pl.when(pl.col("token_id").is_in(planted)).then(8.0).otherwise(1.0)
        tokens = data.tokens.with_columns((pl.col("reverse_kl") * factor).cast(pl.Float32))
        *_, adjusted = lift_tests(data._replace(tokens=tokens), seed)
        ids = read(data).token_id[np.nan_to_num(adjusted, nan=1) <= 0.05]
        hits += np.isin(planted, ids).sum()
        wrong += (~np.isin(ids, planted)).sum()
    assert hits >= 0.9 * 36
    assert wrong <= 0.2 * hits


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


def test_intervals_of_lift_hold_1_where_types_are_alike():
    outside = total_types = 0
    for seed in range(8):
        data = null_run(prompts=40, samples=2, tokens=150, types=120, seed=seed)
        ranking = ranked(data, seed=seed)
        lift = type_intervals(ranking, np.flatnonzero(ranking.eligible))["lift"]
        outside += int(((lift.low > 1) | (lift.high < 1)).sum())
        total_types += lift.low.size
    assert total_types > 500
    assert at_most(outside, total_types, 0.07)


def test_the_funnel_holds_four_of_five_types_that_are_alike():
    inside = of = 0
    for seed in range(6):
        data = null_run(prompts=40, samples=2, tokens=150, types=150, seed=seed)
        sums = ranked(data).sums
        n, x = total(sums.n[0]), total(sums.x[0])
        low, high = funnel(sums, signed=False)
        common = n >= 10
        inside += int(
            ((x / np.maximum(n, 1) >= low) & (x / np.maximum(n, 1) <= high))[common].sum()
        )
        of += int(common.sum())
    assert 0.75 < inside / of < 0.85


def changes(seed, *, top=30, **shape):
    ranking = ranked(unchanged_run(seed=seed, **shape), top=top, seed=seed)
    return ranking, group_changes(ranking, choose_groups(ranking).members)[-1].relative


def test_without_change_groups_of_the_other_half_cover_0_and_those_that_chose_under_it_do_not():
    seeds = 24
    outside = dict.fromkeys(GROUPS, 0)
    wrong, naive = 0, []
    for seed in range(seeds):
        shape = {"prompts": 40, "samples": 2, "tokens": 60, "types": 1000}
        ranking, relative = changes(seed, top=60, **shape)
        for i, group in enumerate(GROUPS):
            outside[group] += not relative.low[i] <= 0 <= relative.high[i]
        # Chosen for a high mean under the first checkpoint, on the rows that are measured.
        first = by_mean(half_totals(ranking.sums, "first", 0), 2)
        chosen = descending_ranks(first) <= 60
        same = group_changes(ranking, np.tile(chosen, (2, 1, 1)))[-1].relative
        wrong += bool(same.high[1] < 0)
        naive.append(same.estimate[1])
    for group, count in outside.items():
        assert at_most(count, seeds, 0.07), group
    assert wrong >= 0.5 * seeds
    assert np.mean(naive) < -0.1


def shared_noise(seed, checkpoints):
    """Snapshots in which the tokens of a type share noise of their own under each checkpoint."""
    data = ugly_run(prompts=40, types=400, checkpoints=checkpoints, sigma=1.0, seed=seed)
    rng = np.random.default_rng([seed, 9])
    factor = np.exp(0.4 * rng.standard_normal((len(checkpoints), 400)))
    place = {name: i for i, name in enumerate(checkpoints)}
    number = data.tokens["checkpoint"].replace_strict(place).to_numpy()
    noise = pl.Series(factor[number, data.tokens["token_id"].to_numpy()])
    return data._replace(
        tokens=data.tokens.with_columns((pl.col("reverse_kl") * noise).cast(pl.Float32))
    )


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")])
def test_noise_that_a_type_shares_under_one_checkpoint_does_not_look_like_change(names):
    chosen_apart, chosen_by_first = [], []
    for seed in range(16):
        ranking = ranked(shared_noise(seed, names), top=40, seed=seed)
        members = choose_groups(ranking).members
        chosen_apart.append(group_changes(ranking, members)[-1].relative.estimate[2])
        means = [by_mean(half_totals(ranking.sums, "first", half), 5) for half in (0, 1)]
        first = np.stack([descending_ranks(mean) <= 40 for mean in means])[:, None]
        chosen_by_first.append(group_changes(ranking, first)[-1].relative.estimate[0])
    error = np.std(chosen_apart) / 4
    assert abs(np.mean(chosen_apart)) < 4 * error
    assert error < 0.08
    assert np.mean(chosen_by_first) < -0.1


def test_labels_of_single_types_say_changed_in_one_of_a_hundred_or_fewer():
    changed = of = 0
    for seed in range(16):
        data = ugly_run(prompts=40, types=200, checkpoints=("a", "b"), sigma=2.0, seed=seed,
                        snapshots=0.6)  # fmt: skip
        ranking = ranked(data, top=60, seed=seed)
        items = np.flatnonzero(ranking.is_rock)
        change = type_changes(ranking, items, rocks_by_half(ranking))
        p, adjusted = changed_p(change, np.ones(items.size, bool), seed)
        assert (adjusted[np.isfinite(p)] >= p[np.isfinite(p)]).all()
        names = [name for name in label(change, adjusted) if name]
        changed += names.count("changed")
        of += len(names)
    assert of > 500
    assert at_most(changed, of, 0.01)


def test_learned_types_are_labelled_changed():
    data = rock_run(prompts=40, height=4.0, seed=1)
    ranking = ranked(data, top=16, rank_by="first")
    items = np.searchsorted(ranking.sums.token_id, data.truth["learned"])
    change = type_changes(ranking, items, rocks_by_half(ranking))
    _, adjusted = changed_p(change, np.ones(items.size, bool), 0)
    assert label(change, adjusted) == ["changed"] * items.size


def test_a_label_says_what_its_interval_and_its_p_show():
    ranking, _ = changes(0, prompts=12, samples=1, tokens=60, types=70)
    made = type_changes(ranking, np.arange(6), rocks_by_half(ranking))
    low = np.array([-0.05, -0.30, -0.30, 0.11, np.nan, -0.05])
    high = np.array([0.05, -0.02, -0.02, 0.20, np.nan, 0.05])
    made = made._replace(
        relative=made.relative._replace(low=low, high=high),
        usable=np.array([True] * 5 + [False]),
    )
    adjusted = np.array([0.01, 0.06, 0.05, np.nan, 0.01, 0.01])
    expected = ["stagnant", "undecided", "changed", "undecided", None, None]
    assert label(made, adjusted) == expected


def test_a_type_is_measured_where_it_was_not_chosen():
    ranking, _ = changes(1, prompts=12, samples=2, tokens=60, types=100, top=10)
    sums = ranking.sums
    items = np.arange(total(sums.n[0]).size)
    rock = rocks_by_half(ranking)
    found = type_changes(ranking, items, rock)
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
        expected = (x - x0)[:, kind] * inside
        np.testing.assert_allclose(found.difference[:, kind], expected, atol=1e-9)
    assert len(kinds) == 3


def test_null_datasets_keep_tokens_in_step():
    data = unchanged_run(prompts=6, tokens=30, types=70)
    sides = [data.tokens.filter(checkpoint=name)["token_id"] for name in ("step0", "step150")]
    assert pl.Series.equals(*sides)
