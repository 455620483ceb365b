import numpy as np
import polars as pl
import pytest

from opd_diag.datasets import teachable_run
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.columns.tokens import token_columns
from opd_diag.tables.schema import check_table


def columns(run):
    first, last = run.tokens.partition_by("checkpoint", maintain_order=True)
    d = first["forward_kl"].to_numpy().astype(float)
    c = first["teacher_mass"].to_numpy()[:, 3].astype(float)
    h = first["student_entropy"].to_numpy().astype(float)
    return d, c, h, d - last["forward_kl"].to_numpy()


@pytest.mark.parametrize("shape", ["linear", "root", "square"])
def test_the_gain_is_what_was_planted(shape):
    run = teachable_run(compatibility=0.05, interaction=0.04, shape=shape, prompts=60, tokens=100)
    check_table(run.tokens, token_columns(), "tokens")
    check_table(run.rollouts, ROLLOUTS, "rollouts")
    d, c, h, gain = columns(run)
    bend = {"linear": d, "root": np.sqrt(d), "square": d**2 / 4}[shape]
    X = np.column_stack([np.ones_like(d), bend, h, c, d * c])
    beta = np.linalg.lstsq(X, gain, rcond=None)[0]
    np.testing.assert_allclose(beta, [0, 0.25, 0.02, 0.05, 0.04], atol=0.02)
    assert run.truth == {"compatibility": 0.05, "interaction": 0.04}


def test_compatibility_falls_with_divergence_and_entropy():
    d, c, h, _ = columns(teachable_run(prompts=40))
    assert np.corrcoef(c, d)[0, 1] < -0.2
    assert np.corrcoef(c, h)[0, 1] < -0.1
    assert ((c > 0) & (c < 1)).all()


def test_seeds_differ_and_repeat():
    one, again, other = (teachable_run(prompts=5, seed=s).tokens for s in (0, 0, 1))
    assert one.equals(again)
    assert not one.equals(other)


def test_a_gain_larger_than_the_kl_and_an_unknown_shape_are_refused():
    with pytest.raises(ValueError, match="larger than the KL"):
        teachable_run(compatibility=2.0)
    with pytest.raises(ValueError, match="shape: 'cubic'; expected one of linear, root, square"):
        teachable_run(shape="cubic")
    assert isinstance(teachable_run(prompts=5).tokens, pl.DataFrame)
