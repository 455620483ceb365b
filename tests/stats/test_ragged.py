"""Array idioms of ragged sequences against loops in plain Python."""

import numpy as np
import pytest

from opd_diag.stats import ragged

LENGTHS = np.array([3, 0, 1, 4, 0])


def test_starts_and_indices_are_those_of_a_loop() -> None:
    starts, index = [], []
    for length in LENGTHS:
        starts.append(len(index))
        index += range(length)
    assert ragged.starts_of(LENGTHS).tolist() == starts
    assert ragged.index_in_sequence(LENGTHS).tolist() == index


def test_runs_end_where_any_key_changes() -> None:
    a, b = np.array([1, 1, 2, 2, 2]), np.array([0, 0, 0, 0, 1])
    starts = ragged.run_starts(a, b)
    assert starts.tolist() == [0, 2, 4]
    assert ragged.run_lengths(starts, 5).tolist() == [2, 2, 1]
    assert ragged.run_starts(np.zeros(0)).size == 0


def test_ranges_are_those_of_a_loop() -> None:
    starts = [10, 99, 4, 0, 7]
    expected = [i for s, n in zip(starts, LENGTHS, strict=True) for i in range(s, s + n)]
    assert ragged.ranges(starts, LENGTHS).tolist() == expected


def test_sums_leave_nan_out_and_count_the_rest() -> None:
    values = np.array([1, np.nan, 2, 5, 1, 1, np.nan, 8], np.float32)
    sums, counts = ragged.sequence_sums(values, LENGTHS)
    assert sums.tolist() == [3, 0, 5, 10, 0]
    assert counts.tolist() == [2, 0, 1, 3, 0]


def test_sums_of_phases_keep_their_shape_over_many_blocks() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 900, (700, 3))
    values = rng.random(int(lengths.sum()))
    sums, counts = ragged.sequence_sums(values, lengths)
    parts = np.split(values, np.cumsum(lengths.ravel())[:-1])
    assert sums == pytest.approx(np.array([part.sum() for part in parts]).reshape(700, 3))
    assert (counts == lengths).all()


@pytest.mark.parametrize("most", [1, 3, 100])
def test_blocks_tile_and_never_cut_a_sequence(most: int) -> None:
    seen = list(ragged.blocks(LENGTHS, most=most))
    assert seen[0][0].start == 0
    assert seen[-1][0].stop == LENGTHS.size
    starts = [*ragged.starts_of(LENGTHS).tolist(), int(LENGTHS.sum())]
    for rows, values in seen:
        assert (values.start, values.stop) == (starts[rows.start], starts[rows.stop])
        assert rows.stop - rows.start == 1 or LENGTHS[rows].sum() <= most
