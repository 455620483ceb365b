"""Files that are whole but not the run's own: noticed by readers, made again by score."""

import json
import os
import shutil
import subprocess
import sys

import polars as pl
import pytest
from typer.testing import CliRunner

from opd_diag.analyses.release_points import release_points
from opd_diag.cli import app
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import ManifestError, TableError
from opd_diag.scoring.score import score
from opd_diag.tables.info import info
from opd_diag.tables.manifest import MANIFEST_NAME, digest, read_manifest
from opd_diag.tables.run import Run, open_run
from tests.faults.edits import EDITS


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


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_is_not_the_runs_own_is_refused_and_made_again(
    rollouts, options, clean, other, same_as_clean, tmp_path, edit
):
    folder = tmp_path / "run"
    shutil.copytree(clean.path, folder)
    read_all(folder)
    EDITS[edit](folder, other.path)
    with pytest.raises(TableError, match="damaged") as caught:
        read_all(folder)
    assert "\n" not in str(caught.value)
    assert info(clean, verify=True)["faults"] == {}
    score(rollouts, **options, out=folder)
    read_all(folder)
    same_as_clean(folder)


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


@pytest.mark.parametrize("change", ["value", "arguments", "name"])
def test_an_edited_result_is_refused(tmp_path, change):
    run = save_run(null_run(prompts=6, samples=2, tokens=120), tmp_path)
    first, second, *_ = run.save(release_points(run))
    metadata = pl.read_parquet_metadata(first)
    metadata = {key: value for key, value in metadata.items() if key.startswith("opd_diag")}
    table = pl.read_parquet(first)
    if change == "value":
        table = table.with_columns(pl.col("n_tokens") + 1)
    elif change == "arguments":
        metadata["opd_diag"] = metadata["opd_diag"].replace("0.1.0", "0.1.1")
    if change == "name":
        table = pl.read_parquet(second)
        metadata = {k: v for k, v in pl.read_parquet_metadata(second).items() if "opd" in k}
    table.write_parquet(first, metadata=metadata)
    with pytest.raises(TableError) as caught:
        run.result(first.stem)
    assert "\n" not in str(caught.value) or change == "name"
    state = info(run)["results"][first.stem]["state"]
    assert state == ("stale" if change == "name" else "damaged")  # its columns are others


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
    assert done.exit_code in (0, 1)
    assert "damaged" in done.output or "changed" in done.output
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


def test_a_table_that_does_not_fit_its_place_is_not_accepted(clean, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(clean.path, folder)
    part = folder / "tokens" / "checkpoint=a" / "part-00001.parquet"
    pl.read_parquet(part).head(3).write_parquet(part)
    with pytest.raises(TableError, match=r"part-00001\.parquet: 3 rows; expected \d+, of rollouts"):
        info(folder, accept_edits=True)
    with pytest.raises(TableError, match="damaged"):
        read_all(folder)


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
