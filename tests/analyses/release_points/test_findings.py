"""The three questions: nothing found in noise of every kind, planted effects found."""

import numpy as np
import polars as pl
import pytest
import scipy.stats

from opd_diag.analyses.findings import answer
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.release_points import release_points
from opd_diag.analyses.release_points.budgets import dealt_cuts
from opd_diag.analyses.release_points.findings import findings
from opd_diag.datasets.nulls import NULLS, ugly_run
from opd_diag.datasets.releases import ar1, release_run
from opd_diag.stats.changepoints import recoveries, reverse_around_lines, scan_shifts

FEW_K = (2, 4)
LONG = {"prompts": 16, "samples": 2, "segments": 110, "segment_tokens": 1, "k_grid": FEW_K}


def asked(data, tokens=None):
    found = release_points(
        data.tokens if tokens is None else tokens,
        data.rollouts.drop("correct", "finish_reason"),
        k_grid=FEW_K,
    )
    return {one.question: one for one in findings(found.release_summary)}


def answered(data, tokens=None):
    questions = asked(data, tokens)
    rows = answer(list(questions.values()), ["step0"])
    return dict(rows.select("question", "answer").iter_rows())


def says_yes(finding):
    return finding.p is not None and finding.p <= 0.05 and finding.difference > 0


@pytest.mark.parametrize("kind", ["heavy", "topics", "memory", "lengths", "all"])
def test_no_fall_is_found_where_the_margin_is_stationary(kind):
    seeds = 20
    options = {"prompts": 24, "samples": 2, "checkpoints": ("step0",), "k_grid": FEW_K}
    found = [asked(ugly_run(**NULLS[kind] | options, seed=seed)) for seed in range(seeds)]
    for question in ("margin-falls", "margin-drops"):  # few kinds have segments for the second
        hits = sum(says_yes(one[question]) for one in found)
        assert scipy.stats.binom.sf(hits - 1, seeds, 0.03) > 1e-3


@pytest.mark.parametrize("noise", ["ar", "jumps", "dips"])
def test_noise_that_jumps_or_remembers_neither_falls_nor_drops(noise):
    seeds, hits = 20, {"margin-falls": 0, "margin-drops": 0}
    for seed in range(seeds):
        found = asked(release_run(**LONG, shape="none", noise=noise, phi=0.6, seed=seed))
        for name in hits:
            hits[name] += says_yes(found[name])
    for count in hits.values():
        assert scipy.stats.binom.sf(count - 1, seeds, 0.03) > 1e-3


def test_an_even_decline_is_a_fall_but_no_drop_and_a_step_is_both():
    seeds, drops = 20, 0
    for seed in range(seeds):
        found = asked(release_run(**LONG, shape="line", phi=0.6, seed=seed))
        assert says_yes(found["margin-falls"])
        drops += says_yes(found["margin-drops"])
    assert scipy.stats.binom.sf(drops - 1, seeds, 0.03) > 1e-3
    step = answered(release_run(**LONG, shape="step", drop=0.5, phi=0.6, seed=1))
    assert step["margin-falls"] == step["margin-drops"] == "yes"


@pytest.mark.parametrize("decline", [0.25, 1.0])  # 1 and 4 standard deviations of the noise
def test_noise_that_drops_and_recovers_beside_an_even_decline_is_no_drop(decline):
    options = {"shape": "line", "noise": "dips", "drop": decline}
    found = [asked(release_run(**LONG | options, seed=seed)) for seed in range(10)]
    hits = sum(says_yes(one["margin-drops"]) for one in found)
    assert scipy.stats.binom.sf(hits - 1, len(found), 0.05) > 1e-3
    why = {one["margin-drops"].reason for one in found}
    assert any("recovers" in (reason or "") for reason in why)


def test_a_summary_without_the_recovery_says_nothing_of_drops():
    data = release_run(**LONG, shape="step", drop=0.5, seed=1)
    found = release_points(data.tokens, data.rollouts, k_grid=FEW_K).release_summary
    old = {one.question: one for one in findings(found.filter(pl.col("statistic") != "recovery"))}
    assert says_yes({one.question: one for one in findings(found)}["margin-drops"])
    assert old["margin-drops"].p == 1


def test_recoveries_are_those_of_a_loop():
    rng = np.random.default_rng(5)
    lengths, tau = np.array([40, 0, 23, 90, 30, 12]), np.array([11, -1, 17, 45, 3, 6])
    parts = [rng.normal(size=n) for n in lengths]
    expected = []
    for y, at in zip(parts, tau, strict=True):
        reach = min(at, len(y) - at)
        if reach < 6:
            expected.append(np.nan)
            continue
        near = max(reach // 6, 3)
        after, before = y[at : at + reach], y[at - reach : at][::-1]  # both from the drop on
        sides = [side[reach // 2 :].mean() - side[:near].mean() for side in (after, before)]
        expected.append(sides[0] + sides[1])
    np.testing.assert_allclose(recoveries(np.concatenate(parts), lengths, tau), expected)


def test_a_rise_is_no_fall_and_no_drop():
    data = release_run(**LONG, shape="step", drop=-0.5, seed=1)
    found = asked(data)
    assert found["margin-falls"].p < 0.001
    assert found["margin-falls"].difference < 0
    assert set(answered(data).values()) <= {"no", "undecided", "not asked"}


def with_kl(data, seed, *, drop=0.0, trend=0.0):
    """Draw a heavy-tailed KL with memory, lower from the planted release token on."""
    count = data.rollouts.height
    size = data.tokens.height // count
    rng = np.random.default_rng([seed, 7])
    x = 2 * ar1(rng, 0.5, (count, size)) + 0.5 * rng.standard_normal((count, 1))
    x += trend * np.linspace(0, 1, size)
    x -= drop * (np.arange(size) >= data.truth["release_token"][:, None])
    kl = np.exp(x).ravel() * (rng.random(x.size) > 0.5)
    norm = np.sqrt(np.minimum(kl, 2)) * np.exp(0.3 * rng.standard_normal(kl.size))
    return data.tokens.with_columns(
        reverse_kl=pl.Series(kl.astype(np.float32)), grad_logits=pl.Series(norm.astype(np.float32))
    )


def test_the_cut_is_said_to_drop_little_only_where_it_does():
    seeds, hits = 20, 0
    options = {"prompts": 40, "samples": 2, "segments": 30, "segment_tokens": 4, "k_grid": FEW_K}
    for seed in range(seeds):
        data = release_run(**options, seed=seed)
        found = asked(data, with_kl(data, seed, trend=-1.5))["cut-drops-poor"]
        hits += says_yes(found)
        assert found.difference_low < 0.02
    assert scipy.stats.binom.sf(hits - 1, seeds, 0.03) > 1e-3
    data = release_run(**options, seed=1)
    assert answered(data, with_kl(data, 1, drop=1.5))["cut-drops-poor"] == "yes"
    assert answered(data, with_kl(data, 1, drop=-1.5))["cut-drops-poor"] == "no"


def test_dealt_cuts_come_from_other_prompts_of_like_length():
    rng = np.random.default_rng(2)
    n = rng.integers(50, 900, 200)
    kept = np.where(rng.random(200) < 0.7, rng.integers(1, n), n)
    prompts = Prompts(np.repeat(np.arange(50), 4), seed=0)
    cuts, there = dealt_cuts(n, kept, prompts)
    released = kept < n
    assert not there[~released].any()
    fractions = np.sort((kept / n)[released])
    for i in np.flatnonzero(released):
        own = cuts[i][there[i]]
        assert ((own >= 1) & (own <= n[i])).all()
        place = np.abs(fractions[:, None] - own / n[i]).min(axis=0)
        assert place.max() <= 0.5 / n[i] + 1e-9
    assert there[released].sum(axis=1).min() >= 13


def test_time_is_turned_round_about_the_line_of_generalised_least_squares():
    rng = np.random.default_rng(3)
    lengths = np.array([0, 40, 1, 90])
    y = np.concatenate([ar1(rng, 0.7, (1, n))[0] + 0.1 * np.arange(n) for n in lengths if n])
    turned = np.split(reverse_around_lines(y, lengths), np.cumsum(lengths)[:-1])
    for own, back in zip(np.split(y, np.cumsum(lengths)[:-1]), turned, strict=True):
        n = len(own)
        if n < 2:
            np.testing.assert_allclose(back, own)
            continue
        time = np.arange(n)
        rest = own - np.polyval(np.polyfit(time, own, 1), time)
        phi = (rest[1:] * rest[:-1]).sum() / (rest**2).sum()
        phi = min(phi + (2 + 4 * phi) / n, 0.98)
        inverse = np.linalg.inv(phi ** np.abs(time[:, None] - time))
        design = np.column_stack([np.ones(n), time])
        line = design @ np.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ own)
        np.testing.assert_allclose(back, line + (own - line)[::-1], atol=1e-8)
    again = reverse_around_lines(np.concatenate(turned), lengths)
    np.testing.assert_allclose(again, y, atol=1e-8)


def test_the_cumulative_sum_is_that_of_a_loop():
    rng = np.random.default_rng(4)
    for n in (6, 7, 40):
        y = rng.normal(size=n)
        found = scan_shifts(y, np.array([n]), statistic="cusum")
        total = np.cumsum(y - y.mean())
        places = np.arange(3, n - 2)
        best = places[np.argmax(total[places - 1])]
        if total[best - 1] > 0:
            assert found.tau[0] == best
            size = np.sqrt(((y - y.mean()) ** 2).sum())
            assert found.cusum[0] == pytest.approx(total[best - 1] / size)
        assert scan_shifts(-y, np.array([n])).cusum_up[0] == pytest.approx(
            scan_shifts(y, np.array([n])).cusum[0], nan_ok=True
        )
