"""Several teachers: each token is scored by that of its rollout's group, as if it were alone."""

import json
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import opd_diag as od
from opd_diag.cli import app
from opd_diag.errors import ModelMismatchError, OptionError, RolloutError
from opd_diag.scoring.teachers.by_group import teacher_of_rollouts
from opd_diag.tables.rollouts import Rollouts
from tests.scoring.heard import Heard

SAMPLE = Path(__file__).parents[2] / "sample_data"
STUDENT = {"step0": str(SAMPLE / "students" / "step0")}
TEACHERS = {"math": str(SAMPLE / "teacher"), "code": str(SAMPLE / "students" / "step300")}
GROUPS = ["math", "code", "code", "math"]
QUICK = {"students": STUDENT, "device": "cpu", "noise_floor": "on", "k_grid": (2, 4)}


@pytest.fixture(scope="module")
def rollouts() -> Rollouts:
    whole = od.read_rollouts(SAMPLE / "rollouts_step0.jsonl", limit=len(GROUPS))
    table = whole.table.with_columns(
        *(pl.col(name).list.head(60) for name in ("response_token_ids", "sampled_logp")),
        group=pl.Series(GROUPS),
    )
    return Rollouts(table, whole.report)


@pytest.fixture(scope="module")
def mixed(rollouts, tmp_path_factory):
    out = tmp_path_factory.mktemp("mixed") / "run"
    options = QUICK | {"teacher": TEACHERS, "teacher_by": "group", "part_tokens": 100}
    return od.score(rollouts, out=out, progress=Heard(), **options)


@pytest.mark.parametrize("name", TEACHERS)
def test_a_group_is_scored_as_by_its_teacher_alone(rollouts, mixed, tmp_path, name) -> None:
    alone = od.score(
        rollouts, teacher=TEACHERS[name], out=tmp_path / name, progress=Heard(), **QUICK
    )
    own = [number for number, group in enumerate(GROUPS) if group == name]
    ours, theirs = (
        run.tokens("step0").filter(pl.col("rollout").is_in(own)).collect() for run in (mixed, alone)
    )
    assert_frame_equal(ours, theirs, abs_tol=1e-4, rel_tol=1e-4)
    others = [number for number in range(len(GROUPS)) if number not in own]
    ours, theirs = (
        run.tokens("step0").filter(pl.col("rollout").is_in(others)).collect()["teacher_logp"]
        for run in (mixed, alone)
    )
    assert (ours - theirs).abs().mean() > 0.05


def test_the_run_says_which_teachers_it_has(mixed) -> None:
    manifest = mixed.manifest
    assert manifest.teacher.path == ", ".join(f"{n}={path}" for n, path in TEACHERS.items())
    assert manifest.teacher.source == "weights of several teachers, by group"
    assert {key.split(":")[0] for key in manifest.fingerprint["teacher"]} == set(TEACHERS)
    assert manifest.checkpoints["step0"].noise_floor.p95["teacher_logp"] < 1e-3


def test_the_same_call_goes_on_and_swapped_teachers_are_another_run(rollouts, mixed) -> None:
    options = QUICK | {"teacher_by": "group", "part_tokens": 100, "out": mixed.path}
    again = od.score(rollouts, teacher=TEACHERS, progress=Heard(), **options)
    assert again.tokens("step0").collect().equals(mixed.tokens("step0").collect())
    swapped = dict(zip(TEACHERS, reversed(TEACHERS.values()), strict=True))
    with pytest.raises(ModelMismatchError, match="teacher"):
        od.score(rollouts, teacher=swapped, progress=Heard(), **options)


def test_a_group_without_a_teacher_needs_a_default_one() -> None:
    table = pl.DataFrame({"group": ["a", None, "b", "a"]})
    assert teacher_of_rollouts(table, ("b", "default")).tolist() == [1, 1, 0, 1]
    assert teacher_of_rollouts(table, ("default",)).tolist() == [0] * 4
    assert teacher_of_rollouts(table, ("",)).tolist() == [0] * 4
    with pytest.raises(RolloutError, match=r"3 of groups without a teacher \(a, none\)"):
        teacher_of_rollouts(table, ("b",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": TEACHERS}, "named teachers without teacher_by"),
        ({"teacher": "t", "teacher_by": "group"}, "with one teacher without a name"),
        ({"teacher": TEACHERS, "teacher_by": "step"}, "teacher_by: 'step'; expected group"),
        ({"teacher": {}, "teacher_by": "group"}, "teacher: none"),
        ({"teacher": {"a/b": "t"}, "teacher_by": "group"}, "the name 'a/b'"),
        (
            {"teacher": TEACHERS, "teacher_by": "group", "keep_teacher_states": True},
            "neither read nor kept",
        ),
    ],
)
def test_teachers_that_make_no_sense_are_refused(rollouts, tmp_path, options, message) -> None:
    with pytest.raises(OptionError, match=message):
        od.score(rollouts, out=tmp_path / "run", students=STUDENT, **options)


def test_another_tokenizer_is_refused(rollouts, tmp_path, train_bpe) -> None:
    train_bpe(["aaa bbb"], size=260).save_pretrained(tmp_path / "other")
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "other" / file).write_bytes((SAMPLE / "teacher" / file).read_bytes())
    teachers = TEACHERS | {"code": str(tmp_path / "other")}
    with pytest.raises(ModelMismatchError, match="tokenizers differ"):
        od.score(
            rollouts, teacher=teachers, teacher_by="group", out=tmp_path / "run", students=STUDENT
        )


def test_the_check_looks_at_every_teacher(rollouts) -> None:
    found = od.check(rollouts, teacher=TEACHERS, teacher_by="group", students=STUDENT, device="cpu")
    assert [finding.level for finding in found if finding.level == "red"] == []
    assert [finding.what for finding in found].count("teacher") == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--teacher", "a", "--teacher", "b"],
        ["--teacher", "x=a", "--teacher", "b", "--teacher-by", "group"],
        ["--teacher", "x=a", "--teacher", "x=b", "--teacher-by", "group"],
    ],
)
def test_names_of_teachers_are_told_on_the_command_line(words, tmp_path) -> None:
    dump = tmp_path / "a.jsonl"
    dump.write_text(json.dumps({"prompt_token_ids": [1], "response_token_ids": [2]}))
    result = CliRunner().invoke(app, ["check", str(dump), *words, "--student", str(tmp_path)])
    assert result.exit_code == 2
    assert "NAME=PATH" in result.stderr


def test_what_needs_one_teacher_refuses_a_run_of_several(mixed) -> None:
    from opd_diag.interventions.models import choose_teacher

    with pytest.raises(OptionError, match="scored with several teachers"):
        choose_teacher(mixed, None, trust_remote_code=False)
