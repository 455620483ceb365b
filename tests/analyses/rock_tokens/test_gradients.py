"""Gradient figures against loops over single occurrences, and their independence of n."""

import numpy as np
import pytest

from opd_diag.analyses.rock_tokens.gradients import type_gradients
from opd_diag.datasets import equal_gradients
from opd_diag.tables.gradients import GradientSums

HIDDEN = 6


def occurrences(counts, seed=0):
    """Draw a gradient for each occurrence: {(type, half): rows}."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(len(counts), HIDDEN)) + 0.5
    return {
        (kind, half): centre[kind] + rng.normal(size=(n, HIDDEN))
        for kind, pair in enumerate(counts)
        for half, n in enumerate(pair)
    }


def summed(single):
    cells = sorted(key for key in single if len(single[key]))
    return GradientSums(
        token_id=np.array([10 * kind for kind, _ in cells], np.int32),
        half=np.array([half for _, half in cells], np.uint8),
        n=np.array([len(single[cell]) for cell in cells]),
        S=np.array([single[cell].sum(axis=0) for cell in cells], np.float32),
        Q=np.array([(single[cell] ** 2).sum() for cell in cells]),
    )


COUNTS = [(12, 9), (5, 7), (40, 30), (2, 3), (1, 8), (0, 6), (6, 2), (1, 1), (1, 0)]


@pytest.fixture(scope="module")
def both():
    single = occurrences(COUNTS)
    types = np.arange(len(COUNTS), dtype=np.int32) * 10
    return single, type_gradients(summed(single), types)


def test_norms_and_coherence_are_those_of_pairs_of_occurrences(both):
    single, found = both
    for kind, (a, b) in enumerate(COUNTS):
        A, B = single[kind, 0], single[kind, 1]
        everything = np.concatenate([A, B])
        n = a + b
        mean = everything.mean(axis=0)
        assert found.norm2_raw[kind] == pytest.approx(mean @ mean, rel=1e-5)
        products = everything @ everything.T
        off = products.sum() - np.trace(products)
        if n > 1:
            assert found.norm2_iid[kind] == pytest.approx(off / (n * (n - 1)), rel=1e-4, abs=1e-5)
            coherence = off / ((n - 1) * np.trace(products))
            assert found.coherence[kind] == pytest.approx(coherence, rel=1e-4, abs=1e-5)
        else:
            assert np.isnan(found.norm2_iid[kind])
        if min(a, b) < 2:
            assert np.isnan(found.norm2_cross[kind])
            assert np.isnan(found.alignment[kind])
            assert np.isnan(found.contribution_share[kind])
        else:
            assert found.norm2_cross[kind] == pytest.approx((A @ B.T).mean(), rel=1e-4, abs=1e-5)


def test_alignment_is_a_projection_on_the_other_types_of_the_other_half(both):
    single, found = both
    for kind, counts in enumerate(COUNTS):
        if min(counts) < 2:
            continue
        sides = []
        for half in (0, 1):
            direction = sum(
                single[other, 1 - half].mean(axis=0)
                for other in range(len(COUNTS))
                if other != kind and COUNTS[other][1 - half] >= 5
            )
            own = single[kind, half].mean(axis=0)
            sides.append(own @ direction / np.linalg.norm(direction))
        assert found.alignment[kind] == pytest.approx(np.mean(sides), rel=1e-4)


def test_contributions_and_cosine_use_the_summed_gradients(both):
    single, found = both
    kinds = range(len(COUNTS))
    GA, GB = (sum(single[kind, half].sum(axis=0) for kind in kinds) for half in (0, 1))
    balanced = sum(
        np.concatenate([single[kind, 0], single[kind, 1]]).mean(axis=0) for kind in kinds
    )
    for kind, counts in enumerate(COUNTS):
        A, B = (single[kind, half].sum(axis=0) for half in (0, 1))
        S = A + B
        cosine = S @ balanced / np.linalg.norm(S) / np.linalg.norm(balanced)
        assert found.cosine[kind] == pytest.approx(cosine, rel=1e-4)
        if min(counts) >= 2:
            share = (A @ GB + B @ GA) / 2 / (GA @ GB)
            assert found.contribution_share[kind] == pytest.approx(share, rel=1e-4)


def test_contributions_of_all_types_make_the_whole():
    planted = equal_gradients([50, 20, 90, 300], prompt_noise=0.0)
    found = type_gradients(planted.sums, np.arange(4, dtype=np.int32))
    assert found.contribution_share.sum() == pytest.approx(1, abs=1e-5)


def test_types_that_are_not_asked_for_add_nothing_and_absent_ones_are_null():
    single = occurrences(COUNTS)
    sums = summed(single)
    some = type_gradients(sums, np.array([0, 10, 55], np.int32))
    alone = summed({key: rows for key, rows in single.items() if key[0] in (0, 1)})
    expected = type_gradients(alone, np.array([0, 10], np.int32))
    for ours, theirs in zip(some, expected, strict=True):
        np.testing.assert_allclose(ours[:2], theirs)
        assert np.isnan(ours[2])


@pytest.mark.parametrize("prompt_noise", [0.0, 0.8])
def test_equal_gradients_look_equal_at_every_frequency(prompt_noise):
    counts = [6] * 60 + [60] * 30 + [1500] * 6
    group = np.repeat([0, 1, 2], [60, 30, 6])
    cross, alignment, raw, cosine, share = [], [], [], [], []
    for seed in range(24):
        planted = equal_gradients(
            counts, hidden=12, norm2=1.0, noise=2.0, prompts=40, prompt_noise=prompt_noise,
            seed=seed,
        )  # fmt: skip
        found = type_gradients(planted.sums, np.arange(len(counts), dtype=np.int32))

        def mean(values):
            return [np.nanmean(values[group == g]) for g in range(3)]

        cross.append(mean(found.norm2_cross))
        alignment.append(mean(found.alignment))
        raw.append(mean(found.norm2_raw))
        cosine.append(mean(found.cosine))
        share.append(mean(found.contribution_share))
    cross, alignment, raw, cosine, share = map(np.array, (cross, alignment, raw, cosine, share))
    error = cross.std(axis=0) / np.sqrt(len(cross))
    assert (np.abs(cross.mean(axis=0) - 1) < 4 * error).all()
    for measured in (cross, alignment):
        for other in (1, 2):
            difference = measured[:, 0] - measured[:, other]
            assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))
    # What noise does to naive figures: rare types look large, and far from the common direction.
    assert raw.mean(axis=0)[0] > 4 * raw.mean(axis=0)[2]
    assert cosine.mean(axis=0)[0] < 0.7 * cosine.mean(axis=0)[2]
    # Under noise a type contributes what it occurs.
    expected = np.array([6, 60, 1500]) / sum(counts)
    error = share.std(axis=0) / np.sqrt(len(share))
    assert (np.abs(share.mean(axis=0) - expected) < 4 * error + 0.02 * expected).all()
