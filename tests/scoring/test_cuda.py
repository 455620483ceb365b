"""The branches for CUDA on a stand-in: every tensor where it should be, in the dtype it should."""

from pathlib import Path

import numpy as np
import pytest
import torch

import opd_diag as od
from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.engines import processes as processes_module
from opd_diag.scoring.engines.ray import Cluster
from opd_diag.scoring.engines.worker import WorkerSpec, start_worker
from opd_diag.scoring.models.heads import Head, as_head
from opd_diag.scoring.models.loading import Loading, default_device, default_dtype
from opd_diag.scoring.options import check_fused
from opd_diag.scoring.parts.batches import (
    chunk_rows,
    free_memory,
    total_memory,
    with_smaller_batches,
)
from opd_diag.scoring.parts.jobs import Models
from tests.scoring.cuda_stand_in import GIB, cuda_stand_in

KEYS = ["rollout", "position", "token_id", "segment", "in_loss", "repeat"]


@pytest.fixture
def gpu():
    """GPUs that are none."""
    with cuda_stand_in() as current:
        yield current


def test_the_stand_in_refuses_what_a_gpu_refuses(gpu):
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    assert there.device == torch.device("cuda:0")
    assert (there + 1).sum().device.type == "cuda"
    with pytest.raises(RuntimeError, match="same device"):
        _ = there + here
    with pytest.raises(RuntimeError, match="same device"):
        torch.mm(torch.ones(2, 2, device="cuda:1"), torch.ones(2, 2, device="cuda:0"))
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    moved = there.to("cpu")
    moved += here
    assert there.tolist() == [1, 1, 1]  # a copy, as from a GPU
    assert moved.numpy().tolist() == [2, 2, 2]
    assert torch.nn.Linear(2, 2).to("cuda")(torch.ones(1, 2).cuda()).device.type == "cuda"
    with pytest.raises(RuntimeError, match="expected one low dtype"):
        torch.mm(torch.ones(2, 2).cuda(), torch.ones(2, 2).cuda(), out_dtype=torch.float32)


def test_what_a_gpu_is_asked_for(gpu):
    assert default_device() == "cuda"
    assert default_dtype("cuda") == "auto"
    device = torch.device("cuda", 1)
    assert (free_memory(device), total_memory(device)) == (100 * GIB, 141 * GIB)
    assert chunk_rows(151_669, "cuda") == 4 * chunk_rows(151_669, "cpu")


def test_a_head_stays_in_its_dtype_on_a_gpu_alone(gpu):
    weight, bias = torch.randn(5, 4).bfloat16(), torch.randn(5).bfloat16()
    there = as_head(weight, bias, scale=1.0, soft_cap=None, device="cuda:1")
    here = as_head(weight, bias, scale=1.0, soft_cap=None, device="cpu")
    assert (there.weight.dtype, here.weight.dtype) == (torch.bfloat16, torch.float32)
    assert there.weight.device == torch.device("cuda:1") == there.bias.device
    states = torch.randn(3, 4).bfloat16()
    logits = there.logits(states.to("cuda:1"))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.cpu(), here.logits(states))


def test_memory_is_given_back_after_a_batch_that_did_not_fit(gpu, monkeypatch):
    emptied, sizes = [], []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))

    def attempt(size):
        if size > 1_000:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return size

    assert with_smaller_batches(attempt, 4_096, 10, sizes.append) == 512
    assert sizes == [2_048, 1_024, 512]
    assert len(emptied) == 3


def table_of(run, name="a"):
    return run.tokens(name).collect()


def assert_close(ours, theirs, tolerance):
    assert ours.select(KEYS).equals(theirs.select(KEYS))
    for name in ("student_logp", "reverse_kl", "js", "margin", "union_kl", "grad_logits",
                 "grad_hidden", "grad_head"):  # fmt: skip
        got, want = (np.stack(table[name].to_numpy()) for table in (ours, theirs))
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=name)


def test_a_run_on_a_gpu_is_that_of_the_cpu(rollouts, teacher, student, later, tmp_path):
    """Head, chunks, gradient sums, kept states, a second checkpoint, and noise floor."""
    options = {"teacher": teacher, "dtype": "bfloat16", "part_tokens": 60}
    tolerance = 2e-4
    students = {"a": student, "b": later}
    whole = od.score(rollouts, students=students, out=tmp_path / "cpu", **options)
    options |= {"device": "cuda", "teacher_device": "cuda:1", "keep_teacher_states": True}
    with cuda_stand_in():
        od.score(rollouts, students={"a": student}, out=tmp_path / "gpu", **options)
        run = od.score(rollouts, students=students, out=tmp_path / "gpu", **options)
    for name in students:
        assert_close(table_of(run, name), table_of(whole, name), tolerance)
        sums, others = run.gradients(name), whole.gradients(name)
        np.testing.assert_array_equal(sums.n, others.n)
        size = float(np.abs(others.S).max())
        np.testing.assert_allclose(sums.S, others.S, rtol=0, atol=10 * tolerance * size)
    assert run.manifest.teacher.dtype == "bfloat16"


def test_a_worker_takes_its_own_gpu(rollouts, teacher, student, tmp_path, gpu):
    run = od.score(rollouts, teacher=teacher, students={"a": student}, out=tmp_path, device="cpu")
    loading = Loading(device="cuda:1")
    spec = WorkerSpec(
        folder=run.path,
        parts=run.manifest.parts,
        max_response_tokens=None,
        shared={"a": run.vocab.height},
        segmenter="punkt",
        measures=Measures(run.k_grid),
        models=Models(teacher, {"a": student}, loading, loading),
    )
    worker = start_worker(spec, lambda kind, value: None)
    assert gpu == [1]
    assert worker.load().batch_tokens == 65_536  # as many as a GPU is ever given
    measured = worker.measure(["a"], 512, np.array([1, 4]))
    assert measured.students["a"]["noise_floor"].tokens > 0


def test_each_gpu_has_a_process_with_all_threads_and_its_own_models(monkeypatch):
    class Process:
        stdin = None
        killed = 0

        def kill(self):
            Process.killed += 1

        def wait(self):
            pass

    sent = []
    monkeypatch.setattr(processes_module, "_start", lambda pipe: Process())
    monkeypatch.setattr(processes_module.Processes, "send", lambda *told: sent.append(told[2]))
    models = Models("t", {"a": "s"}, Loading(device="cpu"), Loading(device="cpu"))
    spec = WorkerSpec(Path(), (), None, {}, "punkt", Measures((2,)), models)
    for devices in (["cuda:0", "cuda:1"], ["cpu", "cpu"]):
        sent.clear()
        with processes_module.processes(devices, spec, 9) as pool:
            assert len(pool.processes) == 2
        for device, told in zip(devices, sent, strict=True):
            teacher, student = told.models.teacher_loading, told.models.student_loading
            assert teacher.device == teacher.head_device == student.device == device
            shared = 1 if device.startswith("cuda") else 2
            assert told.threads == max(1, torch.get_num_threads() // shared)
    assert Process.killed == 4
    assert Cluster(workers=2, gpus=1, cpus=4).device == "cuda"
    assert Cluster(workers=2, gpus=0, cpus=4).device == "cpu"


def test_a_check_before_a_long_job_looks_at_the_gpu(rollouts, teacher, student, gpu):
    lines = od.check(rollouts, teacher=teacher, students=student)
    assert any("GB free on cuda:0" in line.detail for line in lines)
    assert all(line.level != "error" for line in lines)


def test_the_kernel_runs_on_tensors_of_a_gpu(gpu):
    pytest.importorskip("triton")
    from opd_diag.scoring.columns.rows import Rows, score_rows

    check_fused("cuda")
    generator = torch.Generator().manual_seed(0)
    rows = [
        Rows(Head(torch.randn(2_100, 8, generator=generator).to("cuda")),
             torch.randn(3, 8, generator=generator).to("cuda"))
        for _ in range(2)
    ]  # fmt: skip
    tokens = torch.tensor([1, 2, 3]).to("cuda")
    (fused,), (plain,) = (
        score_rows(tokens, rows[0], rows[1:], Measures((2, 4), fused=one)) for one in (True, False)
    )
    for name, values in plain.columns.items():
        assert fused.columns[name].device.type == values.device.type == "cuda"
        torch.testing.assert_close(fused.columns[name].cpu(), values.cpu(), rtol=1e-5, atol=1e-5)
