"""Knock-outs: planted effects, controls, resuming, and what is refused before the first token."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

import opd_diag as od
from opd_diag.cli import app
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import ModelError, ModelMismatchError, OptionError, RolloutError, TableError
from opd_diag.interventions import models, summary_lines
from opd_diag.interventions.lists import BestTokens, random_arms, rock_arms
from opd_diag.interventions.problems import read_problems
from opd_diag.tables.run import Run
from tests.interventions.quiet import Quiet

HOLDS = "tests.interventions.judges:holds_add"


def knock_out(run: Run, **options: Any) -> Any:
    options = {"verifier": HOLDS, "random_lists": 1, "progress": Quiet()} | options
    return od.knock_out(run, **options)


@pytest.fixture(scope="module")
def studied(rolled: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Any, Quiet]:
    """A study that bans, among others, every token with the letter that makes a response right."""
    path = tmp_path_factory.mktemp("study") / "run"
    shutil.copytree(rolled.path, path)
    run = od.open_run(path)
    vocab = run.vocab
    letter = vocab.filter(pl.col("bytes").map_elements(lambda b: b"e" in b, pl.Boolean))
    ids = ",".join(map(str, letter.filter(~pl.col("is_special"))["token_id"]))
    quiet = Quiet()
    result = knock_out(run, ban=[f"e={ids}", "digit"], each=2, samples=2, progress=quiet)
    return run, result, quiet


def row(result: Any, arm: str) -> dict[str, Any]:
    return result.knock_out.row(by_predicate=pl.col("arm") == arm, named=True)


def test_a_planted_ban_destroys_accuracy_and_is_found(studied: Any) -> None:
    _, result, _ = studied
    planted = row(result, "ban-e")
    assert planted["accuracy"] == 0
    assert planted["difference"] < -0.1
    assert planted["difference_high"] < 0
    assert planted["p_adjusted"] <= 0.05
    unmasked = result.knock_out.filter(kind="unmasked")
    assert unmasked.height == 3
    assert planted["difference"] == pytest.approx(-unmasked["accuracy"].mean())


def test_what_a_ban_does_not_touch_is_as_it_was(studied: Any) -> None:
    run, result, _ = studied
    folder = run.path / "interventions" / "knock-out-s"
    base = pl.read_parquet(folder / "unmasked" / "part-00000.parquet")
    assert base.height == 8 * 2 * 3
    for arm in result.knock_out_lists.partition_by("arm"):
        name, banned = arm["arm"][0], set(arm["token_id"])
        part = pl.read_parquet(folder / name / "part-00000.parquet")
        changed = 0
        for one, other in zip(part["response_token_ids"], base["response_token_ids"], strict=True):
            first = next((n for n, token in enumerate(other) if token in banned), None)
            assert not banned & set(one)
            assert one.to_list()[:first] == other.to_list()[:first]
            changed += first is not None
        assert row(result, name)["changed"] == pytest.approx(changed / base.height)
        best = base["best_token_ids"].list.eval(pl.element().is_in(list(banned)))
        assert row(result, name)["exposure"] == pytest.approx(best.list.any().mean())
        assert row(result, name)["n_types"] == len(banned)


def test_exposure_and_what_can_be_shown_are_said_before_the_first_token(studied: Any) -> None:
    _, result, quiet = studied
    assert quiet.said[0].startswith("8 problems, 6 responses each in every arm")
    named = [line.split(":")[0] for line in quiet.said]
    arms = result.knock_out.filter(pl.col("kind") != "unmasked")["arm"].to_list()
    assert named[1 : 1 + len(arms)] == arms
    assert all("smallest difference that can be shown" in s for s in quiet.said[1 : 1 + len(arms)])
    assert "expected more problems, or more samples" in quiet.said[-2]
    assert quiet.said[-1].endswith("agrees with the outcomes of the run on 100.0 % of 24 rollouts")


def test_the_tables_are_kept_drawn_described_and_asked(studied: Any) -> None:
    run, result, _ = studied
    run.save(result)
    assert run.result("knock_out").equals(result.knock_out)
    asked = od.findings(run).filter(question="rocks-needed")
    assert asked.height == 1
    rock = row(result, "rock")
    assert asked["difference"][0] == rock["control_difference"]
    assert asked["p"][0] == rock["control_p"]
    assert rock["control_difference"] == pytest.approx(
        rock["accuracy"] - row(result, "control")["accuracy"]
    )
    lines = summary_lines(result)
    assert lines[0].startswith("s: 8 problems")
    axes = od.plots.knock_out(result.knock_out)
    assert len(axes.get_yticklabels()) == result.knock_out.height
    assert result.arguments["verifier"] == HOLDS


def test_a_study_goes_on_from_its_parts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = knock_out(run, random_lists=0)
    folder = run.path / "interventions" / "knock-out-s"
    files = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    for path in list(files)[::2]:
        path.unlink()
    (list(files)[1]).write_bytes(b"half of a file")
    again = knock_out(run, random_lists=0)
    assert again.knock_out.equals(whole.knock_out)
    assert {path: path.read_bytes() for path in folder.rglob("*.parquet")} == files
    with pytest.raises(ModelMismatchError, match="holds another study .seed 0, asked 1"):
        knock_out(run, seed=1)


def test_lists_as_frequent_and_as_exposed(rolled: Run) -> None:
    rocks = rolled.result("rock_tokens")
    best = BestTokens(rolled, "s")
    arms = {arm.kind: arm for arm in rock_arms(rocks, best, top=None, ends=[2])}
    partner = dict(rocks.select("token_id", "control_token_id").iter_rows())
    assert {partner[i] for i in arms["rock"].token_ids} == set(arms["control"].token_ids)
    assert not set(arms["control"].token_ids) & set(rocks.filter("is_rock")["token_id"])
    candidates = [i for i in range(best.size) if i not in arms["rock"].token_ids]
    drawn = random_arms(arms["rock"], best, candidates, count=3, seed=0)
    assert len({arm.token_ids for arm in drawn}) == 3
    wanted = best.exposure(arms["rock"].token_ids).positions
    for arm in drawn:
        assert best.exposure(arm.token_ids).positions == pytest.approx(wanted, rel=0.1)
    # By hand, from the tokens of the run.
    tokens = rolled.tokens("s").filter("in_loss").collect()
    hit = tokens.with_columns(hit=pl.col("student_top_id").is_in(arms["rock"].token_ids))
    exposure = best.exposure(arms["rock"].token_ids)
    assert exposure.rollouts == hit.group_by("rollout").agg(pl.col("hit").any())["hit"].mean()
    assert exposure.positions == hit["hit"].mean()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ban": ["x=2,9"]}, OptionError, "ban-x bans the end token 2; expected a list without"),
        ({"ban": ["x=" + ",".join(str(i) for i in range(321) if i != 2)]}, OptionError,
         "ban-x bans every token but those that end a response"),
        ({"ban": ["x=9999"]}, OptionError, "holds id 9999; expected 0 to"),
        ({"ban": ["nouns"]}, OptionError, "expected NAME=ID,ID,... or a class of tokens"),
        ({"ban": ["x=9", "x=10"]}, OptionError, "'ban-x' twice"),
        ({"repeats": 2}, OptionError, "repeats: 2; expected 3 or more"),
        ({"top": 50}, OptionError, "rock_tokens lists 12 rocks; expected at most so many"),
        ({"temperature": 0.0}, OptionError, "temperature: 0.0; expected a positive number"),
        ({"engine": "vllm"}, OptionError, r"vllm is not installed; .*opd-diag\[vllm\]"),
        ({"engine": "tgi"}, OptionError, "engine: 'tgi'; expected transformers or vllm"),
        ({"max_new_tokens": 509}, RolloutError, "prompt p0 has 4 tokens, with 509 new ones more"),
        ({"verifier": "tests.interventions.judges:raises"}, ValueError,
         "raises on problem p0 .RuntimeError: no idea.; expected true or false"),
        ({"verifier": "last-number"}, ValueError, "calls answer 'e' of problem p0 itself wrong"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_line(
    run: Run, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        knock_out(run, **options)
    assert "\n" not in str(caught.value) or error is RolloutError
    assert not list(run.path.glob("interventions/*/*/part-*"))


def test_models_that_do_not_fit_are_refused(
    run: Run, student: str, later: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelMismatchError, match="its weights are none of the run's .s."):
        knock_out(run, student=later)
    bare = tmp_path / "bare"
    shutil.copytree(student, bare)
    (bare / "generation_config.json").unlink(missing_ok=True)
    assert knock_out(run, student=str(bare), random_lists=0).knock_out["checkpoint"][0] == "s"
    for name in ("tokenizer_config.json", "config.json"):
        settings = json.loads((bare / name).read_text())
        settings.pop("eos_token", None)
        settings.pop("eos_token_id", None)
        (bare / name).write_text(json.dumps(settings))
    (bare / "special_tokens_map.json").unlink(missing_ok=True)
    scored = run.manifest.checkpoints["s"].fingerprint
    monkeypatch.setattr(models, "digest", lambda _: scored)  # as if it had been scored so
    with pytest.raises(ModelError, match="no end token in generation_config.json, config.json or"):
        knock_out(run, student=str(bare))


def test_the_command_prints_what_was_found_and_goes_on_from_what_is_there(studied: Any) -> None:
    run, result, _ = studied
    ids = result.knock_out_lists.filter(arm="ban-e")["token_id"].to_list()
    words = ["intervene", "knock-out", str(run.path), "--verifier", HOLDS, "--random-lists", "1"]
    words += ["--ban", f"e={','.join(map(str, ids))}", "--ban", "digit", "--each", "2"]
    done = CliRunner().invoke(app, [*words, "--samples", "2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Does banning rock tokens cost more accuracy" in done.stdout
    assert "wrote 3 tables to" in done.stdout
    assert run.result("knock_out").equals(result.knock_out)
    refused = CliRunner().invoke(app, [*words, "--ban", "end=2"])
    assert refused.exit_code == 2
    assert "ban-end bans the end token 2" in refused.stderr


def test_problems_come_from_a_file_too(run: Run, tiny_tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"

    def write(*lines: Any) -> Path:
        path.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines))
        return path

    lines = [
        {"prompt_id": "p1", "answer": "e"},
        {"prompt_id": "new", "answer": 3, "prompt": "What is 1 + 2?"},
        {"prompt_id": "ids", "answer": "e", "prompt_token_ids": [9, 10]},
    ]
    known, new, ids = read_problems(run, write(*lines), tiny_tokenizer)
    assert known == ("p1", run.rollouts["prompt_token_ids"][3].to_list(), "e")
    assert new.answer == "3"
    assert "What is 1 + 2?<|end|>\n<|start|>assistant" in tiny_tokenizer.decode(new.prompt)
    assert ids.prompt == [9, 10]
    faults = write(
        "not json",
        {"prompt_id": "p1"},
        {"prompt_id": "strange", "answer": "1"},
        {"prompt_id": "p1", "answer": "1", "prompt_token_ids": [9]},
        {"prompt_id": "x", "answer": "1", "prompt_token_ids": [9999]},
    )
    with pytest.raises(RolloutError) as caught:
        read_problems(run, faults, tiny_tokenizer)
    said = str(caught.value)
    for text in (
        "line 1: no JSON object",
        "line 2: no answer",
        "line 3: prompt_id 'strange' is no",
        "line 4: prompt_id 'p1' has another prompt",
        "line 5: prompt_token_ids holds",
    ):
        assert text in said  # fmt: skip
    with pytest.raises(RolloutError, match="No such file"):
        knock_out(run, problems=tmp_path / "none.jsonl")


@pytest.mark.parametrize("text", ["one\u2028two", "one\u2029two", "one\x85two"])
def test_a_line_of_problems_ends_with_a_line_feed_alone(
    run: Run, tiny_tokenizer: Any, tmp_path: Path, text: str
) -> None:
    """The breaks that JSON need not escape stay in the text."""
    path = tmp_path / "problems.jsonl"
    rows = [{"prompt_id": "new", "answer": text, "prompt": text}, {"prompt_id": "p1", "answer": ""}]
    lines = [json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows]
    path.write_bytes("".join(lines).encode())
    new, known = read_problems(run, path, tiny_tokenizer)
    assert new.answer == text
    assert known.name == "p1"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prompt_token_ids": 5}, "prompt_token_ids is no list of ids"),
        ({"prompt_token_ids": "5"}, "prompt_token_ids is no list of ids"),
        ({"prompt_token_ids": []}, "prompt_token_ids is no list of ids"),
        ({"prompt_token_ids": [-3, 5]}, "prompt_token_ids is no list of ids"),
        ({"prompt_token_ids": [True]}, "prompt_token_ids is no list of ids"),
        ({"prompt_token_ids": [1.0]}, "prompt_token_ids is no list of ids"),
        ({"prompt": 5}, "prompt is neither text nor turns"),
        ({"prompt": [1]}, "prompt is neither text nor turns"),
        ({"prompt": []}, "prompt is neither text nor turns"),
        ({"prompt": ""}, "prompt is neither text nor turns"),
        ({"prompt": [{"content": "a"}]}, "prompt is neither text nor turns"),
        ({"prompt": [{"role": "user"}]}, "prompt is neither text nor turns"),
        ({"prompt": "half \ud800"}, "holds half a surrogate pair"),
        ({"prompt": "a", "answer": math.nan}, "answer is nan"),
        ({"prompt": "a", "answer": -math.inf}, "answer is -inf"),
        ({"prompt": "a", "answer": [1]}, "no answer"),
    ],
)
def test_a_problem_of_wrong_types_is_refused(
    run: Run, tiny_tokenizer: Any, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"prompt_id": "new", "answer": "1"} | values))
    with pytest.raises(RolloutError) as caught:
        read_problems(run, path, tiny_tokenizer)
    assert str(caught.value).startswith(f"{path}: line 1: {said}")
    assert "; expected" in str(caught.value)


def test_turns_are_a_prompt(run: Run, tiny_tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    turns = [{"role": "user", "content": "one"}]
    path.write_text(json.dumps({"prompt_id": "new", "answer": 0.5, "prompt": turns}))
    (new,) = read_problems(run, path, tiny_tokenizer)
    assert new.answer == "0.5"
    assert "one<|end|>" in tiny_tokenizer.decode(new.prompt)


def test_a_run_without_rocks_or_answers_is_refused(run: Run) -> None:
    (run.results_folder / "rock_tokens.parquet").unlink()
    with pytest.raises(TableError, match="rock_tokens"):
        knock_out(run)
    rocks = od.rock_tokens(run, top=12)
    run.save(rocks)
    run.__dict__["rollouts"] = run.rollouts.with_columns(answer=pl.lit(None, pl.String))
    with pytest.raises(OptionError, match="no rollout has a reference answer; expected problems"):
        knock_out(run)


def test_text_of_others_exposes_nobody(tmp_path: Path) -> None:
    data = null_run(prompts=6, samples=2, tokens=20, checkpoints=("s",))
    tokens = data.tokens.with_columns(
        student_top_id=pl.col("position").cast(pl.Int32), in_loss=pl.col("position") != 5
    )
    best = BestTokens(save_run(data._replace(tokens=tokens), tmp_path / "run"), "s")
    assert best.exposure([5]) == (0.0, 0.0)
    assert best.exposure([4, 5]) == (1.0, pytest.approx(1 / 19))
