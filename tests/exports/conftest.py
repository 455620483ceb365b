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
def sized_run(tmp_path: Path) -> Run:
    """Segments of unequal size, low stretches that begin early, and falling margins."""
    data = trap_run(prompts=10, samples=2, tokens=240, seed=5)
    ends = np.cumsum(np.random.default_rng(1).integers(2, 16, 100))
    falls = (pl.col("position") >= 90) & (pl.col("rollout") % 2 == 0)
    tokens = data.tokens.with_columns(
        margin=pl.when(falls).then(pl.col("margin") * 0.25).otherwise("margin"),
        segment=pl.Series(np.searchsorted(ends, data.tokens["position"], "right"), dtype=pl.UInt32),
    )
    return save_run(data._replace(tokens=tokens), tmp_path / "run")


@pytest.fixture
def turns_run(tmp_path: Path) -> Run:
    """Responses of three turns, low KL and a falling margin across them, values that are null."""
    data = trap_run(prompts=10, samples=2, tokens=300, length=200, seed=3)
    rng = np.random.default_rng(2)
    drawn = rng.random((3, data.tokens.height // 2)) < np.array([[0.03], [0.05], [0.05]])
    lost, no_kl, no_margin = (pl.Series(np.tile(one, 2)) for one in drawn)
    place = pl.col("position")
    others = place.is_between(125, 139) | place.is_between(215, 229)
    falls = (place >= 115 + pl.col("rollout") * 3) & (pl.col("rollout") % 2 == 0)
    tokens = data.tokens.sort("checkpoint", "rollout", "position", maintain_order=True)
    low = pl.when(falls).then(pl.col("margin") * 0.2).otherwise("margin")
    tokens = tokens.with_columns(
        margin=pl.when(~no_margin).then(low),
        reverse_kl=pl.when(~no_kl).then("reverse_kl"),
        segment=(place // 6).cast(pl.UInt32),
        in_loss=~(others | lost),
    )
    return save_run(data._replace(tokens=tokens), tmp_path / "run")


@pytest.fixture(scope="session")
def tied_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Scores that tie: the teacher's mass has five values, raw divergence forty."""
    data = trap_run(prompts=14, samples=2, tokens=240, seed=4)
    few = (pl.col("forward_kl") * 8).round().clip(0, 39) / 8
    five = pl.Series(np.random.default_rng(0).integers(0, 5, data.tokens.height) / 4)
    mass = data.tokens["teacher_mass"]
    tokens = data.tokens.with_columns(
        forward_kl=few.cast(pl.Float32),
        teacher_mass=pl.Series(np.repeat(five.to_numpy()[:, None], mass.dtype.size, axis=1)).cast(
            mass.dtype
        ),
    )
    return save_run(data._replace(tokens=tokens), tmp_path_factory.mktemp("ties") / "run")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "export"
