"""Continuations after a cut: pairs by their rule, planted losses, avg@k and pass@k by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import opd_diag as od
from opd_diag.errors import ModelError, ModelMismatchError, OptionError, RolloutError, TableError
from opd_diag.interventions import continuations, summary_lines
from opd_diag.interventions.continuations import choose_pairs
from opd_diag.tables.run import Run
from tests.interventions import judges
from tests.interventions.quiet import Quiet

HOLDS = "tests.interventions.judges:holds_add"


def continuation(run: Run, **options: Any) -> Any:
    return od.continuation(run, **({"verifier": HOLDS, "progress": Quiet()} | options))


@pytest.fixture
def cut(run: Run, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Cut the first rollout of each prompt after 6 tokens, and the second after 15."""
    cuts = {r: 6 if r % 3 == 0 else 15 for r in range(24) if r % 3 < 2}
    monkeypatch.setattr(continuations, "_cuts", lambda *_: cuts)
    return cuts


def test_pairs_are_as_deep_and_the_other_is_not_cut_before() -> None:
    rollouts = pl.DataFrame(
        {
            "rollout": range(7),
            "prompt_id": ["a", "a", "a", "b", "b", "c", "c"],
            "response_token_ids": [[1] * n for n in (20, 9, 30, 20, 20, 8, 8)],
        },
        schema_overrides={"response_token_ids": pl.List(pl.Int32)},
    )
    cuts = {0: 10, 1: 0, 2: 12, 3: 5, 4: 5, 5: 3}
    answers = dict.fromkeys("abc", "1")
    pairs, alone = choose_pairs(rollouts, cuts, answers, 40, seed=0)
    # 0 goes with 2, which is cut later; 2 has no other that runs to 12 uncut; 3 and 4 are cut at
    # the same place; 5 goes with 6; 1 keeps nothing.
    assert sorted(pair[:3] for pair in pairs) == [("a", 0, 2), ("c", 5, 6)]
    assert alone == 3
    assert choose_pairs(rollouts, cuts, answers, 10, seed=0)[0] == [("c", 5, 6, 3)]
    assert choose_pairs(rollouts, cuts, {"b": "1"}, 40, seed=0) == ([], 2)


def test_continuations_go_on_from_their_prefixes(run: Run, cut: dict[int, int]) -> None:
    result = continuation(run, samples=2)
    folder = run.path / "interventions" / "continuation-trap-s"
    responses = dict(run.rollouts.select("rollout", "response_token_ids").iter_rows())
    of: dict[str, list[int]] = {}
    for rollout, problem in run.rollouts.select("rollout", "prompt_id").iter_rows():
        of.setdefault(problem, []).append(rollout)
    for model in ("student", "teacher"):
        part = pl.read_parquet(folder / model / "part-00000.parquet")
        half = part.height // 2
        for place, (name, ids) in enumerate(part.select("problem", "response_token_ids").rows()):
            problem, rollout = name.split("\n")
            depth = cut[int(rollout)]
            sources = [int(rollout)] if place < half else of[problem]
            assert any(ids[:depth] == responses[r][:depth] for r in sources)
            assert len(ids) > depth
    rows = result.continuation.filter(measure="recoverable")
    assert rows["model"].to_list() == ["student", "teacher"]
    assert rows["n"].to_list() == [part.height] * 2
    assert (rows["difference"] - (rows["value"] - rows["control"])).abs().max() < 1e-12
    again = continuation(run, samples=2)
    assert again.continuation.equals(result.continuation)
    run.save(result)
    asked = od.findings(run).filter(question="cut-is-lost")
    assert asked["difference"].to_list() == rows["difference"].to_list()[1:]
    assert summary_lines(result)[0].startswith("s, cut by trap")
    assert (
        od.plots.continuation(result.continuation)
        .get_title("left")
        .startswith("Continuations after")
    )
    with pytest.raises(ModelMismatchError, match="holds another study"):
        continuation(run, samples=3)


def test_a_planted_loss_is_found(
    run: Run, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: Any
) -> None:
    """Whoever starts as the first rollout of a problem is lost, whatever follows."""
    cuts = dict.fromkeys(range(0, 24, 3), 6)
    monkeypatch.setattr(continuations, "_cuts", lambda *_: cuts)
    first = run.rollouts.filter(pl.col("rollout") % 3 == 0)
    starts = tuple(
        tiny_tokenizer.decode(ids[:6], skip_special_tokens=True)[:-1]
        for ids in first["response_token_ids"]
    )
    monkeypatch.setattr(judges, "holds_add", lambda text, _: not text.startswith(starts))
    rows = continuation(run, samples=2).continuation.filter(measure="recoverable")
    assert rows["value"].to_list() == [0, 0]
    assert rows["control"].min() > 0.5
    assert rows["p"].max() < 0.05
    run.save({"continuation": rows}, arguments={})
    assert od.findings(run).filter(question="cut-is-lost")["difference"][0] < -0.5


def test_avg_and_pass_by_hand(run: Run, cut: dict[int, int]) -> None:
    rows = continuation(run, samples=1, rollouts=4).continuation
    right = run.rollouts["correct"].to_numpy()
    kept = right & ~np.isin(np.arange(24), list(cut))
    avg = rows.row(by_predicate=pl.col("measure") == "avg@k", named=True)
    best = rows.row(by_predicate=pl.col("measure") == "pass@k", named=True)
    assert avg["control"] == pytest.approx(right.mean())
    assert avg["value"] == pytest.approx(kept.mean())
    assert best["control"] == pytest.approx(right.reshape(8, 3).any(axis=1).mean())
    assert best["value"] == pytest.approx(kept.reshape(8, 3).any(axis=1).mean())
    assert best["k"] == 3


def test_no_cut_is_a_row_with_a_reason(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuations, "_cuts", lambda *_: {})
    rows = continuation(run).continuation
    assert rows.height == 4
    assert rows["value"].null_count() == 2
    assert "no rollout is cut" in rows["reason"][0]


def test_what_cannot_work_is_refused(
    run: Run, later: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, error, message in (
        ({"cut": "half"}, OptionError, "cut: 'half'; expected trap or release"),
        ({"samples": 0}, OptionError, "samples: 0; expected 1 or more"),
        ({}, TableError, "agreement_traps.parquet"),
        ({"teacher": later}, ModelMismatchError, "teacher: .* holds other weights"),
    ):
        with pytest.raises(error, match=message):
            continuation(run, **options)
    run.save(od.agreement_traps(run, window=8))
    path = tmp_path / "problems.jsonl"
    path.write_text('{"prompt_id": "new", "answer": "e", "prompt_token_ids": [9]}\n')
    with pytest.raises(RolloutError, match="no problem of the run"):
        continuation(run, problems=path)
    monkeypatch.setitem(run.manifest.fingerprint, "teacher_states", "digest")
    with pytest.raises(OptionError, match="scored with hidden states of the teacher; expected a"):
        continuation(run)
    monkeypatch.undo()
    assert continuation(run, samples=1, rollouts=2).continuation.height == 4


def test_models_that_have_moved_are_found_by_their_options(
    run: Run, cut: dict[int, int], student: str, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, scored = run.manifest.checkpoints["s"], run.manifest.teacher
    monkeypatch.setattr(checkpoint, "path", "models/students/s")
    with pytest.raises(ModelError, match=r"checkpoint s: models/.*manifest.*or --student FOLDER$"):
        continuation(run)
    monkeypatch.setattr(scored, "path", "/nowhere/teacher")
    with pytest.raises(ModelError, match=r"teacher: /nowhere/.*to `score`\); .*--teacher FOLDER$"):
        continuation(run, student=student)
    options = {"student": student, "teacher": teacher, "samples": 1, "rollouts": 2}
    assert continuation(run, **options).continuation.height == 4


def test_a_run_scored_with_log_probs_needs_the_weights_of_the_teacher(
    run: Run, cut: dict[int, int], teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.manifest.teacher, "source", "log-probs")
    monkeypatch.setitem(run.manifest.fingerprint, "teacher", {})
    with pytest.raises(OptionError) as raised:
        continuation(run)
    assert str(raised.value) == (
        f"{run.path}: scored with log-probs of the teacher, not with its weights; expected "
        "--teacher FOLDER, weights that have to generate"
    )
    progress = Quiet()
    rows = continuation(run, teacher=teacher, samples=1, rollouts=2, progress=progress)
    assert rows.continuation.height == 4
    assert f"teacher: {teacher} is taken as it is" in progress.said[0]
