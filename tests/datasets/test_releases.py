import numpy as np
import polars as pl
import pytest

from opd_diag.datasets.releases import ar1, release_run
from opd_diag.tables.columns.tokens import token_columns
from opd_diag.tables.schema import check_table


def scores(data, rows):
    """Segment scores of a run, from its margins. Shape (rollouts, segments)."""
    first = data.tokens.group_by("rollout", "segment", maintain_order=True).agg(
        pl.col("margin").arr.get(0).mean()
    )
    return np.log1p(first["margin"].to_numpy().reshape(rows, -1))


def test_a_planted_step_stands_where_the_truth_says():
    data = release_run(prompts=10, samples=4, k_grid=(2, 4), drop=2.0)
    check_table(data.tokens, token_columns((2, 4)), "tokens")
    found = scores(data, 40)
    tau = data.truth["tau"]
    before = np.array([row[:t].mean() for row, t in zip(found, tau, strict=True)])
    after = np.array([row[t:].mean() for row, t in zip(found, tau, strict=True)])
    assert before.mean() == pytest.approx(3.0, abs=0.05)
    assert after.mean() == pytest.approx(1.0, abs=0.05)
    assert (data.truth["release_token"] == tau * 8).all()


def test_an_unknown_shape_or_noise_is_refused():
    with pytest.raises(ValueError, match="shape: 'stairs'; expected one of step, line, none"):
        release_run(shape="stairs")
    with pytest.raises(ValueError, match="noise: 'white'; expected one of ar, jumps, dips"):
        release_run(noise="white")


def test_a_line_falls_evenly_and_nothing_falls_not_at_all():
    line = scores(release_run(prompts=10, samples=4, shape="line", k_grid=(2,)), 40)
    slope = np.polyfit(np.linspace(0, 1, 40), line.mean(axis=0), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.1)
    none = scores(release_run(prompts=10, samples=4, shape="none", k_grid=(2,)), 40)
    assert np.polyfit(np.linspace(0, 1, 40), none.mean(axis=0), 1)[0] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("phi", [0.0, 0.6])
def test_ar1_is_stationary_with_its_autocorrelation(phi):
    y = ar1(np.random.default_rng(0), phi, (4000, 12))
    np.testing.assert_allclose(y.var(axis=0), 1.0, atol=0.1)
    for t in range(11):
        assert np.corrcoef(y[:, t], y[:, t + 1])[0, 1] == pytest.approx(phi, abs=0.06)
