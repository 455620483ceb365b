"""The fused kernel against plain torch, and its code for GPUs; `test_rows` runs it on the laws."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import opd_diag as od
from opd_diag.errors import OptionError
from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.columns.rows import Rows, score_rows
from opd_diag.scoring.models.heads import Head
from opd_diag.scoring.options import check_fused

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from opd_diag.scoring.columns.fused_kernel import TILE, _kernel

types = {"student": "*fp32", "teacher": "*fp32", "sums": "*fp32", "tokens": "*i64", "ranks": "*i64"}
types |= {"student_tops": "*i64", "teacher_tops": "*i64", "BLOCK": "constexpr"}
types |= {"inverse_temperature": "fp32", "cap_factor": "fp32"}
signature = {name: types.get(name, "i32") for name in _kernel.arg_names}
source = triton.compiler.ASTSource(fn=_kernel, signature=signature, constexprs={"BLOCK": TILE.ids})
for capability in (80, 90):
    built = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": TILE.warps}
    )
    print(capability, ".target sm_" + str(capability) in built.asm["ptx"])
"""


@pytest.mark.parametrize("ids", [3, 2_047, 2_048, 5_001])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_all_columns_are_those_of_plain_torch(ids, temperature):
    rng = np.random.default_rng(ids)
    rows, width = 5, 8
    hidden = rng.standard_normal((3, rows, width))
    weight = 2 * rng.standard_normal((3, ids, width))
    teacher, first, second = (
        Rows(Head(_tensor(w), soft_cap=cap), _tensor(h))
        for w, h, cap in zip(weight, hidden, (None, None, 6.0), strict=True)
    )
    tokens = torch.as_tensor(rng.integers(0, ids, rows), device=DEVICE)
    measures = Measures((2,) if ids < 64 else (2, 8, 64), temperature=temperature)
    plain, fused = (
        score_rows(tokens, teacher, [first, second], measures._replace(fused=one))
        for one in (False, True)
    )
    for want, got in zip(plain, fused, strict=True):
        assert want.columns.keys() == got.columns.keys()
        for name, values in want.columns.items():
            assert got.columns[name].dtype == values.dtype, name
            torch.testing.assert_close(
                got.columns[name].double(), values.double(), rtol=1e-5, atol=1e-5, msg=name
            )
        largest = float(want.gradient.abs().max())
        torch.testing.assert_close(got.gradient, want.gradient, rtol=0, atol=1e-5 * largest)


def test_a_run_is_the_same_with_the_kernel(rollouts, teacher, student, tmp_path):
    tables = [
        od.score(
            rollouts, teacher=teacher, students={"s": student}, out=tmp_path / str(fused),
            fused=fused, device=DEVICE, dtype="float32",
        ).tokens("s").collect()
        for fused in (False, True)
    ]  # fmt: skip
    keys = ["rollout", "position", "token_id", "student_rank", "teacher_rank", "student_top_id"]
    assert tables[0].select(keys).equals(tables[1].select(keys))
    for name in ("reverse_kl", "forward_kl", "js", "grad_logits", "grad_hidden", "union_kl"):
        want, got = (table[name].to_numpy() for table in tables)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_kernel_compiles_for_gpus():
    """The interpreter takes more than the compiler does."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment
    )
    assert done.stdout.split() == ["80", "True", "90", "True"], done.stderr


def test_it_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(OptionError, match="fused: device 'cpu'; expected a CUDA device"):
        check_fused("cpu")
    check_fused("cuda:1")
    monkeypatch.setattr("opd_diag.scoring.options.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="triton is not installed"):
        check_fused("cuda:1")


def _tensor(values):
    return torch.tensor(values, dtype=torch.float32, device=DEVICE)
