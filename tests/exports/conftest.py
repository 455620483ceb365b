"""A small run on disk with all results that rules read."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import opd_diag as od
from opd_diag.datasets import save_run, trap_run
from opd_diag.tables.run import Run


@pytest.fixture(scope="session")
def exported_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Low stretches, falling margins in half of the rollouts, a loss mask with gaps."""
    data = trap_run(prompts=14, samples=2, tokens=240, seed=3)
    rng = np.random.default_rng(0)
    tokens = data.tokens.sort("checkpoint", "rollout", "position", maintain_order=True)
    falls = (pl.col("position") >= 120) & (pl.col("rollout") % 2 == 0)
    outside = pl.Series(rng.random(tokens.height // 2) < 0.04)
    outside = pl.concat([outside, outside])
    tokens = tokens.with_columns(
        margin=pl.when(falls).then(pl.col("margin") * 0.05).otherwise("margin"),
        segment=(pl.col("position") // 12).cast(pl.UInt32),
        in_loss=~outside,
    )
    run = save_run(data._replace(tokens=tokens), tmp_path_factory.mktemp("exports") / "run")
    for name in ("release_points", "rock_tokens", "agreement_traps"):
        run.save(getattr(od, name)(run)._asdict(), arguments={})
    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "export"
