"""Files that are whole but not the run's own: noticed by readers, made again by score."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from opd_diag.analyses.release_points import release_points
from opd_diag.cli import app
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import ManifestError, OpdDiagError, TableError
from opd_diag.scoring.score import score
from opd_diag.tables.info import info
from opd_diag.tables.manifest import MANIFEST_NAME, digest, read_manifest
from opd_diag.tables.run import Run, open_run
from tests.faults.edits import EDITS, MANIFEST_EDITS, RESULT_EDITS


@pytest.fixture(scope="module")
def other(rollouts, options, tmp_path_factory) -> Run:
    """A run of the same shape: the names of the checkpoints exchanged, other answers right."""
    students = dict(zip("ab", reversed(options["students"].values()), strict=True))
    table = rollouts.table.with_columns(correct=pl.lit(True))
    rollouts = type(rollouts)(table, rollouts.report)
    folder = tmp_path_factory.mktemp("other") / "run"
    return score(rollouts, **options | {"students": students}, out=folder)


def read_all(folder) -> None:
    run = open_run(folder)
    run.tokens().collect()
    _ = run.rollouts, run.vocab, *(run.gradients(name) for name in run.checkpoints)


def inodes(folder) -> dict[str, int]:
    """Which file stands at each place of a run, but its manifest."""
    return {
        path.relative_to(folder).as_posix(): path.lstat().st_ino
        for path in folder.rglob("*.*")
        if path.name not in (MANIFEST_NAME, ".lock") and not path.is_dir()
    }


def parts_of(names) -> set[tuple[str, str]]:
    """Checkpoint and number of the parts that files belong to."""
    return {(Path(name).parent.name, Path(name).stem) for name in names}


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_is_not_the_runs_own_is_refused_and_made_again(
    rollouts, options, clean, other, same_as_clean, tmp_path, edit
):
    folder = tmp_path / "run"
    shutil.copytree(clean.path, folder)
    read_all(folder)
    EDITS[edit](folder, other.path)
    with pytest.raises(TableError, match=r"damaged|missing|no such file") as caught:
        read_all(folder)
    assert "\n" not in str(caught.value)
    changed = set(info(folder, verify=True)["faults"]) if "rollouts" not in edit else set()
    before = inodes(folder)
    score(rollouts, **options, out=folder)
    read_all(folder)
    same_as_clean(folder)
    if changed:  # exactly the parts that did not match were made again, both files of each
        again = {name for name, inode in inodes(folder).items() if before.get(name) != inode}
        assert changed <= again
        assert parts_of(again) == parts_of(changed)


def test_a_result_of_another_run_is_stale_though_all_its_names_are_the_same(tmp_path):
    """Generated runs of one seed have equal fingerprints; their files tell them apart."""
    runs = [
        save_run(null_run(prompts=6, samples=2, tokens=120, seed=seed), tmp_path / str(seed))
        for seed in (1, 2)
    ]
    for run in runs:
        run.save(release_points(run))
    assert runs[0].manifest.fingerprint == runs[1].manifest.fingerprint
    mine, theirs = (run.results_folder / "release_points.parquet" for run in runs)
    mine.write_bytes(theirs.read_bytes())
    with pytest.raises(TableError, match="made from another run"):
        runs[0].result("release_points")
    found = info(runs[0], verify=True)
    assert found["results"]["release_points"]["state"] == "stale"
    assert list(found["faults"]) == ["results/release_points.parquet"]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[Run]:
    """Two generated runs with results."""
    runs = [
        save_run(
            null_run(prompts=6, samples=2, tokens=120, seed=seed), tmp_path_factory.mktemp("r")
        )
        for seed in (1, 2)
    ]
    for run in runs:
        run.save(release_points(run))
    return runs


@pytest.mark.parametrize("change", RESULT_EDITS)
def test_a_result_that_is_not_as_it_was_written_is_refused(results, change):
    run, other = results
    name = run.results()[0]
    path = run.results_folder / f"{name}.parquet"
    raw = path.read_bytes()
    try:
        RESULT_EDITS[change](path, other.results_folder)
        with pytest.raises(TableError, match="damaged|another run|other columns") as caught:
            run.result(name)
        assert "\n" not in str(caught.value)
        assert info(run)["results"][name]["state"] in ("damaged", "stale")
    finally:
        path.unlink()
        path.write_bytes(raw)
    assert run.result(name).height


def test_metadata_of_a_result_with_other_names_or_kinds_are_refused(results):
    """Names and kinds before the checksum, which needs them: a changed byte may hit a name."""
    run = results[0]
    name = run.results()[0]
    path = run.results_folder / f"{name}.parquet"
    raw, table = path.read_bytes(), pl.read_parquet(path)
    stored = {k: v for k, v in pl.read_parquet_metadata(path).items() if "opd_diag" in k}
    whole = json.loads(stored["opd_diag"])
    for key in whole:
        for value in (None, [1], 5, {}):
            changed = {k: v for k, v in whole.items() if k != key}
            if value is not None:
                changed[key] = value
            text = json.dumps(changed)
            table.write_parquet(path, metadata=stored | {"opd_diag": text})
            with pytest.raises(TableError) as caught:
                run.result(name)
            assert "\n" not in str(caught.value)
    path.write_bytes(raw)


def test_a_panic_of_a_library_at_a_damaged_table_is_one_line(results, monkeypatch):
    def panic(*_, **__):
        raise pl.exceptions.PanicException("called `unwrap()`\nand more")

    run = results[0]
    monkeypatch.setattr(pl, "read_parquet", panic)
    with pytest.raises(TableError, match=r"damaged \(called `unwrap\(\)`\); expected a whole"):
        run.result(run.results()[0])


def test_edits_on_purpose_are_accepted_and_recorded(rollouts, options, clean, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(clean.path, folder)
    run = open_run(folder)
    run.save(release_points(run))
    EDITS["rollouts with `correct` inverted"](folder, folder)
    part = folder / "tokens" / "checkpoint=a" / "part-00001.parquet"
    pl.read_parquet(part).with_columns(pl.col("reverse_kl") * 2).write_parquet(part)
    cli = CliRunner()
    done = cli.invoke(app, ["info", str(folder), "--verify"])
    assert done.exit_code == 1
    for name in ("rollouts.parquet", "tokens/checkpoint=a/part-00001.parquet"):
        assert f"{name}: changed" in done.output
    done = cli.invoke(app, ["info", str(folder), "--accept-edits", "--verify", "--json"])
    contents = json.loads(done.stdout)
    changed = ["rollouts.parquet", "tokens/checkpoint=a/part-00001.parquet"]
    assert contents["accepted"] == changed
    assert [edit["file"] for edit in contents["edits"]] == changed
    assert f"changed by hand and accepted: {', '.join(changed)}" in contents["warnings"]
    assert all("made from another run" in text for text in contents["faults"].values())
    read_all(folder)
    run = open_run(folder)
    assert run.rollouts["correct"].all()
    ratio = run.tokens("a").collect()["reverse_kl"] / clean.tokens("a").collect()["reverse_kl"]
    assert set(ratio.drop_nans().round(3)) == {1.0, 2.0}
    score(rollouts, **options, out=folder)
    assert open_run(folder).rollouts["correct"].all()


def test_a_part_that_nobody_planned_is_named(clean, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(clean.path, folder)
    parts = folder / "tokens" / "checkpoint=a"
    shutil.copy(parts / "part-00000.parquet", parts / "part-00009.parquet")
    read_all(folder)
    faults = info(folder, verify=True)["faults"]
    assert faults == {"tokens/checkpoint=a/part-00009.parquet": "not listed"}


def test_a_table_that_does_not_fit_its_place_is_not_accepted(clean, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(clean.path, folder)
    part = folder / "tokens" / "checkpoint=a" / "part-00001.parquet"
    pl.read_parquet(part).head(3).write_parquet(part)
    with pytest.raises(TableError, match=r"part-00001\.parquet: 3 rows; expected \d+, of rollouts"):
        info(folder, accept_edits=True)
    with pytest.raises(TableError, match="damaged"):
        read_all(folder)


@pytest.mark.parametrize("change", MANIFEST_EDITS)
def test_a_manifest_that_is_not_as_it_was_written_is_refused(clean, other, tmp_path, change):
    folder = tmp_path / "run"
    shutil.copytree(clean.path, folder)
    texts = [(run.path / MANIFEST_NAME).read_text() for run in (clean, other)]
    (folder / MANIFEST_NAME).write_text(MANIFEST_EDITS[change](*texts))
    with pytest.raises(OpdDiagError) as caught:
        read_all(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_run_is_not_made_into_one(tmp_path):
    with pytest.raises(ManifestError, match="no such file; expected a run"):
        info(tmp_path / "typo", accept_edits=True)
    with pytest.raises(ManifestError, match="no such file; expected a run"):
        info(tmp_path, accept_edits=True)
    assert not any(tmp_path.iterdir())


def test_an_edited_manifest_is_refused_until_it_is_accepted(clean, tmp_path):
    shutil.copytree(clean.path, tmp_path / "run")
    path = tmp_path / "run" / MANIFEST_NAME
    values = json.loads(path.read_text())
    values["checkpoints"]["a"]["noise_floor"]["p95"]["js"] = 0.5
    path.write_text(json.dumps(values))
    with pytest.raises(ManifestError, match="its checksum does not fit"):
        open_run(tmp_path / "run")
    assert info(tmp_path / "run", accept_edits=True)["accepted"] == [MANIFEST_NAME]
    run = open_run(tmp_path / "run")
    assert run.noise_floor("a")["js"] == 0.5
    assert run.manifest.edits[0]["file"] == MANIFEST_NAME


def as_version_1(folder) -> None:
    """Make a run what the schema version before would have read."""
    path = folder / MANIFEST_NAME
    values = json.loads(path.read_text())
    for key in ("files", "edits", "checksum"):
        del values[key]
    values["schema_version"] = 1
    path.write_text(json.dumps(values))


def test_a_run_of_the_version_before_opens_says_so_and_can_be_taken_over(clean, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(clean.path, folder)
    as_version_1(folder)
    run = open_run(folder)
    assert run.tokens().collect().equals(clean.tokens().collect())
    assert run.gradients("b").n.sum() == clean.gradients("b").n.sum()
    run.save(release_points(run))
    assert run.result("release_points").height
    assert any("made in schema version 1" in line for line in info(run)["warnings"])
    contents = info(folder, accept_edits=True, verify=True)
    assert contents["schema_version"] == 2  # its tokens lack what version 3 has
    assert list(contents["faults"]) == [f"results/{name}.parquet" for name in run.results()]
    assert open_run(folder).manifest.files == clean.manifest.files
    EDITS["one token part swapped between checkpoints"](folder, folder)
    with pytest.raises(TableError, match="damaged"):
        read_all(folder)


def test_a_changed_byte_of_a_file_of_version_1_is_noticed(tmp_path):
    """Such files hold their checksum among their metadata, made over zeros in its place."""
    import hashlib

    run = save_run(null_run(prompts=6, samples=2, tokens=60), tmp_path)
    as_version_1(tmp_path)
    rollouts = run.rollouts
    path = tmp_path / "rollouts.parquet"
    mark = "sha256 of this file with 64 zeros here: "
    pl.read_parquet(path).write_parquet(path, metadata={"opd_diag_seal": mark + 64 * "0"})
    raw = path.read_bytes()
    place = raw.rindex(mark.encode()) + len(mark)
    sealed = raw[:place] + hashlib.sha256(raw).hexdigest().encode() + raw[place + 64 :]
    path.write_bytes(sealed)
    assert open_run(tmp_path).rollouts.equals(rollouts)
    path.write_bytes(sealed[:500] + bytes([sealed[500] ^ 1]) + sealed[501:])
    with pytest.raises(TableError, match="damaged"):
        _ = open_run(tmp_path).rollouts


@pytest.mark.parametrize("name", [MANIFEST_NAME, "results/release_points.parquet"])
def test_nothing_waits_for_a_pipe(tmp_path, name):
    """In a process of its own with a limit on time: opening a pipe for reading never ends."""
    run = save_run(null_run(prompts=6, samples=2, tokens=60), tmp_path)
    run.save(release_points(run))
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    command = [sys.executable, "-m", "opd_diag", "info", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    text = done.stdout + done.stderr
    assert "not a regular file" in text
    assert "Traceback" not in text


def test_the_manifest_lists_every_file_of_a_run(clean):
    manifest = read_manifest(clean.path)
    files = {
        path.relative_to(clean.path).as_posix()
        for path in clean.path.rglob("*.*")
        if path.is_file() and path.name not in (".lock", MANIFEST_NAME)
    }
    assert files == set(manifest.files)
    values = json.loads((clean.path / MANIFEST_NAME).read_text())
    assert values.pop("checksum") == digest(values)
