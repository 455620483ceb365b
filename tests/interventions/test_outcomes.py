"""Differences of outcomes: against scipy, coverage where nothing is there, and power as said."""

from itertools import combinations

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom, ttest_1samp

from opd_diag.interventions.outcomes import (
    ALIKE,
    difference,
    disagreement,
    share_right,
    smallest_before,
    variance_saved,
)


def studies(problems: int, samples: int, count: int, *, effect: float = 0.0):
    """Outcomes of two arms; a problem is mostly always right or always wrong."""
    rng = np.random.default_rng([problems, samples])
    for _ in range(count):
        p = rng.choice([0.01, 0.3, 0.7, 0.98], problems, p=[0.4, 0.2, 0.2, 0.2])
        n = np.full(problems, float(samples))
        yield rng.binomial(samples, p), rng.binomial(samples, np.clip(p - effect, 0, 1)), n


@pytest.mark.parametrize(("problems", "samples"), [(24, 3), (96, 1), (96, 3)])
def test_nothing_against_nothing_is_covered(problems: int, samples: int) -> None:
    count = 120
    found = [difference(*arms, seed=i) for i, arms in enumerate(studies(problems, samples, count))]
    covered = sum(one.low <= 0 <= one.high for one in found)
    assert binom.isf(0.9995, count, 0.93) <= covered <= binom.isf(0.0005, count, 0.975)
    assert sum(one.p <= 0.05 for one in found) <= binom.isf(0.0005, count, 0.05)


def test_the_interval_is_students() -> None:
    (arms,) = studies(40, 3, 1)
    found = difference(*arms, seed=0)
    other = ttest_1samp((arms[0] - arms[1]) / 3, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((other.low, other.high))
    # A problem without responses counts for nothing, and equal weights for what they are.
    one, two, n = (np.append(of, 0.0) for of in arms)
    assert difference(one, two, n, seed=0)[:3] == pytest.approx(found[:3])


def test_weights_are_responses() -> None:
    n = np.array([1.0, 2, 1, 4, 2, 2, 1, 1, 3, 3])
    one, two = n * 0.5, np.minimum(n, [0, 1, 1, 2, 1, 0, 0, 1, 1, 3])
    found = difference(one, two, n, seed=0)
    assert found.value == pytest.approx((one - two).sum() / n.sum())
    assert found.low < found.value < found.high
    assert found.reason == "few prompts"


def test_few_problems_that_differ_have_a_wide_interval() -> None:
    n = np.ones(96)
    none = difference(np.zeros(96), np.zeros(96), n, seed=0)
    assert none.value == 0
    assert none.reason == ALIKE
    assert none.p == 1
    # As if the next problem might well differ: about two of 98.
    assert 0.015 < none.high == -none.low < 0.03
    one = difference(np.eye(96)[0], np.zeros(96), n, seed=0)
    assert one.low < 0 < 1 / 96 < one.high
    few = difference(np.ones(4), np.zeros(4), np.ones(4), seed=0)
    assert np.isnan(few.low)
    assert few.reason == "too few prompts"
    assert np.isnan(difference(np.zeros(0), np.zeros(0), np.zeros(0), seed=0).value)


def test_disagreement_by_hand() -> None:
    rng = np.random.default_rng(0)
    outcomes = {f"p{i}": (rng.random(rng.integers(1, 6)) < 0.4).tolist() for i in range(30)}
    frame = pl.DataFrame(
        {
            "prompt_id": [name for name, of in outcomes.items() for _ in of] + ["p0"],
            "correct": [right for of in outcomes.values() for right in of] + [None],
        }
    )
    pairs = [list(combinations(of, 2)) for of in outcomes.values() if len(of) > 1]
    by_hand = np.mean([np.mean([a != b for a, b in of]) for of in pairs])
    assert disagreement(frame) == pytest.approx(by_hand)
    assert disagreement(frame.with_columns(correct=pl.lit(None, pl.Boolean))) is None


def test_what_is_said_to_be_shown_is_shown_in_four_of_five_studies() -> None:
    rng = np.random.default_rng(1)
    problems, samples = 80, 2
    smallest = smallest_before(1.0, 0.5, problems, samples)
    n = np.full(problems, float(samples))
    shown = 0
    for i in range(120):
        arms = (rng.binomial(samples, 0.5 + s * smallest / 2, problems) for s in (1, -1))
        found = difference(*arms, n, seed=i)
        shown += found.low > 0
    assert binom.isf(0.9995, 120, 0.8) <= shown <= binom.isf(0.0005, 120, 0.83)
    assert smallest_before(0.25, 0.5, problems, samples) == pytest.approx(smallest / 2)


def test_variance_saved_is_a_ratio() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(size=5000)
    saved = variance_saved(rng.normal(size=5000), 2 * base)
    assert saved == pytest.approx(4, rel=0.1)
    assert np.isnan(variance_saved(np.zeros(5), base[:5]))


def test_a_share_of_right_responses() -> None:
    right = np.array([1.0, 1, 0, 0] * 10)
    found = share_right(right, np.repeat(np.arange(20), 2), seed=0)
    assert found.value == 0.5
    assert 0.2 < found.low < 0.5 < found.high < 0.8
    assert np.isnan(share_right(np.zeros(0), np.zeros(0, int), seed=0).value)
