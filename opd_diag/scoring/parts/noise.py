"""Noise floor: how far the same rows move when other rollouts share their batch."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from opd_diag.scoring.parts.jobs import Job
from opd_diag.scoring.parts.score_part import score_rollouts
from opd_diag.tables.manifest import Manifest, NoiseFloor
from opd_diag.tables.tokens import scan_tokens

N_ROLLOUTS = 32
_BATCH = 4


def noise_floors(
    job: Job, folder: Path, manifest: Manifest, *, batch_tokens: int, seed: int
) -> dict[str, NoiseFloor]:
    """Score a sample of rollouts again and compare it with the run, for each student.

    Args:
        job: The models.
        folder: The run.
        manifest: Its manifest.
        batch_tokens: Most tokens of a batch, padding counted.
        seed: Seed of the sample.
    """
    chosen = sample_rollouts(job.sequences.responses.lengths, seed)
    again = rescore(job, chosen, batch_tokens)
    floors = {}
    for name in job.students:
        stored = (
            scan_tokens(folder, name, manifest)
            .filter(pl.col("rollout").is_in(chosen.tolist()))
            .collect()
        )
        p95 = noise_floor(stored, again[name])
        floors[name] = NoiseFloor(rollouts=len(chosen), tokens=stored.height, p95=p95)
    return floors


def sample_rollouts(lengths: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Choose up to 32 rollouts spread over lengths, shortest first.

    Args:
        lengths: Scored tokens of every rollout; those without any are never chosen.
        seed: Seed of the choice among rollouts of like length.
    """
    order = np.argsort(lengths, kind="stable")
    order = order[np.count_nonzero(lengths == 0) :]
    strata = np.array_split(order, min(N_ROLLOUTS, len(order)))
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(stratum) for stratum in strata], np.int64)


def rescore(
    job: Job, rollouts: NDArray[np.int64], batch_tokens: int
) -> dict[str, dict[str, NDArray[Any]]]:
    """Score rollouts again, short ones beside long ones where the run put like with like.

    Args:
        job: What is scored.
        rollouts: Which rollouts, shortest first.
        batch_tokens: Most tokens of a batch, padding counted.

    Returns:
        Columns of every student; rows sorted by (rollout, position).
    """
    groups = max(1, -(-len(rollouts) // _BATCH))
    batches = [
        batch
        for first in range(groups)
        for batch in _under_budget(rollouts[first::groups], job.sequences.lengths, batch_tokens)
    ]
    scored = [score_rollouts(job, batch) for batch in batches]
    number = np.concatenate(
        [np.repeat(batch, job.sequences.responses.lengths[batch]) for batch in batches]
    )
    order = np.argsort(number, kind="stable")
    return {
        name: {
            column: np.concatenate([batch[name][column] for batch in scored])[order]
            for column in scored[0][name]
        }
        for name in job.students
    }


def _under_budget(
    rollouts: NDArray[np.int64], lengths: NDArray[np.int64], batch_tokens: int
) -> list[NDArray[np.int64]]:
    """Keep a batch whole if its padded tokens fit, else take its rollouts one by one."""
    if len(rollouts) * int(lengths[rollouts].max()) <= batch_tokens:
        return [rollouts]
    return np.split(rollouts, len(rollouts))


def noise_floor(tokens: pl.DataFrame, again: dict[str, NDArray[Any]]) -> dict[str, float]:
    """Return the 95th percentile of |difference| of every column of floats.

    Args:
        tokens: Rows of the run, sorted by (rollout, position).
        again: The same rows scored again.
    """
    floor = {}
    for name in again.keys() & set(tokens.columns):
        present = tokens[name].is_not_null().to_numpy()
        values = tokens[name].drop_nulls()
        if isinstance(values.dtype, pl.Array):
            values = values.arr.explode()
        if values.dtype == pl.Float32:
            difference = np.abs(values.to_numpy() - again[name][present].ravel())
            finite = difference[np.isfinite(difference)]
            if len(finite):
                floor[name] = float(np.quantile(finite, 0.95))
    return {name: floor[name] for name in tokens.columns if name in floor}
