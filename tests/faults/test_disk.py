"""Disks that fail, files that change, clocks that go back."""

import errno
import json
import os
import random
import resource
import shutil
import time
from pathlib import Path

import pytest

from opd_diag.analyses.release_points import release_points
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import ManifestError, OpdDiagError, StorageError, TableError
from opd_diag.scoring.models.fingerprints import fingerprint
from opd_diag.scoring.score import score
from opd_diag.tables import files
from opd_diag.tables.info import info
from opd_diag.tables.run import open_run
from tests.faults.failing import Failing

CODES = (errno.ENOSPC, errno.EIO)


def one_line(caught) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def steps_of_a_run(rollouts, options, same_as_clean, tmp_path_factory) -> int:
    with pytest.MonkeyPatch.context() as patch:
        failing = Failing(patch, None, 0)
        folder = tmp_path_factory.mktemp("steps") / "run"
        score(rollouts, **options, out=folder)
    same_as_clean(folder)
    return failing.steps


@pytest.mark.parametrize("share", [0.0, 0.15, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_write_that_fails_is_one_line_and_the_run_goes_on(
    rollouts, options, same_as_clean, steps_of_a_run, tmp_path, share
):
    at = 1 + round(share * (steps_of_a_run - 1))
    code = CODES[at % 2]
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, at, code)
        with pytest.raises(StorageError, match=os.strerror(code)) as caught:
            score(rollouts, **options, out=tmp_path / "run")
    assert "cannot be written" in one_line(caught)
    assert not list((tmp_path / "run").rglob("*.tmp"))
    score(rollouts, **options, out=tmp_path / "run")
    same_as_clean(tmp_path / "run")


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """A generated run and the tables of one analysis of it, not yet written."""
    run = save_run(null_run(prompts=6, samples=2, tokens=120), tmp_path_factory.mktemp("run"))
    return run, release_points(run)._asdict()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("code", CODES)
def test_an_analysis_that_cannot_be_written_leaves_whole_tables(
    analysed, tmp_path, code, monkeypatch
):
    run, tables = analysed
    run.save(tables, arguments={"which": 1}, folder=tmp_path)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        counted = Failing(patch, None, code)
        run.save(tables, arguments={"which": 2}, folder=tmp_path)
    after = contents(tmp_path)
    for at in range(1, counted.steps + 1):
        run.save(tables, arguments={"which": 1}, folder=tmp_path)
        with monkeypatch.context() as patch:
            Failing(patch, at, code)
            with pytest.raises(StorageError, match="cannot be written"):
                run.save(tables, arguments={"which": 2}, folder=tmp_path)
        found = contents(tmp_path)
        assert found.keys() == before.keys()
        assert all(found[name] in (before[name], after[name]) for name in found)
    assert before != after


def test_a_disk_that_is_full_leaves_the_earlier_results(analysed, tmp_path):
    """The system itself refuses the largest of the tables: not one has been replaced."""
    run, tables = analysed
    run.save(tables, arguments={"which": 1}, folder=tmp_path)
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = max(map(len, before.values())) - 100
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(StorageError, match="cannot be written") as caught:
            run.save(tables, arguments={"which": 2}, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_line(caught)
    assert contents(tmp_path) == before


def copy_of(run, folder: Path) -> Path:
    shutil.copytree(run.path, folder)
    return folder


KINDS = {
    "tokens": "tokens/checkpoint=b/part-00001.parquet",
    "gradients": "gradients/checkpoint=b/part-00001.safetensors",
    "rollouts": "rollouts.parquet",
    "vocab": "vocab.parquet",
}


def assert_reads_the_same(folder: Path, clean) -> None:
    run = open_run(folder)
    assert run.tokens().collect().equals(clean.tokens().collect())
    for name in run.checkpoints:
        for ours, theirs in zip(run.gradients(name), clean.gradients(name), strict=True):
            assert ours.tobytes() == theirs.tobytes()
    assert run.rollouts.equals(clean.rollouts)
    assert run.vocab.equals(clean.vocab)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["flipped", "truncated", "overwritten"])
def test_a_file_whose_bytes_changed_is_named(clean, tmp_path, kind, damage):
    """A flipped byte of a column decodes to another number: only a checksum finds it."""
    path = copy_of(clean, tmp_path / "run") / KINDS[kind]
    whole, rng = path.read_bytes(), random.Random(damage + kind)
    harmless, said = 0, []
    for _ in range(25):
        raw = bytearray(whole)
        at = rng.randrange(len(raw))
        if damage == "flipped":
            raw[at] ^= 1 << rng.randrange(8)
        elif damage == "truncated":
            del raw[at:]
        else:
            raw[at : at + 512] = rng.randbytes(len(raw[at : at + 512]))
        path.write_bytes(raw)
        try:
            assert_reads_the_same(tmp_path / "run", clean)
            harmless += 1
        except TableError as error:
            said.append(str(error))
    assert harmless == 0
    assert all(f"{path.name}: damaged" in line and "\n" not in line for line in said)
    path.write_bytes(whole)
    assert_reads_the_same(tmp_path / "run", clean)


def test_a_damaged_part_is_made_again(rollouts, options, clean, same_as_clean, tmp_path):
    folder = copy_of(clean, tmp_path / "run")
    path = folder / KINDS["tokens"]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)
    with pytest.raises(TableError, match="the same command makes it again"):
        open_run(folder).tokens("b")
    score(rollouts, **options, out=folder)
    same_as_clean(folder)


def test_a_manifest_half_written_is_one_line(rollouts, options, clean, tmp_path):
    folder = copy_of(clean, tmp_path / "run")
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for size in range(0, len(whole) - 2, max(1, len(whole) // 60)):
        path.write_bytes(whole[:size])
        with pytest.raises(ManifestError, match=r"manifest\.json: ") as caught:
            open_run(folder)
        one_line(caught)
    with pytest.raises(ManifestError):
        score(rollouts, **options, out=folder)


def test_a_result_of_another_run_is_stale_and_used_by_nothing(analysed, clean, tmp_path):
    other, tables = analysed
    folder = copy_of(clean, tmp_path / "run")
    other.save(tables, arguments={}, folder=folder / "results")
    run = open_run(folder)
    assert run.results()
    for name in run.results():
        assert info(run)["results"][name]["state"] == "stale"
        with pytest.raises(TableError, match="made from another run") as caught:
            run.result(name)
        one_line(caught)


def test_a_clock_that_goes_back_changes_nothing(
    rollouts, options, same_as_clean, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    students = {"a": options["students"]["a"]}
    score(rollouts, **options | {"students": students}, out=folder)
    for path in folder.rglob("*.*"):
        os.utime(path, (4e9, 4e9))
    past = iter(range(10**9, 0, -1))
    monkeypatch.setattr(time, "time", lambda: float(next(past)))
    score(rollouts, **options, out=folder)
    same_as_clean(folder)


def test_weights_with_the_size_and_time_of_others_are_told_apart(student, later, tmp_path):
    """As after `cp -p`, or when the clock was set back between two checkpoints."""
    folder = tmp_path / "model"
    shutil.copytree(student, folder)
    weights = folder / "model.safetensors"
    before, times = fingerprint(str(folder)), weights.stat()
    shutil.copyfile(Path(later) / weights.name, weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert weights.stat().st_size == times.st_size
    assert fingerprint(str(folder)) == fingerprint(later) != before


@pytest.mark.parametrize("name", ["run[1]", "run*", "{a,b}", "a b", "läuft", "x?y"])
def test_a_folder_may_have_any_name(clean, tmp_path, name):
    """No name is read as a pattern."""
    run = open_run(copy_of(clean, tmp_path / name))
    assert run.tokens().collect().equals(clean.tokens().collect())
    assert run.rollouts.equals(clean.rollouts)


def test_a_full_disk_at_the_lock_is_no_fault(rollouts, options, same_as_clean, tmp_path):
    """The lock holds without the number of its owner, which a full disk cannot take."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with files.run_lock(tmp_path), pytest.raises(StorageError, match="unknown is writing"):
            score(rollouts, **options, out=tmp_path)


def test_a_cache_of_digests_that_is_no_cache_is_passed_over(student, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = fingerprint(student)
    path = tmp_path / "opd-diag" / "digests.json"
    keys = json.loads(path.read_text())
    for wrong in (5, [], [1], "x", None, {"a": 1}):
        path.write_text(json.dumps(dict.fromkeys(keys, wrong)))
        assert fingerprint(student) == expected


def test_errors_of_storage_are_ours():
    assert issubclass(StorageError, OpdDiagError)
