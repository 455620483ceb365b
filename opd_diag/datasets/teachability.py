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
    sigma: float | None = None,
    snapshots: float = 0.3,
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

    With `sigma`, D is as ugly as that of real runs: log-normal with that spread and a median of
    0.05 nat, and the gain is D times 0.25 f + 0.02 H + compatibility C + noise, with f = 1, or
    falling from 2 to 0 (`root`) or rising from 0 to 2 (`square`) with log D.

    Of three checkpoints the first two are snapshots of one student: D, H and C come from the
    first, and the gain is taken from the KL of the second. There, and with `sigma`, a gain is at
    most the KL that it is taken from.

    Args:
        compatibility: Coefficient of C, nat; with `sigma` in units of D.
        interaction: Coefficient of D C; 0 with `sigma`.
        shape: `linear`, `root` or `square`.
        sigma: Spread of log D; None: the tame D.
        snapshots: Standard deviation of log KL between the first two of three checkpoints.
        prompts: Number of prompts.
        samples: Rollouts of each prompt.
        tokens: Tokens of each rollout.
        checkpoints: Two or three names; the last is that after training.
        seed: Seed of every draw.

    Returns:
        The run; its truth holds `compatibility` and `interaction`.

    Raises:
        ValueError: If a gain is larger than its KL elsewhere, the shape is unknown, or there are
            not two or three checkpoints.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape: {shape!r}; expected one of {', '.join(SHAPES)}")
    if len(checkpoints) not in (2, 3):
        raise ValueError(f"checkpoints: {len(checkpoints)}; expected two or three")
    run = null_run(
        prompts=prompts, samples=samples, tokens=tokens, checkpoints=checkpoints, seed=seed
    )
    rng = np.random.default_rng([seed, 1])
    prompt = np.repeat(np.arange(prompts), samples * tokens)
    n = prompt.size
    h = rng.gamma(1.0, 0.6, n).clip(0, 4)
    of_prompt = 0.3 * rng.standard_normal(prompts)[prompt]
    if sigma is None:
        d = (0.5 + np.exp(of_prompt) * rng.gamma(1.2, 0.5, n) * (1 + 0.2 * h)).clip(0.5, 6)
        height = d
    else:
        height = rng.standard_normal(n) + of_prompt + 0.3 * (h - 0.6)
        d = np.minimum(0.05 * np.exp(sigma * height), 30)
    own = rng.standard_normal(n) + 0.4 * rng.standard_normal(prompts)[prompt]
    c = 1 / (1 + np.exp(-(3.0 - 0.8 * height - 0.5 * h + own)))
    noise = 0.15 * rng.uniform(-1, 1, n) + 0.03 * rng.uniform(-1, 1, prompts)[prompt]
    before = d
    if len(checkpoints) == 3:
        before = d * np.exp(snapshots * rng.standard_normal(n))
    if sigma is None:
        bend = {"linear": d, "root": np.sqrt(d), "square": d**2 / 4}[shape]
        gain = 0.25 * bend + 0.02 * h + compatibility * c + interaction * d * c + noise * np.sqrt(d)
    else:
        rise = 1 / (1 + np.exp(-height))
        bend = {"linear": 1, "root": 2 * (1 - rise), "square": 2 * rise}[shape]
        gain = d * (0.25 * bend + 0.02 * h + compatibility * c + noise)
    if sigma is not None or len(checkpoints) == 3:
        gain = np.minimum(gain, before)
    if (after := before - gain).min() < 0:
        raise ValueError("gain: larger than the KL that is there; expected smaller coefficients")
    scale = rng.uniform(0.8, 1.2, n)
    kls = (d, after) if len(checkpoints) == 2 else (d, before, after)
    changed = [
        _with_scores(frame, kl, kl * scale, h, c)
        for frame, kl in zip(
            run.tokens.partition_by("checkpoint", maintain_order=True), kls, strict=True
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
