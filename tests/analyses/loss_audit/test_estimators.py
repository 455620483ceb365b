"""Estimators against whole distributions: laws, scipy and autograd."""

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import rel_entr

from opd_diag.analyses.loss_audit.estimators import (
    FORMS,
    SETS,
    Estimator,
    Rows,
    evaluate,
    list_estimators,
    named_estimator,
    needed_columns,
)
from opd_diag.errors import OptionError
from tests.analyses.loss_audit.on_policy import K_GRID, random_logps, token_columns_of

K = 4


def rows_of(lp, lq, token):
    wanted = needed_columns([Estimator(kind, k=K) for kind in SETS], (K,))
    frame = pl.DataFrame(token_columns_of(lp, lq, token))
    frame = frame.with_columns(pl.col("teacher_mass").arr.to_list().list.tail(1).list.to_array(1))
    return Rows(frame.select(*(column for columns in wanted.values() for column in columns)))


def test_k1_and_k3_have_the_exact_kl_as_their_mean_under_the_student():
    lp, lq = random_logps(np.random.default_rng(0), 50)
    p, a = np.exp(lp), lp - lq
    exact = rel_entr(p, np.exp(lq)).sum(1)
    for kind in ("k1", "k3"):
        value = evaluate(Estimator(kind), FakeRows(a)).value
        np.testing.assert_allclose((p * value).sum(1), exact, rtol=1e-9, atol=1e-12)
    biased = (p * evaluate(Estimator("k2"), FakeRows(a)).value).sum(1)
    assert (np.abs(biased / exact - 1) > 0.1).any()
    cut = (p * evaluate(Estimator("k1", clamp=0.5), FakeRows(a)).value).sum(1)
    assert np.abs(cut - exact).max() > 0.1


class FakeRows:
    """Log-ratios of all ids, where an expectation is taken over the vocabulary."""

    def __init__(self, log_ratio):
        self.log_ratio = log_ratio


@pytest.fixture(scope="module")
def many():
    """10^5 pairs of random distributions, from equal to far apart."""
    rng = np.random.default_rng(1)
    apart = 10.0 ** rng.uniform(-3, 1, (100_000, 1))
    lp, lq = random_logps(rng, 100_000, ids=12, apart=apart)
    token = rng.integers(0, 12, 100_000)
    return lp, lq, token, rows_of(lp, lq, token)


@pytest.mark.parametrize("kind", SETS)
def test_the_kl_of_k_tokens_and_the_rest_is_never_above_the_exact_one(many, kind):
    """Data processing: to merge outcomes loses divergence."""
    lp, lq, _, rows = many
    value = evaluate(Estimator(kind, k=K, form="bucket"), rows).value
    exact = rel_entr(np.exp(lp), np.exp(lq)).sum(1)
    # Masses and parts are stored in float32.
    assert (value <= exact * (1 + 1e-5) + 2e-6).all()
    assert (value >= -2e-6).all()
    assert np.median(value / exact) > 0.5


@pytest.mark.parametrize("kind", SETS)
def test_truncated_losses_are_those_of_the_distributions(many, kind):
    lp, lq, _, rows = many
    some = np.arange(0, len(lp), 997)
    order = np.argsort(-(lp if kind == "student_top" else lq)[some])[:, :K]
    p, q = (np.take_along_axis(np.exp(logp[some]), order, 1) for logp in (lp, lq))
    tail = 1 - p.sum(1), 1 - q.sum(1)
    whole, other = p.sum(1, keepdims=True), q.sum(1, keepdims=True)
    want = {
        "plain": (p * np.log(p / q)).sum(1),
        "renormalised": rel_entr(p / whole, q / other).sum(1),
        "bucket": (p * np.log(p / q)).sum(1) + rel_entr(*tail),
    }
    for form in FORMS:
        got = evaluate(Estimator(kind, k=K, form=form), rows).value[some]
        # A tail far below the rounding of float32 is taken to be as large as that.
        there = tail[1] > (1e-3 if form == "bucket" else 0)
        np.testing.assert_allclose(
            got[there], want[form][there], rtol=1e-3, atol=5e-6, err_msg=form
        )
    assert (tail[1] > 1e-3).sum() > 50


def losses(x, lq, token):
    """Each loss from a student's logits, to be differentiated; k1 is a reward."""
    lp = torch.log_softmax(x, 0)
    p, q = lp.exp(), lq.exp()
    a = lp[token] - lq[token]
    yield Estimator("k1"), a.detach() * lp[token]
    yield Estimator("k2"), a * a / 2
    yield Estimator("k3"), torch.exp(-a) - 1 + a
    yield Estimator("k3", clamp=0.5), (torch.exp(-a) - 1 + a).clamp(-0.5, 0.5)
    for kind, order in (("student_top", lp), ("teacher_top", lq)):
        top = order.argsort(descending=True)[:K]
        part = (p[top] * (lp[top] - lq[top])).sum()
        yield Estimator(kind, k=K), part
        ratio = lp[top] - lq[top] - p[top].sum().log() + q[top].sum().log()
        yield Estimator(kind, k=K, form="renormalised"), (p[top] / p[top].sum() * ratio).sum()
        tail = (1 - p[top].sum()) * torch.log((1 - p[top].sum()) / (1 - q[top].sum()))
        yield Estimator(kind, k=K, form="bucket"), part + tail


def test_signs_of_gradients_are_those_of_autograd():
    rng = np.random.default_rng(2)
    lp, lq = random_logps(rng, 60, ids=10)
    token = np.array([rng.choice(10, p=np.exp(row) / np.exp(row).sum()) for row in lp])
    rows = rows_of(lp, lq, token)
    checked = 0
    for i, at in enumerate(token.tolist()):
        x = torch.tensor(lp[i], requires_grad=True)
        for estimator, loss in losses(x, torch.tensor(lq[i]), at):
            slope = 0.0
            if loss.requires_grad:
                slope = float(torch.autograd.grad(loss, x, retain_graph=True)[0][at])
            sign = evaluate(estimator, rows).sign[i]
            if abs(slope) > 1e-5 or sign == 0:
                assert sign == (0 if abs(slope) < 1e-9 else np.sign(slope)), (estimator.name, i)
                checked += 1
        exact = (x.softmax(0) * (torch.log_softmax(x, 0) - torch.tensor(lq[i]))).sum()
        slope = float(torch.autograd.grad(exact, x)[0][at])
        np.testing.assert_allclose(rows.exact_gradient[i], slope, rtol=1e-3, atol=1e-6)
    assert checked > 400


def test_names_lead_back_to_their_estimators():
    for estimator in list_estimators((1.0, 2.5), K_GRID, Estimator("k1")):
        assert named_estimator(estimator.name, K_GRID) == estimator
    for name in ("k4", "k1_clamp_0", "k1_clamp_1.2.3", "student_top_5", "student_top_4_tail", ""):
        with pytest.raises(OptionError, match="expected k1, k2 or k3"):
            named_estimator(name, K_GRID)
