"""Plant a gain that depends on entropy, divergence and, if wanted, compatibility."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.datasets.base import Dataset, null_run
from opd_diag.tables.columns.tokens import K_GRID

SHAPES = ("linear", "root", "square")

Floats = npt.NDArray[np.float64]


def teachable_run(
    *,
    compatibility: float = 0.0,
    interaction: float = 0.0,
    shape: str = "linear",
    prompts: int = 24,
    samples: int = 4,
    tokens: int = 100,
    checkpoints: Sequence[str] = ("step0", "step1"),
    seed: int = 0,
) -> Dataset:
    """Make a run whose gain at a token is known but for noise.

    Before training, D = forward_kl lies in [0.5, 6] nat, higher in some prompts than in others,
    and C = teacher_mass falls with D and entropy H, with noise of its own. The gain is
    0.25 f(D) + 0.02 H + compatibility C + interaction D C, with f(D) = D, sqrt(D) or D^2 / 4,
    plus noise that grows with D and, in part, is shared by the tokens of a prompt, but knows
    nothing of C. With both coefficients 0 the run is the null of compatibility.

    Args:
        compatibility: Coefficient of C, nat.
        interaction: Coefficient of D C.
        shape: `linear`, `root` or `square`.
        prompts: Number of prompts.
        samples: Rollouts of each prompt.
        tokens: Tokens of each rollout.
        checkpoints: Names before and after training.
        seed: Seed of every draw.

    Returns:
        The run; its truth holds `compatibility` and `interaction`.

    Raises:
        ValueError: If a KL after training would be negative, or the shape is unknown.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape: {shape!r}; expected one of {', '.join(SHAPES)}")
    run = null_run(
        prompts=prompts, samples=samples, tokens=tokens, checkpoints=checkpoints, seed=seed
    )
    rng = np.random.default_rng([seed, 1])
    prompt = np.repeat(np.arange(prompts), samples * tokens)
    n = prompt.size
    h = rng.gamma(1.0, 0.6, n).clip(0, 4)
    level = np.exp(0.3 * rng.standard_normal(prompts))[prompt]
    d = (0.5 + level * rng.gamma(1.2, 0.5, n) * (1 + 0.2 * h)).clip(0.5, 6)
    own = rng.standard_normal(n) + 0.4 * rng.standard_normal(prompts)[prompt]
    c = 1 / (1 + np.exp(-(3.0 - 0.8 * d - 0.5 * h + own)))
    bend = {"linear": d, "root": np.sqrt(d), "square": d**2 / 4}[shape]
    noise = 0.15 * rng.uniform(-1, 1, n) + 0.03 * rng.uniform(-1, 1, prompts)[prompt]
    gain = 0.25 * bend + 0.02 * h + compatibility * c + interaction * d * c + noise * np.sqrt(d)
    if (after := d - gain).min() < 0:
        raise ValueError("gain: larger than the KL that is there; expected smaller coefficients")
    scale = rng.uniform(0.8, 1.2, n)
    changed = [
        _with_scores(frame, kl, kl * scale, h, c)
        for frame, kl in zip(
            run.tokens.partition_by("checkpoint", maintain_order=True), (d, after), strict=True
        )
    ]
    truth = {"compatibility": compatibility, "interaction": interaction}
    return Dataset(pl.concat(changed), run.rollouts, truth)


def _with_scores(
    frame: pl.DataFrame, forward: Floats, reverse: Floats, entropy: Floats, mass: Floats
) -> pl.DataFrame:
    # The mass outside the top K falls with the root of K; at K = 16 the top holds `mass`.
    outside = (1 - mass)[:, None] * np.sqrt(16 / np.array(K_GRID))
    columns = {
        "forward_kl": forward,
        "union_kl": 0.9 * forward,
        "reverse_kl": reverse,
        "js": np.minimum(forward / 8, np.log(2)),
        "student_entropy": entropy,
        "teacher_mass": np.clip(1 - outside, 0, 1),
    }
    return frame.with_columns(
        pl.Series(name, values.astype(np.float32), frame.schema[name])
        for name, values in columns.items()
    )
