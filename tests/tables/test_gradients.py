from pathlib import Path

import numpy as np
import pytest

from opd_diag.errors import TableError
from opd_diag.tables.checksums import checksum
from opd_diag.tables.gradients import (
    GradientSums,
    add_gradients,
    gradients_path,
    read_gradients,
    write_gradients,
)
from opd_diag.tables.manifest import Manifest, Model, Part


def sums(kinds: list[tuple[int, int]], seed: int) -> GradientSums:
    rng = np.random.default_rng(seed)
    token_id, half = np.array(kinds).T
    return GradientSums(
        token_id.astype(np.int32),
        half.astype(np.uint8),
        rng.integers(1, 9, len(kinds)),
        rng.normal(size=(len(kinds), 3)).astype(np.float32),
        rng.random(len(kinds)),
    )


def listed(run: Path, parts: int) -> Manifest:
    """A manifest that lists the gradient parts of checkpoint `a` as they are."""
    paths = [gradients_path(run, "a", n) for n in range(parts)]
    return Manifest(
        fingerprint={},
        parts=(Part(0, 1, 1),) * parts,
        teacher=Model("t"),
        files={p.relative_to(run).as_posix(): checksum(p) for p in paths if p.exists()},
    )


def test_parts_are_added_by_type_and_half(tmp_path: Path) -> None:
    parts = [sums([(5, 0), (5, 1), (9, 0)], 1), sums([(2, 1), (5, 1)], 2)]
    for number, part in enumerate(parts):
        write_gradients(part, tmp_path, "a", number)
    whole = read_gradients(tmp_path, "a", listed(tmp_path, 2))
    assert list(zip(whole.token_id, whole.half, strict=True)) == [(2, 1), (5, 0), (5, 1), (9, 0)]
    np.testing.assert_array_equal(whole.S[2], parts[0].S[1] + parts[1].S[1])
    assert whole.Q[2] == parts[0].Q[1] + parts[1].Q[1]
    assert whole.n.sum() == sum(part.n.sum() for part in parts)


def test_one_part_is_itself() -> None:
    part = sums([(1, 0), (1, 1)], 3)
    for ours, theirs in zip(add_gradients([part]), part, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_missing_and_damaged_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="part-00000.safetensors: not in the manifest"):
        read_gradients(tmp_path, "a", listed(tmp_path, 1))
    write_gradients(sums([(1, 0)], 0), tmp_path, "a", 0)
    path, manifest = gradients_path(tmp_path, "a", 0), listed(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TableError, match="damaged"):
        read_gradients(tmp_path, "a", manifest)
    with pytest.raises(TableError, match="damaged"):
        read_gradients(tmp_path, "a", listed(tmp_path, 1))
    path.unlink()
    with pytest.raises(TableError, match="no such file"):
        read_gradients(tmp_path, "a", manifest)
