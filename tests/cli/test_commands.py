"""The commands on a small run: what they write, print and return."""

import json
import os
import subprocess
import sys
import time

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

import opd_diag
from opd_diag import open_run
from opd_diag.cli import app
from opd_diag.cli.analyze import working_on
from opd_diag.cli.option_values import name_students
from opd_diag.datasets import null_run, save_run, teachable_run
from opd_diag.tables.columns import ANALYSES


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    """A generated run, and what `analyze all` said of it."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    save_run(teachable_run(prompts=12, samples=2, tokens=120), folder)
    return folder, CliRunner().invoke(app, ["analyze", "all", str(folder)])


def test_analyze_all_writes_every_table_and_names_them(analyzed):
    folder, result = analyzed
    assert result.exit_code == 0, result.output
    of_all = {name: made for name, made in ANALYSES.items() if name != "update_alignment"}
    tables = {name for made in of_all.values() for name in made}
    assert {path.stem for path in (folder / "results").iterdir()} == tables
    written = [line for line in result.stdout.splitlines() if line.startswith("wrote ")]
    assert written == [f"wrote {len(tables)} tables to {folder}/results"]
    assert "KL(student ‖ teacher)" in result.stdout
    assert len(result.stdout.splitlines()) < 60


def test_results_hold_the_arguments_that_made_them(analyzed, run_cli, tmp_path):
    folder, _ = analyzed
    result = run_cli("analyze", "rock-tokens", folder, "--top", 7, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    metadata = pl.read_parquet_metadata(tmp_path / "rock_tokens.parquet")["opd_diag"]
    assert json.loads(metadata)["arguments"]["top"] == 7
    assert pl.read_parquet(tmp_path / "rock_tokens.parquet")["is_rock"].sum() <= 7


def test_an_analysis_that_fails_does_not_lose_the_others(run_cli, tmp_path):
    names = [text for name in ("step0", "step1") for text in ("--checkpoint", name)]
    broken = tmp_path / "run"
    save_run(null_run(prompts=6, tokens=80, checkpoints=("step0", "step1", "x")), broken)
    result = run_cli("analyze", "all", broken, *names, "--checkpoint", "x")
    assert result.exit_code == 1
    assert "failed: teachability" in result.stderr
    assert (broken / "results/rock_tokens.parquet").exists()
    assert not (broken / "results/teachability.parquet").exists()


def test_plot_draws_and_names_what_it_could_not(analyzed, run_cli, tmp_path):
    folder, _ = analyzed
    result = run_cli("plot", folder, "rock_cutoff", "release-points", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "rock_cutoff.png").stat().st_size > 5_000
    drawn = list(tmp_path.glob("*.png"))
    assert tmp_path / "release_points.png" in drawn
    assert f"wrote {len(drawn)} figures to {tmp_path}" in result.stdout
    bare = tmp_path / "bare"
    save_run(teachable_run(prompts=6, tokens=80), bare)
    result = run_cli("plot", bare, "teachability")
    assert result.exit_code == 1
    line = f"error: {bare}: no results; run `opd-diag analyze teachability {bare}` first"
    assert result.stderr.splitlines() == [line]
    assert run_cli("plot", folder, "no-such-figure").exit_code == 2


def test_results_in_another_folder_can_be_drawn(analyzed, run_cli, tmp_path):
    folder, _ = analyzed
    run_cli("analyze", "score-summary", folder, "--out", tmp_path / "mine")
    result = run_cli(
        "plot", folder, "score_histogram", "rock_cutoff", "--results", tmp_path / "mine",
        "--out", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (tmp_path / "score_histogram.png").exists()
    assert "not drawn: rock_cutoff: run `opd-diag analyze rock-tokens" in result.stdout
    result = run_cli("plot", folder, "--results", tmp_path / "nowhere")
    assert result.stderr.startswith(f"error: {tmp_path}/nowhere: no results; run `")


def test_a_long_analysis_says_that_it_runs(capfd):
    with working_on("rock-tokens", every=0.05):
        time.sleep(0.2)
    lines = capfd.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 4
    assert set(lines) == {"rock-tokens: running for 0 s"}
    with working_on("rock-tokens"):
        pass
    assert not capfd.readouterr().err


def test_an_interrupted_command_says_what_stays(analyzed, run_cli, monkeypatch):
    folder, _ = analyzed

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(opd_diag, "rock_tokens", interrupted)
    before = {path: path.read_bytes() for path in (folder / "results").iterdir()}
    result = run_cli("analyze", "rock-tokens", folder)
    assert result.exit_code == 130
    assert result.stderr.splitlines() == [
        "interrupted: tables that were written stay; the others are as they were before"
    ]
    assert {path: path.read_bytes() for path in (folder / "results").iterdir()} == before


def test_info_tells_results_and_json(analyzed, run_cli):
    folder, _ = analyzed
    text = run_cli("info", folder).stdout
    assert "rock_selectors" in text
    assert "2,880 response tokens" in text
    found = json.loads(run_cli("info", folder, "--json").stdout)
    assert found["rollouts"]["tokens"] == open_run(folder).tokens("step0").collect().height
    assert found["results"]["trap_cuts"]["state"] == "fresh"
    files = [
        path
        for kind in ("tokens", "gradients")
        for path in (folder / kind / "checkpoint=step0").iterdir()
    ]
    assert found["checkpoints"]["step0"]["bytes"] == sum(path.stat().st_size for path in files)


def test_results_of_text_say_that_it_was_tokenised_again(
    run_cli, write, teacher, student, tmp_path
):
    rows = [{"prompt": f"{n}", "response": "The answer is 12. Then we add. " * 4} for n in range(6)]
    out = tmp_path / "run"
    scored = run_cli(
        "score", write(rows), "--teacher", teacher, "--student", f"a={student}", "--out", out
    )
    assert scored.exit_code == 0, scored.output
    result = run_cli("analyze", "release-points", out)
    assert "6 of 6 rollouts were tokenised again from text" in result.stdout
    metadata = pl.read_parquet_metadata(out / "results/release_points.parquet")["opd_diag"]
    assert json.loads(metadata)["retokenised"] == 6
    assert "retokenised" in run_cli("info", out).stdout


def test_score_check_and_resume(run_cli, write, rows, teacher, student, later, tmp_path):
    dump, out = write(rows), tmp_path / "run"
    models = ["--teacher", teacher, "--student"]
    found = run_cli("check", dump, *models, student, "--json")
    levels = {finding["what"]: finding["level"] for finding in json.loads(found.stdout)}
    assert levels["tokenizer"] == levels["self-KL"] == "green"
    assert found.exit_code == 0
    first = run_cli("score", dump, *models, f"a={student}", "--out", out)
    assert first.exit_code == 0, first.output
    assert "reverse_kl" in first.stdout
    assert "1,892 response tokens" in first.stderr
    parts = {path: path.stat().st_mtime_ns for path in out.glob("tokens/*/*")}
    more = run_cli("score", dump, *models, f"a={student}", "--student", f"b={later}", "--out", out)
    assert more.exit_code == 0, more.output
    assert open_run(out).checkpoints == ("a", "b")
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def test_check_is_red_where_the_job_cannot_run(run_cli, write, rows, teacher, tmp_path):
    result = run_cli("check", write(rows), "--teacher", teacher, "--student", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.strip().startswith(f"error: {tmp_path}: no tokenizer (")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["a=x", "b=y"], {"a": "x", "b": "y"}),
        (["x/last"], {"last": "x/last"}),
        (["odd name=x"], {"odd name=x": "odd name=x"}),
    ],
)
def test_students_are_named(given, named):
    assert name_students(given) == named


def test_a_path_with_an_equals_sign_that_exists_is_a_path(tmp_path):
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert name_students([str(folder)]) == {"a=b": str(folder)}


def test_equal_names_are_bad_usage(run_cli, write, rows, teacher, student, tmp_path):
    result = run_cli(
        "score", write(rows), "--teacher", teacher, "--student", f"a={student}",
        "--student", f"a={student}", "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "'a' twice" in result.stderr


def test_version(run_cli):
    printed = run_cli("--version").stdout
    assert printed.startswith("opd-diag ")
    cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    assert f"torch {torch.__version__} {cuda}, transformers " in printed


def test_the_package_runs_as_a_module(run_cli):
    done = subprocess.run(
        [sys.executable, "-m", "opd_diag", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == run_cli("--version").stdout


def test_a_shell_completes_commands_and_options(run_cli):
    assert "--install-completion" in run_cli("-h").stdout
    complete = {
        "_OPD_DIAG_COMPLETE": "complete_bash", "COMP_WORDS": "opd-diag an", "COMP_CWORD": "1"
    }  # fmt: skip
    program = "from opd_diag.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | complete,
    )
    assert done.stdout.split() == ["analyze"]


def test_a_missing_run_is_one_error(run_cli, tmp_path):
    result = run_cli("analyze", "all", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout
