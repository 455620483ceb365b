"""Make a run in memory in which nothing happens: the ground on which effects are planted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.tables.columns.rollouts import ADDED_LATER, ROLLOUTS
from opd_diag.tables.columns.tokens import (
    K_GRID,
    SINCE_VERSION_3,
    token_columns,
    with_later_columns,
)
from opd_diag.tables.rollouts import prompt_halves
from opd_diag.tables.schema import polars_schema

SEGMENT_TOKENS = 12
PROMPT_SPREAD = 0.2


class Dataset(NamedTuple):
    """A token table, its rollouts, and what was planted in them.

    Attributes:
        tokens: Columns of `token_columns`, sorted by (checkpoint in order, rollout, position).
        rollouts: Columns of `ROLLOUTS`.
        truth: What an analysis should find; empty where nothing was planted.
        k_grid: The K of the array columns of `tokens`.
    """

    tokens: pl.DataFrame
    rollouts: pl.DataFrame
    truth: Mapping[str, Any]
    k_grid: tuple[int, ...] = K_GRID


def null_run(
    *,
    prompts: int = 24,
    samples: int = 4,
    tokens: int = 200,
    types: int = 200,
    checkpoints: Sequence[str] = ("step0",),
    k_grid: Sequence[int] = K_GRID,
    seed: int = 0,
) -> Dataset:
    """Make a run of pure noise: no column depends on token, position, checkpoint or outcome.

    Token types follow a Zipf law, segments have 12 tokens on average, and rollouts of one prompt
    share a level of divergence (standard deviation 0.2 of its logarithm). Tokens are the same
    under all checkpoints, every other number is drawn anew.

    Args:
        prompts: Number of prompts.
        samples: Rollouts of each prompt.
        tokens: Tokens of each rollout.
        types: Size of the vocabulary; at least the largest K.
        checkpoints: Names of the checkpoints.
        k_grid: The K of the array columns, rising.
        seed: Seed of every draw.

    Returns:
        The run, with an empty truth.
    """
    rng = np.random.default_rng(seed)
    count = prompts * samples
    token_id = rng.choice(types, size=(count, tokens), p=zipf(types)).astype(np.int32)
    keys = {
        "rollout": np.repeat(np.arange(count, dtype=np.uint32), tokens),
        "position": np.tile(np.arange(tokens, dtype=np.uint32), count),
        "token_id": token_id.ravel(),
        "segment": _segments(rng, count, tokens).ravel(),
        "in_loss": np.ones(count * tokens, np.bool_),
        "repeat": rng.poisson(0.5, count * tokens).astype(np.uint16),
    }
    level = np.exp(PROMPT_SPREAD * rng.standard_normal(prompts))
    level = np.repeat(level, samples * tokens)
    frames = [
        token_frame(
            {"checkpoint": [name] * level.size, **keys, **_scores(rng, level, types, k_grid)},
            k_grid,
        )
        for name in checkpoints
    ]
    logp = frames[0]["student_logp"].to_numpy().reshape(count, tokens)
    rollouts = rollouts_table(
        token_id.tolist(),
        logp.tolist(),
        samples=samples,
        correct=rng.random(count) < 0.5,
        finish=rng.choice(["stop", "length"], count, p=[0.8, 0.2]),
        policy=checkpoints[0],
    )
    return Dataset(pl.concat(frames), rollouts, {}, tuple(k_grid))


def token_frame(columns: Mapping[str, Any], k_grid: Sequence[int]) -> pl.DataFrame:
    """Make a token table; truncated and bounded divergences are null."""
    schema = polars_schema(token_columns(k_grid))
    given = {name: dtype for name, dtype in schema.items() if name not in SINCE_VERSION_3}
    frame = pl.DataFrame({name: columns[name] for name in given}, schema=given)
    return with_later_columns(frame.lazy(), k_grid).select(list(schema)).collect()


def zipf(types: int) -> npt.NDArray[np.float64]:
    """Return the probabilities of `types` types by Zipf's law, falling."""
    weight = 1 / np.arange(1, types + 1)
    return np.asarray(weight / weight.sum())


def _segments(rng: np.random.Generator, count: int, tokens: int) -> npt.NDArray[np.uint32]:
    starts = rng.random((count, tokens)) < 1 / SEGMENT_TOKENS
    starts[:, 0] = False
    return starts.cumsum(axis=1).astype(np.uint32)


def _scores(
    rng: np.random.Generator,
    level: npt.NDArray[np.float64],
    types: int,
    k_grid: Sequence[int],
) -> dict[str, npt.NDArray[Any]]:
    """Draw the measured columns, in the ranges that real ones have."""
    n = level.size
    student_logp = -rng.gamma(0.8, 1.0, n)
    teacher_logp = np.minimum(student_logp + level * rng.normal(-0.2, 0.5, n), 0)
    reverse_kl = level * rng.gamma(0.7, 0.4, n)
    forward_kl = reverse_kl * rng.gamma(4.0, 0.25, n)
    norm = np.sqrt(reverse_kl) * rng.gamma(4.0, 0.1, n)
    k = np.array(k_grid)
    outside = rng.gamma(0.5, 0.1, n).clip(0, 1)
    scores = {
        "student_logp": student_logp,
        "teacher_logp": teacher_logp,
        "student_rank": 1 + rng.geometric(0.6, n) % types,
        "teacher_rank": 1 + rng.geometric(0.6, n) % types,
        "reverse_kl": reverse_kl,
        "forward_kl": forward_kl,
        "js": np.minimum(np.minimum(reverse_kl, forward_kl) / 8, np.log(2)),
        "student_entropy": rng.gamma(1.0, 0.6, n),
        "teacher_entropy": rng.gamma(1.0, 0.5, n),
        "student_top_id": rng.integers(types, size=n),
        "teacher_top_id": rng.integers(types, size=n),
        "teacher_top_logp": -rng.gamma(0.6, 0.4, n),
        "teacher_top_rank": 1 + rng.geometric(0.7, n) % types,
        "margin": rng.gamma(1.5, 1.2, (n, 1)) * rng.uniform(0.8, 1.0, (n, k.size)),
        "teacher_mass": 1 - outside[:, None] / k,
        "overlap": rng.binomial(k, 0.7, (n, k.size)) / k,
        "union_kl": forward_kl * rng.uniform(0.8, 1.0, n),
        "advantage_var": level * rng.gamma(0.7, 0.5, n),
        "grad_logits": norm,
        "grad_hidden": norm * rng.gamma(9.0, 0.1, n),
        "grad_head": norm * rng.gamma(9.0, 0.5, n),
    }
    narrow = {"f": np.float32, "i": np.uint32}
    return {
        name: values.astype(np.int32 if name.endswith("_id") else narrow[values.dtype.kind])
        for name, values in scores.items()
    }


def rollouts_table(
    token_ids: Sequence[Sequence[int]],
    logps: Sequence[Sequence[float]],
    *,
    samples: int,
    correct: npt.NDArray[np.bool_],
    finish: npt.NDArray[np.str_],
    policy: str,
) -> pl.DataFrame:
    """Make the rollouts of a generated run, sorted by prompt.

    Args:
        token_ids: Response of each rollout.
        logps: The generator's log-probs of the same tokens, nat.
        samples: Rollouts of each prompt.
        correct: Whether each rollout is right. Shape (rollouts,).
        finish: Why each rollout ended. Shape (rollouts,).
        policy: Who generated them.
    """
    count = len(token_ids)
    names = [f"prompt{i:05d}" for i in range(count // samples)]
    halves = prompt_halves(names)
    prompt_id = np.repeat(names, samples).tolist()
    return pl.DataFrame(
        {
            "rollout": np.arange(count),
            "rollout_id": [f"rollout{i:06d}" for i in range(count)],
            "prompt_id": prompt_id,
            "half": [halves[name] for name in prompt_id],
            "sample": np.tile(np.arange(samples), len(names)),
            "step": [0] * count,
            "policy": [policy] * count,
            "prompt_token_ids": [[0, 1, 2]] * count,
            "response_token_ids": token_ids,
            "teacher_prompt_token_ids": [None] * count,
            "loss_mask": [None] * count,
            "sampled_logp": logps,
            "finish_reason": finish,
            "reward": correct.astype(np.float64),
            "correct": correct,
            "token_exact": [True] * count,
            "source": ["generated"] * count,
            "source_row": np.arange(1, count + 1),
            **{name: [None] * count for name in ADDED_LATER},
        },
        schema=polars_schema(ROLLOUTS),
        strict=False,
    )
