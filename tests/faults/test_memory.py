"""Memory that runs out at some batch, and models that return what is no number."""

import math

import polars as pl
import pytest
import torch

from opd_diag.errors import ModelError
from opd_diag.scoring.models import loading
from opd_diag.scoring.parts import score_part as part_module
from opd_diag.scoring.preflight.check import check
from opd_diag.scoring.score import score
from opd_diag.tables.columns.tokens import TOKENS

FAILURES = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory."),
    "host": MemoryError,
    "allocator": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
}
MEASURED = [column.name for column in TOKENS if column.nullable]
KEYS = [column.name for column in TOKENS if not column.nullable]


def assert_close(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Assert that two token tables differ by rounding only, as other batches bring it."""
    assert one.select(KEYS).equals(other.select(KEYS))
    for name in ("student_logp", "teacher_logp", "reverse_kl", "forward_kl", "grad_hidden"):
        assert (one[name] - other[name]).abs().max() < 1e-3
        assert one[name].null_count() == other[name].null_count()


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("share", [0.0, 0.4, 0.8, 1.0])
def test_memory_that_runs_out_at_a_batch_halves_it_and_goes_on(
    rollouts, options, clean, tmp_path, kind, share, monkeypatch
):
    """At any batch: those of the parts, and those of the noise floor at the end."""
    plain, calls = part_module.response_states, []

    def states(*arguments):
        calls.append(1)
        if len(calls) == at:
            raise FAILURES[kind]()
        return plain(*arguments)

    monkeypatch.setattr(part_module, "response_states", states)
    at = 0
    if "calls" not in COUNTED:
        score(rollouts, **options, out=tmp_path / "counted", batch_tokens=300)
        COUNTED["calls"] = len(calls)
        calls.clear()
    at = 1 + round(share * (COUNTED["calls"] - 1))
    run = score(rollouts, **options, out=tmp_path / "run", batch_tokens=300)
    assert len(calls) > COUNTED["calls"]
    for name in run.checkpoints:
        assert_close(run.tokens(name).collect(), clean.tokens(name).collect())


COUNTED: dict[str, int] = {}


def test_memory_that_never_suffices_is_one_line(rollouts, options, tmp_path, monkeypatch):
    def states(*_):
        raise FAILURES["cuda"]()

    monkeypatch.setattr(part_module, "response_states", states)
    with pytest.raises(ModelError, match="does not fit into memory alone") as caught:
        score(rollouts, **options, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    students = options["students"]
    found = check(rollouts, teacher=options["teacher"], students=students["a"], out=tmp_path)
    assert (found[-1].level, found[-1].what) == ("red", "memory")


@pytest.mark.parametrize("kind", FAILURES)
def test_a_model_that_does_not_fit_is_one_line(rollouts, options, tmp_path, monkeypatch, kind):
    def load(*_, **__):
        raise FAILURES[kind]()

    monkeypatch.setattr(loading, "_load", load)
    with pytest.raises(ModelError, match="memory") as caught:
        score(rollouts, **options, out=tmp_path / "run")
    assert options["teacher"] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_rows_that_are_no_numbers_are_null_and_counted_and_the_rest_is_whole(
    rollouts, options, clean, tmp_path, monkeypatch, value, who
):
    """Every fifth hidden state of one model is lost; all other rows stay as in the clean run."""
    broken = options["students"]["a"] if who == "student" else options["teacher"]
    plain = part_module.response_states

    def states(model, prompts, responses, numbers):
        found = plain(model, prompts, responses, numbers)
        if model.name == broken:
            rows = torch.cat([torch.arange(len(responses[i])) for i in numbers])
            found = torch.where((rows % 5 == 3)[:, None], torch.tensor(value), found)
        return found

    monkeypatch.setattr(part_module, "response_states", states)
    students = {"a": options["students"]["a"]}
    run = score(rollouts, **options | {"students": students}, out=tmp_path / "run")
    table, expected = run.tokens("a").collect(), clean.tokens("a").collect()
    lost = table["position"] % 5 == 3
    assert table.filter(~lost).equals(expected.filter(~lost))
    assert table.select(KEYS).equals(expected.select(KEYS))
    assert table.filter(lost).select(pl.col(MEASURED).is_null().all()).row(0) == (True,) * len(
        MEASURED
    )
    statistics = run.manifest.checkpoints["a"].statistics
    assert statistics["rows_not_finite"] == lost.sum() > 0
    said = f"checkpoint a: logits of {lost.sum()} of {table.height} tokens are not finite"
    assert any(said in warning for warning in run.manifest.warnings)
    sums = run.gradients("a")
    assert sums.n.sum() == (~lost & table["in_loss"]).sum()
    assert torch.from_numpy(sums.S).isfinite().all()
