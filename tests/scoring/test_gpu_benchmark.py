"""The whole command for a GPU at its smallest size: on the CPU, and on a GPU that is none."""

import importlib.metadata
import json
import sys
import time

import pytest
import torch

import opd_diag
from benchmarks.gpu.__main__ import main, name_the_package
from benchmarks.gpu.report import FAILED, Setting, Step, UnavailableError, run_steps
from opd_diag.scoring.parts import score_part
from tests.scoring.cuda_stand_in import cuda_stand_in

STEPS = (
    *("exact columns", "fused kernel", "whole models", "determinism", "memory", "product"),
    *("8B and 1.7B", "stages", "tiles", "other kernels", "attention", "quantised teacher"),
)


TOP = "top K of both"


def run(folder, device, skip):
    out = folder / "gpu.md"
    code = main(["--tiny", "--device", device, "--out", str(out), "--skip", skip])
    return code, json.loads(out.with_suffix(".json").read_text())["steps"], out.read_text()


def test_all_of_it_runs_on_the_cpu(tmp_path):
    pytest.importorskip("triton")
    # A process of its own for a device is what test_workers is about.
    code, steps, page = run(tmp_path, "cpu", "workers,1.7B and 0.6B")
    assert code == 0, steps
    assert tuple(step["name"] for step in steps) == STEPS
    assert [step["name"] for step in steps if step["state"] != "done"] == ["quantised teacher"]
    for step in steps[:5]:
        assert step["rows"]
        assert all(row["ok"] for row in step["rows"])
        assert f"## {step['name']}" in page
    stages = {row["stage"]: row["microseconds a token"] for row in steps[7]["rows"]}
    parts = [time for name, time in stages.items() if name not in ("bare", "score", TOP)]
    assert sum(parts) == pytest.approx(stages["score"])
    (tile,) = steps[8]["rows"]
    assert tile["largest difference of KL, nat"] < 1e-5
    kernels = {row["way"]: row for row in steps[9]["rows"]}
    assert kernels["score, fused kernel"]["largest difference from float64, nat"] < 1e-4
    speeds = {(row["length"], row["way"]): row["tokens/s"] for row in steps[6]["rows"]}
    assert set(speeds) == {(8, "bare"), (8, "score")}


def test_its_branches_for_a_gpu_run_too(tmp_path, monkeypatch):
    """Speeds and memory are none, but every call for them is made."""
    skip = "workers,1.7B and 0.6B,fused kernel,determinism,attention,tiles"
    plain, shares = score_part.response_states, []

    def states(model, prompts, responses, rollouts):
        if shares and shares[-1] < 1 and len(rollouts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(model, prompts, responses, rollouts)

    monkeypatch.setattr(score_part, "response_states", states)
    with cuda_stand_in():
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
        code, steps, _ = run(tmp_path, "cuda", skip)
    assert code == 0, steps
    by_name = {step["name"]: step for step in steps}
    ways = {row["way"] for row in by_name["8B and 1.7B"]["rows"]}
    assert ways == {"bare", "score", "fused"}
    assert all(row["MFU"] > 0 for row in by_name["8B and 1.7B"]["rows"])
    assert all(row["ok"] for row in by_name["whole models"]["rows"])
    (row,) = by_name["memory"]["rows"]
    assert row["ok"]
    assert row["halved"] > 1
    assert shares == [pytest.approx(0.8 / 141), 1.0]
    assert len(by_name["quantised teacher"]["rows"]) == 2


def test_a_checkout_that_is_not_installed_knows_its_version(tmp_path, monkeypatch):
    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importlib.metadata, "version", unknown)
    name_the_package(tmp_path)
    (named,) = importlib.metadata.distributions(name="opd-diag", path=[str(tmp_path)])
    assert named.version == opd_diag.__version__
    assert sys.path[-1] == str(tmp_path)


def test_a_step_that_fails_or_does_not_fit_is_a_row_and_not_the_end(tmp_path):
    def fails(_):
        yield {"n": 1, "ok": True}
        raise ValueError("no\nsecond line")

    def wrong(_):
        yield {"n": 1, "ok": False}

    def lacks(_):
        raise UnavailableError("not here")
        yield

    def hangs(_):
        time.sleep(60)
        yield

    setting = Setting("cpu", False, tmp_path, tmp_path)
    rows = (("fails", 0.0, fails), ("wrong", 0.0, wrong), ("lacks", 0.0, lacks),
            ("long", 99.0, fails), ("hangs", 0.0, hangs))  # fmt: skip
    steps = [Step(name, "", seconds, work) for name, seconds, work in rows]
    wrote: list[int] = []
    done = run_steps(steps, setting, 2.0, lambda so_far: wrote.append(len(so_far)))
    assert wrote == [1, 2, 3, 4, 5]
    assert [one.state for one in done] == [FAILED, FAILED, "skipped", "skipped", FAILED]
    assert done[0].reason == "ValueError: no"
    assert done[0].rows == [{"n": 1, "ok": True}]
    assert done[1].reason == "a check failed"
    assert "takes about 99 s" in done[3].reason
    assert "no end after" in done[4].reason
