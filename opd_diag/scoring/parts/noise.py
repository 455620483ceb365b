"""Noise floor: how far the same rows move when other rollouts share their batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from opd_diag.scoring.parts.jobs import Job
from opd_diag.scoring.parts.score_part import score_rollouts
from opd_diag.scoring.progress import Counter, Report
from opd_diag.tables.manifest import Manifest, NoiseFloor
from opd_diag.tables.tokens import scan_tokens

MOST_ROLLOUTS, FEWEST_ROLLOUTS = 32, 4
MOST_TOKENS = 0.05  # share of the response tokens
_BATCH = 4


def noise_floors(
    job: Job,
    folder: Path,
    manifest: Manifest,
    chosen: NDArray[np.int64],
    *,
    batch_tokens: int,
    report: Report,
) -> dict[str, NoiseFloor]:
    """Score a sample of rollouts again and compare it with the run, for each student.

    Args:
        job: The models.
        folder: The run.
        manifest: Its manifest.
        chosen: The rollouts, shortest first; none: nothing is measured.
        batch_tokens: Most tokens of a batch, padding counted.
        report: Told how many tokens are done.
    """
    if not len(chosen):
        return {name: NoiseFloor() for name in job.students}
    counter = Counter(report, len(job.students))
    try:
        again = rescore(job, chosen, batch_tokens, counter.add)
    except BaseException:
        counter.take_back()
        raise
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
    """Choose 4 to 32 rollouts spread over lengths, shortest first.

    They hold 5 % of the tokens at most, unless 4 hold more.

    Args:
        lengths: Scored tokens of every rollout; those without any are never chosen.
        seed: Seed of the choice among rollouts of like length.
    """
    order = np.argsort(lengths, kind="stable")
    order = order[np.count_nonzero(lengths == 0) :]
    for count in range(min(MOST_ROLLOUTS, len(order)), 0, -1):
        rng = np.random.default_rng(seed)
        chosen = np.array([rng.choice(like) for like in np.array_split(order, count)], np.int64)
        if count <= FEWEST_ROLLOUTS or lengths[chosen].sum() <= MOST_TOKENS * lengths.sum():
            return chosen
    return order


def rescore(
    job: Job,
    rollouts: NDArray[np.int64],
    batch_tokens: int,
    advance: Callable[[int], None],
) -> dict[str, dict[str, NDArray[Any]]]:
    """Score rollouts again, short ones beside long ones where the run put like with like.

    Args:
        job: What is scored.
        rollouts: Which rollouts, shortest first.
        batch_tokens: Most tokens of a batch, padding counted.
        advance: Told after every batch how many response tokens it held.

    Returns:
        Columns of every student; rows sorted by (rollout, position).
    """
    lengths = job.sequences.responses.lengths
    groups = max(1, -(-len(rollouts) // _BATCH))
    batches = [
        batch
        for first in range(groups)
        for batch in _under_budget(rollouts[first::groups], job.sequences.lengths, batch_tokens)
    ]
    scored = []
    for batch in batches:
        scored.append(score_rollouts(job, batch))
        advance(int(lengths[batch].sum()))
    number = np.concatenate([np.repeat(batch, lengths[batch]) for batch in batches])
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
