"""Parts, batches, repetition, alignment: numbers without models."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opd_diag.scoring.parts.alignment import add_packed, count_differences, diagnose, pack, rounding
from opd_diag.scoring.parts.batches import plan_batches
from opd_diag.scoring.parts.noise import sample_rollouts
from opd_diag.scoring.parts.token_frame import flat, key_columns, repeats
from opd_diag.scoring.sequences import plan_parts
from opd_diag.scoring.token_lists import Ragged, ragged
from opd_diag.tables.checksums import digest_table
from opd_diag.tables.manifest import Part
from tests.scoring.reference import brute_repeat

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)


@given(LENGTHS, st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_parts_hold_every_rollout_once_and_always_rows(lengths, part_tokens):
    parts = plan_parts(np.array(lengths), part_tokens)
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == len(lengths)
    assert all(part.rows == sum(lengths[part.start : part.stop]) > 0 for part in parts)
    # A part ends with the first rollout that reaches its share of the tokens.
    assert all(part.rows < part_tokens + max(lengths) for part in parts)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_batches_hold_every_sequence_once_under_the_budget(lengths, budget):
    batches = plan_batches(np.array(lengths), budget)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    for batch, most in zip(batches, longest, strict=True):
        assert len(batch) == 1 or len(batch) * most <= budget


@given(st.lists(st.lists(st.integers(0, 3), max_size=50), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_repeats_agree_with_brute_force(responses):
    values = np.array([token for response in responses for token in response], np.int32)
    offsets = np.cumsum([0, *map(len, responses)])
    want = [n for response in responses for n in brute_repeat(response)]
    assert repeats(Ragged(values, offsets)).tolist() == want


def test_repeats_stop_at_32():
    values = np.full(100, 7, np.int32)
    assert repeats(Ragged(values, np.array([0, 100]))).tolist() == [min(t, 32) for t in range(100)]


def test_lists_become_one_array():
    lists = pl.Series([[1, 2], [], [3]], dtype=pl.List(pl.Int32))
    got = ragged(lists)
    assert [got[i].tolist() for i in range(3)] == [[1, 2], [], [3]]
    assert got.lengths.tolist() == [2, 0, 1]
    masks = pl.Series([[True, False, True], None, [], [False]], dtype=pl.List(pl.Boolean))
    cut = flat(masks, np.array([2, 2, 0, 1]))
    assert cut.to_list() == [True, False, None, None, False]


def test_the_noise_sample_spreads_over_lengths_and_leaves_out_the_empty():
    lengths = np.array([0, *range(1, 200), 0])
    chosen = sample_rollouts(lengths, seed=0)
    assert 4 < len(chosen) < 32
    assert lengths[chosen].sum() <= 0.05 * lengths.sum()
    assert len(sample_rollouts(np.repeat(lengths, 10), seed=0)) == 32
    assert len(sample_rollouts(lengths[:12], seed=0)) == 4
    assert (np.diff(lengths[chosen]) > 0).all()
    assert lengths[chosen].min() >= 1
    assert sample_rollouts(lengths, seed=0).tolist() == chosen.tolist()
    assert sample_rollouts(lengths, seed=1).tolist() != chosen.tolist()
    assert sample_rollouts(np.array([3, 0, 2]), seed=0).tolist() == [2, 0]


def made(n=2_000, seed=0):
    """Student log-probs of ten responses."""
    rng = np.random.default_rng(seed)
    return -rng.gamma(0.5, 1.5, n).astype(np.float32), np.repeat(np.arange(10), n // 10), rng


@pytest.mark.parametrize("seed", range(5))
def test_log_probs_with_the_noise_of_an_engine_are_aligned(seed):
    student, response, rng = made(seed=seed)
    sampled = student + 0.01 * rng.standard_normal(len(student)).astype(np.float32)
    got = diagnose(count_differences(sampled, student, response))
    assert got.diagnosis == "aligned"
    difference = np.abs(sampled - student)
    assert got.median == pytest.approx(np.median(difference), rel=0.1)
    assert got.p95 == pytest.approx(np.quantile(difference, 0.95), rel=0.1)


def test_rounded_log_probs_of_a_sure_model_are_aligned():
    """Rounding turns them into 0, which a colder model fits far better without being meant."""
    student, response, _ = made()
    student /= 20_000
    sampled = np.round(student, 4)
    colder = {0.5: count_differences(sampled, student**3, response)}
    assert (sampled == 0).mean() > 0.5
    got = diagnose(count_differences(sampled, student, response), colder)
    assert got.diagnosis == "aligned"
    assert got.p95 <= 1e-6


@pytest.mark.parametrize("decimals", [2, 3, 4])
def test_rounding_is_seen_and_forgives_no_more_than_it_changed(decimals):
    student, response, rng = made()
    sampled = np.round(student, decimals)
    assert rounding(sampled) == pytest.approx(0.5 * 10.0**-decimals)
    assert rounding(student) == 0
    assert rounding(np.round(student[:10], decimals)) == 0  # too few to know
    other = student + rng.normal(0, 0.3, len(student)).astype(np.float32)
    got = diagnose(count_differences(np.round(other, decimals), student, response))
    assert got.diagnosis == "other checkpoint"
    assert got.median == pytest.approx(np.median(np.abs(other - student)), rel=0.1)


@pytest.mark.parametrize(("shift", "where"), [(1, "before"), (-1, "after")])
def test_a_shift_is_told_with_its_direction(shift, where):
    student, response, _ = made()
    got = diagnose(count_differences(np.roll(student, shift), student, response))
    assert got.diagnosis == "shifted by one"
    assert where in got.detail


def test_other_log_probs_are_no_shift():
    student, response, rng = made()
    sampled = student + rng.normal(0, 0.3, len(student)).astype(np.float32)
    assert diagnose(count_differences(sampled, student, response)).diagnosis == "other checkpoint"


def test_without_log_probs_there_is_no_diagnosis():
    student, response, _ = made()
    got = diagnose(count_differences(np.full_like(student, np.nan), student, response))
    assert (got.n, got.median, got.diagnosis) == (0, None, "too few tokens")


def test_differences_of_parts_add_up():
    student, response, rng = made()
    sampled = student + rng.normal(0, 0.3, len(student)).astype(np.float32)
    whole = count_differences(sampled, student, response)
    parts = [
        pack(count_differences(sampled[rows], student[rows], response[rows]))
        for rows in (response < 4, response >= 4)
    ]
    added = add_packed(parts)
    for shift, counts in whole.items():
        np.testing.assert_array_equal(added[shift], counts)


def test_the_digest_of_a_table_sees_every_value():
    base = pl.DataFrame(
        {
            "a": pl.Series([[1, 2], [3], None], dtype=pl.List(pl.Int32)),
            "b": ["x", None, "yz"],
            "c": [b"1", b"", b"23"],
            "d": [1.5, None, 2.0],
        }
    )
    others = [
        base.with_columns(a=pl.Series([[1], [2, 3], None], dtype=pl.List(pl.Int32))),
        base.with_columns(a=pl.Series([[1, 2], [3], []], dtype=pl.List(pl.Int32))),
        base.with_columns(b=pl.Series(["xy", None, "z"])),
        base.with_columns(b=pl.Series(["x", "", "yz"])),
        base.with_columns(c=pl.Series([b"12", b"", b"3"])),
        base.with_columns(d=pl.Series([1.5, 2.0, None])),
        base.rename({"d": "e"}),
    ]
    digests = [digest_table(table) for table in (base, *others)]
    assert len(set(digests)) == len(digests)
    assert digest_table(base.clone()) == digests[0]


def test_a_large_batch_takes_sequences_of_like_length_only():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(2_000), 0.8, 500), 1, 20_000).astype(int)
    batches = plan_batches(lengths, 65_536)
    for batch in batches:
        spread, tokens = (
            lengths[batch].min() / lengths[batch].max(),
            lengths[batch].max() * len(batch),
        )
        assert spread >= 0.9 or tokens < 8_192 + lengths[batch].max()
    padding = 1 - lengths.sum() / sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padding < 0.1
    alike = plan_batches(np.full(64, 1_000), 65_536)
    assert len(alike) == 1


def test_segments_of_scored_tokens_end_with_their_span():
    vocab = pl.DataFrame({"bytes": [bytes([n]) for n in range(128)], "is_special": [False] * 128})
    ids = list(b"So it is tool text and. Then more. End")
    inside = [n < 9 or n > 22 for n in range(len(ids))]
    masks = pl.Series([inside, None], dtype=pl.List(pl.Boolean))
    table = pl.DataFrame({"loss_mask": masks, "half": pl.Series([0, 1], dtype=pl.UInt8)})
    responses = Ragged(np.array(ids * 2, np.int32), np.array([0, len(ids), 2 * len(ids)]))
    part = Part(0, 2, 2 * len(ids))
    keys = key_columns(table, part, responses, vocab, "punkt")
    own, plain = (keys.filter(rollout=n) for n in (0, 1))
    turns = own.group_by("segment").agg(pl.col("in_loss").n_unique())["in_loss"]
    assert turns.to_list() == [1] * 4
    assert plain["segment"].max() == 2
