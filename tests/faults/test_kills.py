"""Processes that die: what was complete stays, what follows is what would have been."""

import json
import os
import shutil
import signal
import time

import pytest

from opd_diag.analyses.release_points import release_points
from opd_diag.analyses.rock_tokens import rock_tokens
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import StorageError
from opd_diag.interventions import knock_out
from opd_diag.scoring.score import score
from opd_diag.tables.files import LOCK_NAME
from opd_diag.tables.run import open_run
from tests.faults.kills import kill_and_go_on
from tests.interventions.quiet import Quiet


@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_runs_go_on_and_equal_an_uninterrupted_one(
    running, rollouts, options, same_as_clean, tmp_path, kills
):
    done = kill_and_go_on(
        running,
        lambda folder: ("score", rollouts, {**options, "out": str(folder)}),
        lambda number: tmp_path / str(number),
        same_as_clean,
        kills=kills,
        seed=kills,
    )
    assert sum(done.sent.values()) == kills
    assert all(done.sent.values())


def test_killed_analyses_leave_whole_tables(running, tmp_path):
    dataset = null_run(prompts=8, samples=2, tokens=150)
    clean, run = (save_run(dataset, tmp_path / name) for name in ("clean", "killed"))
    clean.save(release_points(clean)._asdict(), arguments={})

    def same_tables(folder):
        for path in clean.results_folder.iterdir():
            assert (folder / "results" / path.name).read_bytes() == path.read_bytes()

    done = kill_and_go_on(
        running,
        lambda folder: ("analyze", str(folder)),
        lambda number: run.path,
        same_tables,
        kills=4,
        seed=2,
    )
    assert sum(done.sent.values()) == 4
    for name in clean.results():
        assert run.result(name).equals(clean.result(name))


def test_killed_knock_outs_go_on_and_equal_an_uninterrupted_one(running, clean, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(clean.path, run)
    opened = open_run(run)
    opened.save(rock_tokens(opened, top=8, min_count=1))
    problems = tmp_path / "problems.jsonl"
    lines = [{"prompt_id": f"p{i}", "answer": "e"} for i in range(8)]
    problems.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    options = {
        "verifier": "exact", "problems": str(problems), "random_lists": 0, "samples": 2
    }  # fmt: skip
    whole = knock_out(run, **options, out=tmp_path / "whole", progress=Quiet())
    parts = {p.relative_to(tmp_path / "whole"): p for p in (tmp_path / "whole").rglob("part-*")}
    assert len(parts) == 1 + len(whole.knock_out.filter(whole.knock_out["kind"] != "unmasked"))

    def same_responses(folder):
        assert {p.relative_to(folder) for p in folder.rglob("part-*")} == set(parts)
        for name, path in parts.items():
            assert (folder / name).read_bytes() == path.read_bytes()

    done = kill_and_go_on(
        running,
        lambda folder: ("knock_out", str(run), {**options, "out": str(folder)}),
        lambda number: tmp_path / f"killed{number}",
        same_responses,
        kills=2,
        seed=5,
    )
    assert sum(done.sent.values()) == 2


def test_what_a_kill_leaves_of_the_first_file_hinders_nobody(
    rollouts, options, same_as_clean, tmp_path
):
    """A process that dies in its first write leaves a temporary file and no manifest."""
    folder = tmp_path / "run"
    (folder / "tokens" / "checkpoint=a").mkdir(parents=True)
    for left in (".manifest.json.77.tmp", "tokens/checkpoint=a/.part-00000.parquet.77.tmp"):
        (folder / left).write_text("half")
    (folder / "tokens" / "checkpoint=a").rename(folder / "kept")
    with pytest.raises(StorageError, match="holds 2 other files"):
        score(rollouts, **options, out=folder)
    (folder / "kept").rename(tmp_path / "elsewhere")
    (folder / "tokens").rmdir()
    score(rollouts, **options, out=folder)
    same_as_clean(folder)


def test_a_second_process_is_refused_until_the_first_dies(
    running, rollouts, options, same_as_clean, tmp_path
):
    folder = tmp_path / "run"
    first = running.start("score", rollouts, {**options, "out": str(folder)})
    while not (folder / "manifest.json").exists():
        time.sleep(0.005)
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(StorageError, match=f"process {first} is writing to this run") as caught:
        score(rollouts, **options, out=folder)
    assert "\n" not in str(caught.value)
    os.kill(first, signal.SIGKILL)
    assert running.wait()
    assert (folder / LOCK_NAME).read_text() == str(first)
    score(rollouts, **options, out=folder)
    same_as_clean(folder)
