"""Findings on the command line: printed first, written beside the results, and `--fail-on`."""

import polars as pl
import pytest

from opd_diag.analyses import findings as package
from opd_diag.analyses.answers import Finding
from opd_diag.datasets import null_run, save_run


def ask(release_summary: pl.DataFrame) -> list[Finding]:
    """Answer yes to one question, undecided to another, and do not ask the third."""
    numbers = {"estimate": 2.0, "control": 1.0, "difference": 1.0}
    ends = {"low": 1.5, "high": 2.5, "difference_low": 0.5, "difference_high": 1.5}
    words = {"checkpoint": release_summary["checkpoint"][0], "meaning": {}, "advice": {}}
    return [
        Finding(question="margin-falls", p=0.0001, **numbers, **ends, **words),
        Finding(question="margin-drops", p=0.5, **numbers, **ends, **words),
        Finding(question="cut-drops-poor", reason="too few prompts", **words),
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "ANSWERED_BY", {"release_points": ask})
    save_run(null_run(prompts=6, samples=2, tokens=80, checkpoints=("a", "b")), tmp_path / "run")
    return tmp_path / "run"


def test_answers_stand_before_the_details_and_in_the_results(folder, run_cli):
    result = run_cli("analyze", "release-points", folder)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Findings")
    assert [line.split()[0] for line in lines[1:7:2]] == ["yes", "undecided", "not"]
    table = pl.read_parquet(folder / "results/findings.parquet")
    assert table["answer"].to_list() == ["yes", "undecided", "not asked"]


def test_questions_of_missing_tables_are_not_asked(folder, run_cli):
    result = run_cli("analyze", "findings", folder)
    assert result.exit_code == 0, result.output
    assert "opd-diag analyze release-points" in result.stdout
    assert set(pl.read_parquet(folder / "results/findings.parquet")["answer"]) == {"not asked"}


def test_another_folder_of_results_answers_for_itself(folder, run_cli, tmp_path):
    out = tmp_path / "out"
    assert run_cli("analyze", "release-points", folder, "--out", out).exit_code == 0
    assert pl.read_parquet(out / "findings.parquet")["answer"][0] == "yes"
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("questions", "code", "said"),
    [
        (["margin-falls"], 3, "margin-falls: yes"),
        (["margin-drops"], 0, ""),
        (["cut-drops-poor"], 0, "cut-drops-poor: not asked"),
        (["margin-drops", "margin-falls"], 3, "margin-falls: yes"),
    ],
)
def test_a_pipeline_stops_on_a_yes(folder, run_cli, questions, code, said):
    options = [word for question in questions for word in ("--fail-on", question)]
    first = run_cli("analyze", "release-points", folder)
    assert first.exit_code == 0, first.output
    result = run_cli("analyze", "findings", folder, *options)
    assert result.exit_code == code
    assert result.stderr.strip() == said


def test_analyze_all_prints_findings_first_and_fails_on_a_yes(folder, run_cli):
    result = run_cli("analyze", "all", folder, "--fail-on", "margin-falls")
    assert result.exit_code == 3, result.output
    assert result.stdout.startswith("Findings")
    assert result.stdout.index("Findings") < result.stdout.index("Means over tokens")


def test_an_unknown_question_is_bad_usage_that_names_them(folder, run_cli):
    result = run_cli("analyze", "all", folder, "--fail-on", "collapse")
    assert result.exit_code == 2
    assert "margin-falls" in result.stderr
