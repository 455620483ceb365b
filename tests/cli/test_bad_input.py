"""Bad input through the command line: one line on stderr, exit code 1, nothing complete lost."""

import errno
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from opd_diag.datasets import release_run, save_run
from opd_diag.tables import files


@pytest.fixture
def score(run_cli, teacher, student, tmp_path):
    """Score a dump into the folder `run`, and return how it ended."""

    def with_dump(*dumps, models=(teacher, student), out=tmp_path / "run", extra=()):
        return run_cli(
            "score", *dumps, "--teacher", models[0], "--student", f"s={models[1]}",
            "--out", out, "--part-tokens", 400, *extra,
        )  # fmt: skip

    return with_dump


def told(result) -> str:
    """The one line of an error."""
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    return lines[0]


def changed(rows, number, **values):
    """The rows with other values in one of them; None takes a key away."""
    row = {**rows[number], **values}
    row = {key: value for key, value in row.items() if value is not None}
    return [*rows[:number], row, *rows[number + 1 :]]


def test_a_file_that_is_not_there(score, tmp_path):
    assert "nowhere.jsonl" in told(score(tmp_path / "nowhere.jsonl"))
    assert not (tmp_path / "run").exists()


def test_an_empty_file(score, write):
    assert "dump.jsonl" in told(score(write([])))


def test_line_7_is_not_json(score, write, rows):
    line = told(score(write([*rows[:6], "{not json", *rows[7:]])))
    assert "dump.jsonl: line 7: not JSON" in line


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"response_token_ids": None}, "response"),
        ({"response_token_ids": [3, 100_000]}, "100000"),
        ({"id": "r0"}, "'r0'"),
        ({"reward": float("nan")}, "reward"),
        ({"correct": "perhaps"}, "correct"),
    ],
)
def test_a_bad_row_is_named(score, write, rows, values, expected):
    assert expected in told(score(write(changed(rows, 6, **values))))


def test_two_formats_in_a_call(score, write, rows):
    one = write(rows[:12])
    other = write(
        [
            {"input": "a", "output": "b", "score": 1.0, "step": 1, "gts": "c"},
        ],
        "1.jsonl",
    )
    assert "verl" in told(score(one, other))


def test_a_model_folder_without_weights(score, write, rows, student, teacher, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(student, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    assert str(bare) in told(score(write(rows), models=(teacher, bare)))


def test_tokenizers_that_differ(score, write, rows, student, teacher, train_bpe, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(student, other)
    train_bpe(["zzz yyy xxx " * 50], 280).save_pretrained(other)
    short = [{**row, "response_token_ids": [40, 41, 42] * 9} for row in rows]
    line = told(score(write(short), models=(teacher, other)))
    assert re.search(r"tokenizers differ in \d+ ids, first \d+", line)


def test_a_folder_that_holds_another_run_keeps_it(score, write, rows, run_cli, tmp_path):
    assert score(write(rows)).exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.parquet")}
    line = told(score(write(rows[:20], "other.jsonl")))
    assert "rollouts" in line
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.parquet")} == before


def test_a_known_name_with_other_weights(score, write, rows, teacher, student, later):
    assert score(write(rows)).exit_code == 0
    assert "'s'" in told(score(write(rows), models=(teacher, later)))


def test_a_truncated_part_is_named_by_every_reader(score, write, rows, run_cli, tmp_path):
    assert score(write(rows)).exit_code == 0
    part = tmp_path / "run/tokens/checkpoint=s/part-00001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    for command in (("analyze", "release-points"), ("analyze", "rock-tokens")):
        assert "part-00001.parquet" in told(run_cli(*command, tmp_path / "run"))


def test_a_full_disk_loses_nothing_complete(score, write, rows, monkeypatch, tmp_path):
    """The disk fills while the third part is written; with room again the run is finished."""
    dump, plain = write(rows), files.os.fsync
    parts = tmp_path / "run/tokens"

    def full(descriptor: int) -> None:
        if len(list(parts.rglob("part-*.parquet"))) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    assert "No space left" in told(score(dump))
    monkeypatch.setattr(files.os, "fsync", plain)
    kept = {path: path.read_bytes() for path in parts.rglob("part-*.parquet")}
    assert len(kept) == 2
    assert score(dump).exit_code == 0
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert score(dump, out=tmp_path / "again").exit_code == 0
    for path in (tmp_path / "again/tokens").rglob("*.parquet"):
        same = tmp_path / "run" / path.relative_to(tmp_path / "again")
        assert same.read_bytes() == path.read_bytes()


def test_weights_that_are_not_numbers_leave_nulls_that_are_counted(
    score, write, rows, teacher, student, run_cli, tmp_path
):
    broken = tmp_path / "broken"
    shutil.copytree(student, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][3 + 7] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    result = score(write(rows), models=(teacher, broken))
    assert result.exit_code == 0, result.output
    assert "not finite" in run_cli("info", tmp_path / "run").output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--k-grid", "4,2"),
        ("--k-grid", "a"),
        ("--temperature", "0"),
        ("--segmenter", "words"),
        ("--student", "s=elsewhere"),
    ],
)
def test_bad_usage_exits_with_2(score, write, rows, arguments):
    result = score(write(rows), extra=arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two checkpoints whose models are nowhere: bad numbers are refused before them."""
    data = release_run(prompts=4, samples=2, segments=12, checkpoints=("a", "b"))
    return save_run(data, tmp_path_factory.mktemp("made") / "run").path


@pytest.mark.parametrize(
    ("command", "more"),
    [
        *(
            (("analyze", name), ())
            for name in (
                *("score-summary", "loss-audit", "release-points", "rock-tokens"),
                *("teachability", "agreement-traps", "update-alignment"),
            )
        ),
        (("export",), ("--rule", "all", "--to", "parquet", "--out")),
        (("intervene", "knock-out"), ("--verifier", "exact")),
        (("intervene", "continuation"), ("--verifier", "exact")),
        (("intervene", "replacement"), ()),
    ],
)
def test_a_negative_seed_is_bad_usage(run_cli, made, tmp_path, command, more):
    out = [tmp_path / "out"] if more[-1:] == ("--out",) else []
    result = run_cli(*command, made, *more, *out, "--seed", -1)
    assert result.exit_code == 2, result.output
    assert "error: seed: -1; expected 0 or more" in result.stderr


@pytest.mark.parametrize("command", ["score-summary", "rock-tokens", "teachability"])
def test_a_seed_may_be_as_large_as_one_likes(run_cli, made, tmp_path, command):
    result = run_cli("analyze", command, made, "--out", tmp_path, "--seed", 2**64)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--threshold", "nan", "threshold: nan; expected a finite number"),
        ("--threshold", "inf", "threshold: inf; expected a finite number"),
    ],
)
def test_a_threshold_of_release_points_is_finite(run_cli, made, option, value, said):
    result = run_cli("analyze", "release-points", made, option, value)
    assert result.exit_code == 2, result.output
    assert f"error: {said}" in result.stderr


def test_a_folder_without_a_run(run_cli, tmp_path):
    for command in (("analyze", "all"), ("analyze", "teachability"), ("plot",), ("info",)):
        result = run_cli(*command, tmp_path)
        assert result.exit_code == 1
        assert str(Path(tmp_path)) in result.stderr


def test_an_error_that_is_none_of_ours_is_raised_as_it_is(run_cli, tmp_path, monkeypatch):
    class ForeignError(Exception):
        """Its message cannot be set, as those of jinja2 cannot."""

        message = property(lambda self: "a mistake")

    def fail(*arguments, **options):
        raise ForeignError

    monkeypatch.setattr("opd_diag.info", fail)
    with pytest.raises(ForeignError):
        run_cli("info", tmp_path)
