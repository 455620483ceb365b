"""Rows of logits against float64: precision, laws, and logits that are not finite."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.columns.rows import Rows, score_rows
from opd_diag.scoring.columns.top_k import top_k
from opd_diag.scoring.models.heads import Head
from tests.scoring.reference import gradients, row_columns

MEASURES = Measures((2, 4, 8, 16, 32, 64))
DIVERGENCES = ("reverse_kl", "forward_kl", "js")


@pytest.fixture(params=["plain", "fused"])
def measures(request):
    """Both ways to sum over the vocabulary."""
    if request.param == "fused":
        pytest.importorskip("triton")
    return MEASURES._replace(fused=request.param == "fused")


def device_of(measures):
    """Where the kernel runs: interpreted on the CPU where there is no GPU."""
    return "cuda" if measures.fused and torch.cuda.is_available() else "cpu"


@pytest.fixture
def score_logits(measures):
    """Score logits as they are: the hidden state is the logits, the head's weight the identity."""
    device = device_of(measures)

    def score(x, y, tokens=None):
        x, y = (torch.as_tensor(z, dtype=torch.float32, device=device) for z in (x, y))
        head = _Passing(torch.eye(x.shape[1], device=device))
        tokens = torch.as_tensor([0] * len(x) if tokens is None else tokens, device=device)
        with np.errstate(invalid="ignore"):  # the interpreter calculates in numpy
            (scored,) = score_rows(tokens, Rows(head, y), [Rows(head, x)], measures)
        return {name: values.cpu().numpy() for name, values in scored.columns.items()}

    return score


class _Passing(Head):
    """A head that passes logits on, so that -inf is not multiplied by 0."""

    def logits(self, hidden, *, out=None):
        return hidden.clone() if out is None else out.copy_(hidden)


def pairs(scale, ids=5_000, rows=24, seed=0):
    """Logits from flat to sharp, and others `scale` away from them. As float32 values."""
    rng = np.random.default_rng(seed)
    sharp = np.geomspace(1, 20, rows)[:, None]
    x = (rng.standard_normal((rows, ids)) * sharp).astype(np.float32)
    return x, (x + scale * rng.standard_normal((rows, ids))).astype(np.float32)


def stable_kl(p_logits, q_logits):
    """KL(p ‖ q) in float64 without cancellation."""
    p, q = softmax(p_logits, 1), softmax(q_logits, 1)
    a = np.log(p) - np.log(q)
    return (p * (a + np.expm1(-a))).sum(1)


@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1e-2, 0.1, 1.0])
def test_divergences_keep_their_digits_however_small(score_logits, scale):
    x, y = pairs(scale)
    got = score_logits(x, y)
    x, y = x.astype(np.float64), y.astype(np.float64)
    p, q = softmax(x, 1), softmax(y, 1)
    b = q / p - 1
    js = (p * (-np.log1p(b / 2)) + q * (np.log1p(b) - np.log1p(b / 2))).sum(1) / 2
    want = {"reverse_kl": stable_kl(x, y), "forward_kl": stable_kl(y, x), "js": js}
    for name in DIVERGENCES:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=1e-8, err_msg=name)


def test_extreme_gaps_neither_overflow_nor_vanish(score_logits):
    x, y = pairs(60.0, ids=200)
    got = score_logits(x, y)
    for row in range(len(x)):
        want = row_columns(x[row].astype(np.float64), y[row].astype(np.float64), 0)
        for name in (*DIVERGENCES, "student_entropy", "teacher_entropy", "margin", "teacher_mass"):
            assert got[name][row] == pytest.approx(want[name], rel=2e-5, abs=2e-5), name


@pytest.mark.parametrize("seed", range(5))
def test_equal_logits_have_no_divergence_and_none_is_negative(score_logits, seed):
    x, y = pairs(1e-5, ids=700, seed=seed)
    same, near = score_logits(x, x), score_logits(x, y)
    for name in (*DIVERGENCES, "union_kl"):
        assert same[name].max() < 1e-6, name
        assert near[name].min() >= 0, name


def test_rows_do_not_depend_on_each_other(score_logits):
    x, y = pairs(1.0)
    whole, flipped = score_logits(x, y), score_logits(x[::-1].copy(), y[::-1].copy())
    for name, values in whole.items():
        np.testing.assert_array_equal(values, flipped[name][::-1], err_msg=name)


def test_top_k_in_groups_is_top_k():
    torch.manual_seed(0)
    for ids in (4_096, 5_000, 10_007):
        logits = torch.randn(7, ids)
        values, places = top_k(logits, 64)
        torch.testing.assert_close(values, logits.topk(64).values, rtol=0, atol=0)
        torch.testing.assert_close(logits.gather(1, places), values, rtol=0, atol=0)


def test_equal_logits_everywhere(score_logits):
    got = score_logits(np.zeros((2, 5_000)), np.zeros((2, 5_000)))
    assert (got["student_rank"] == 1).all()
    assert (got["margin"] == 0).all()
    assert (got["overlap"] == 1).all()
    np.testing.assert_allclose(
        got["teacher_mass"], [[k / 5_000 for k in MEASURES.k_grid]] * 2, rtol=1e-6
    )
    np.testing.assert_allclose(got["student_entropy"], np.log(5_000), rtol=1e-6)


def test_a_masked_token_counts_as_probability_zero(score_logits):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 300)), rng.standard_normal((2, 300))
    x[:, 5:20] = y[:, 5:20] = -np.inf
    got = score_logits(x, y)
    p, q = softmax(x, 1), softmax(y, 1)
    np.testing.assert_allclose(got["reverse_kl"], rel_entr(p, q).sum(1), rtol=1e-5)
    np.testing.assert_allclose(got["js"], _js(p, q), rtol=1e-5)
    np.testing.assert_allclose(
        got["student_entropy"],
        -np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0).sum(1),
        rtol=1e-5,
    )
    assert got["finite"].all()
    kept = np.delete(x, np.s_[5:20], 1), np.delete(y, np.s_[5:20], 1)
    without = score_logits(*kept)
    np.testing.assert_allclose(got["grad_logits"], without["grad_logits"], rtol=1e-5)
    np.testing.assert_allclose(got["union_kl"], without["union_kl"], rtol=1e-4)


def test_an_infinite_divergence_has_no_value_and_leaves_the_others(score_logits):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 300)), rng.standard_normal((3, 300))
    x[0, 7] = -np.inf  # p = 0 < q
    y[1, 9] = -np.inf  # q = 0 < p
    got = score_logits(x, y)
    p, q = softmax(x, 1), softmax(y, 1)
    assert np.isfinite(got["forward_kl"]).tolist() == [False, True, True]
    assert np.isfinite(got["reverse_kl"]).tolist() == [True, False, True]
    assert np.isfinite(got["grad_hidden"]).tolist() == [True, False, True]
    np.testing.assert_allclose(got["reverse_kl"][0], rel_entr(p, q)[0].sum(), rtol=1e-5)
    np.testing.assert_allclose(got["forward_kl"][1], rel_entr(q, p)[1].sum(), rtol=1e-5)
    np.testing.assert_allclose(got["js"], _js(p, q), rtol=1e-5)


def test_a_masked_target_has_no_log_prob(score_logits):
    x, y = np.zeros((1, 300)), np.zeros((1, 300))
    y[0, 4] = -np.inf
    got = score_logits(x, y, tokens=[4])
    assert np.isneginf(got["teacher_logp"][0])
    assert got["teacher_rank"][0] == 300
    assert got["student_logp"][0] == pytest.approx(-np.log(300))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_spoils_no_other(score_logits, bad):
    x, y = pairs(1.0, ids=300, rows=4)
    clean = score_logits(x, y)
    x, y = x.copy(), y.copy()
    x[1, 3] = bad
    y[2, 3] = bad
    got = score_logits(x, y)
    assert got["finite"].tolist() == [True, False, False, True]
    for name, values in clean.items():
        np.testing.assert_array_equal(got[name][[0, 3]], values[[0, 3]], err_msg=name)


@pytest.mark.parametrize(
    ("scale", "soft_cap", "bias", "temperature"),
    [
        (1.0, None, False, 1.0),
        (0.25, None, False, 1.0),
        (1.0, 5.0, False, 1.0),
        (3.0, 8.0, True, 0.8),
    ],
)
def test_gradients_agree_with_autograd(measures, scale, soft_cap, bias, temperature):
    rng = np.random.default_rng(0)
    rows, ids, width = 6, 400, 16
    hidden, weight = rng.standard_normal((rows, width)), rng.standard_normal((ids, width))
    y, offset = 3 * rng.standard_normal((rows, ids)), rng.standard_normal(ids) if bias else None

    def tensor(values):
        return torch.tensor(values, dtype=torch.float32, device=device_of(measures))

    head = Head(tensor(weight), None if offset is None else tensor(offset / scale), scale, soft_cap)
    (scored,) = score_rows(
        torch.zeros(rows, dtype=torch.int64, device=device_of(measures)),
        Rows(_Passing(tensor(np.eye(ids))), tensor(y)),
        [Rows(head, tensor(hidden))],
        measures._replace(temperature=temperature),
    )
    for row in range(rows):
        norms, vector = gradients(
            hidden[row], weight, y[row],
            bias=offset, scale=scale, soft_cap=soft_cap, temperature=temperature,
        )  # fmt: skip
        for name, value in norms.items():
            assert float(scored.columns[name][row]) == pytest.approx(value, rel=1e-4), name
        np.testing.assert_allclose(scored.gradient[row].cpu(), vector, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_low_precision_head_carries_the_gradient_in_two_terms(monkeypatch, dtype):
    """Stands in for CUDA, where alone bfloat16 products come out in float32."""
    plain = torch.mm

    def mm(a, b, *, out=None, out_dtype=None):
        if out_dtype is not None:
            assert a.dtype == b.dtype == dtype
            a, b = a.to(out_dtype), b.to(out_dtype)
        return plain(a, b, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    torch.manual_seed(0)
    weight, gradient = torch.randn(500, 24).to(dtype), torch.randn(9, 500) * 1e-12
    got = Head(weight, scale=2.0).backward(gradient.clone())
    want = 2.0 * plain(gradient.double(), weight.double())
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=float(want.abs().max()) * 1e-5)


def _js(p, q):
    m = (p + q) / 2
    return (rel_entr(p, m) + rel_entr(q, m)).sum(1) / 2
