"""Plant release points: rollouts whose segment scores drop, fade, or only wander."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.datasets.base import Dataset, null_run
from opd_diag.tables.columns.tokens import K_GRID

Floats: TypeAlias = npt.NDArray[np.float64]

SHAPES = ("step", "line", "none")
NOISES = ("ar", "jumps", "dips")

LEVEL = 3.0
NOISE = 0.25
JUMPS = 0.05  # a segment
DECAY = 0.9


def release_run(
    *,
    prompts: int = 24,
    samples: int = 4,
    segments: int = 40,
    segment_tokens: int = 8,
    shape: str = "step",
    drop: float = 1.0,
    phi: float = 0.0,
    noise: str = "ar",
    checkpoints: Sequence[str] = ("step0",),
    k_grid: Sequence[int] = K_GRID,
    seed: int = 0,
) -> Dataset:
    """Make a run whose segment scores log(1 + margin) are known.

    The scores of a rollout are 3 plus stationary noise of standard deviation 0.25, less a drop: all
    at once between 25 and 75 % of the response (`step`), evenly over it (`line`), or never
    (`none`). All K and all checkpoints have the same margins; the rest is `null_run`.

    Args:
        prompts: Number of prompts.
        samples: Rollouts of each prompt.
        segments: Segments of each rollout.
        segment_tokens: Tokens of each segment.
        shape: `step`, `line` or `none`.
        drop: By how much the score falls.
        phi: Lag-1 autocorrelation of the noise `ar`.
        noise: `ar`; or noise that does not look the same backwards: `jumps` jumps up now and then
            and decays slowly, `dips` drops and recovers slowly.
        checkpoints: Names of the checkpoints.
        k_grid: The K of the array columns.
        seed: Seed of every draw.

    Returns:
        The run; truth holds `tau`, the segments before the drop of each rollout, and
        `release_token`, the position of the first token after it. Both are None without a step.

    Raises:
        ValueError: If the shape or the noise is unknown.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape: {shape!r}; expected one of {', '.join(SHAPES)}")
    if noise not in NOISES:
        raise ValueError(f"noise: {noise!r}; expected one of {', '.join(NOISES)}")
    tokens = segments * segment_tokens
    base = null_run(
        prompts=prompts,
        samples=samples,
        tokens=tokens,
        checkpoints=checkpoints,
        k_grid=k_grid,
        seed=seed,
    )
    rng = np.random.default_rng([seed, 1])
    count = prompts * samples
    shape_of = (count, segments)
    wander = ar1(rng, phi, shape_of) if noise == "ar" else jumps(rng, shape_of)
    score = LEVEL + (-NOISE if noise == "dips" else NOISE) * wander
    tau = None
    if shape == "step":
        tau = rng.integers(segments // 4, segments - segments // 4, count)
        score -= drop * (np.arange(segments) >= tau[:, None])
    elif shape == "line":
        score -= drop * np.linspace(0, 1, segments)
    margin = np.expm1(np.repeat(score, segment_tokens, axis=1).clip(0)).ravel()
    number = np.tile(np.repeat(np.arange(segments), segment_tokens), count)
    columns = [
        pl.Series("segment", np.tile(number, len(checkpoints)), dtype=pl.UInt32),
        _per_k("margin", np.tile(margin, len(checkpoints)), len(k_grid)),
    ]
    truth = {"tau": tau, "release_token": None if tau is None else tau * segment_tokens}
    return base._replace(tokens=base.tokens.with_columns(columns), truth=truth)


def ar1(rng: np.random.Generator, phi: float, shape: tuple[int, int]) -> Floats:
    """Draw stationary AR(1) series of variance 1. Shape (series, length)."""
    noise = rng.standard_normal(shape)
    noise[:, 1:] *= np.sqrt(1 - phi**2)
    for t in range(1, shape[1]):
        noise[:, t] += phi * noise[:, t - 1]
    return noise


def jumps(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw stationary series that jump up at random and decay slowly, of mean 0 and variance 1.

    Returns:
        Shape (series, length).
    """
    before = 100  # after which no trace of the start is left
    y = np.zeros((shape[0], shape[1] + before))
    size = rng.exponential(3.0, y.shape) * (rng.random(y.shape) < JUMPS)
    for t in range(1, y.shape[1]):
        y[:, t] = DECAY * y[:, t - 1] + size[:, t]
    mean = 3.0 * JUMPS / (1 - DECAY)
    variance = (2 * 9.0 * JUMPS - (3.0 * JUMPS) ** 2) / (1 - DECAY**2)
    noisy = y[:, before:] - mean + rng.standard_normal(shape)
    return np.asarray(noisy / np.sqrt(variance + 1))


def _per_k(name: str, values: Floats, width: int) -> pl.Series:
    repeated = np.repeat(values.astype(np.float32)[:, None], width, axis=1)
    return pl.Series(name, repeated, dtype=pl.Array(pl.Float32, width))
