"""The sample run: what it promises, and the diagnoses of the preflight on it."""

import json
from pathlib import Path

import polars as pl
import pytest

import opd_diag as od
from opd_diag.tables.rollouts import Rollouts

SAMPLE = Path(__file__).parents[1] / "sample_data"
TEACHER = str(SAMPLE / "teacher")


def student(step: int) -> str:
    return str(SAMPLE / f"students/step{step}")


@pytest.fixture(scope="module")
def rollouts() -> Rollouts:
    dump = SAMPLE / "rollouts_step0.jsonl"
    return od.read_rollouts(str(dump), tokenizer=student(0), limit=64)


def diagnosis(rollouts: Rollouts, *, step: int = 0, temperature: float = 1.0) -> tuple[str, str]:
    found = od.check(rollouts, teacher=TEACHER, students=student(step), temperature=temperature)
    (one,) = (f for f in found if f.what == "generator's log-probs")
    assert all(f.level == "green" for f in found if f is not one)
    return one.level, one.detail


def test_the_generators_log_probs_are_aligned(rollouts):
    level, detail = diagnosis(rollouts)
    assert level == "green"
    assert detail.startswith("aligned")


def test_shifted_log_probs_are_called_so(rollouts):
    moved = pl.col("sampled_logp").list.shift(1).list.eval(pl.element().fill_null(-1.0))
    level, detail = diagnosis(Rollouts(rollouts.table.with_columns(moved), rollouts.report))
    assert level == "red"
    assert detail.startswith("shifted by one")


@pytest.mark.parametrize("temperature", [0.7, 0.9, 1.4])
def test_another_temperature_is_called_so(rollouts, temperature):
    level, detail = diagnosis(rollouts, temperature=temperature)
    assert level == "yellow"
    assert detail.startswith("other temperature")
    assert detail.endswith("they fit temperature 1")


def test_another_checkpoint_is_called_so(rollouts):
    level, detail = diagnosis(rollouts, step=300)
    assert level == "yellow"
    assert detail.startswith("other checkpoint")


@pytest.mark.parametrize(
    ("name", "rows", "samples"),
    [
        ("rollouts_step0.jsonl", 384, 4),
        ("rollouts_last.jsonl", 384, 4),
        ("rollouts_teacher.jsonl", 96, 1),
    ],
)
def test_every_dump_holds_what_it_promises(name, rows, samples):
    found = od.read_rollouts(str(SAMPLE / name), tokenizer=student(0)).table
    assert found.height == rows
    assert set(found.group_by("prompt_id").len()["len"]) == {samples}
    assert found["token_exact"].all()
    assert found["response_token_ids"].list.len().equals(found["sampled_logp"].list.len())
    assert 0 < found["correct"].mean() < 1
    assert set(found["finish_reason"]) == {"stop", "length"}


def test_padded_widths_differ_and_files_are_small():
    widths = [
        json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
        for folder in (TEACHER, student(0), student(150), student(300))
    ]
    assert widths == [640, 608, 608, 608]
    sizes = [path.stat().st_size for path in SAMPLE.rglob("*") if path.suffix != ".pyc"]
    assert max(sizes) < 6e6
    assert sum(sizes) < 15e6
