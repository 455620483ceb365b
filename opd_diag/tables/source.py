"""What an analysis reads: a run on disk, or frames in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import polars as pl

from opd_diag.errors import TableError
from opd_diag.tables.frames import Frames, Tokens
from opd_diag.tables.gradients import GradientSums
from opd_diag.tables.run import Run, open_run

__all__ = [
    "Source",
    "Tokens",
    "as_source",
    "choose_checkpoints",
    "choose_rollouts",
    "finished_result",
    "gradient_sums",
    "sampled_by",
    "vocabulary",
]

# Inference engines in bfloat16 stay below these differences of log-probs, nat; another checkpoint
# does not.
MEDIAN_ALIGNED = 0.02
P95_ALIGNED = 0.25
FEWEST_ALIGNED = 16  # tokens

_OPTIONAL = {
    "policy": pl.String,
    "step": pl.Int64,
    "correct": pl.Boolean,
    "finish_reason": pl.String,
    "group": pl.String,
    "trained": pl.Boolean,
    "reward": pl.Float64,
}


class Source(Protocol):
    """Tokens and rollouts, from a run or from memory.

    Rows of a checkpoint are sorted by (rollout, position), each token once, and rows, token ids,
    segments and `in_loss` are the same under every checkpoint. That is checked before a source is
    made (`Frames`) or when its parts are opened (`Run`), so readers rely on it.
    """

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Names of the checkpoints, in order."""

    @property
    def k_grid(self) -> tuple[int, ...]:
        """The K of the columns that hold one value per K."""

    @property
    def rollouts(self) -> pl.DataFrame:
        """One row per rollout."""

    def tokens(self, checkpoint: str | None = None) -> pl.LazyFrame:
        """Token table of one checkpoint, or of all in order."""


def as_source(
    run: "Run | str | Path | Tokens",
    rollouts: pl.DataFrame | None = None,
    *,
    k_grid: Sequence[int] | None = None,
) -> Source:
    """Take a run, its path, or a token table and its rollouts.

    Args:
        run: A run, the folder of one, or a token table.
        rollouts: The rollouts table, needed with a token table and with nothing else.
        k_grid: The K of the array columns of a token table; None where none of them is read. A
            run knows its own.

    Raises:
        TableError: If a token table comes without rollouts, or a run with them.
        ManifestError: If the folder holds no run.
    """
    if isinstance(run, pl.LazyFrame | pl.DataFrame):
        if rollouts is None:
            raise TableError("tokens: no rollouts table beside it; expected both")
        return Frames(run, rollouts, k_grid)
    if rollouts is not None:
        raise TableError("run: a rollouts table beside it; expected a run alone, which has its own")
    return run if isinstance(run, Run) else open_run(run)


def gradient_sums(source: Source, checkpoint: str) -> GradientSums | None:
    """Return the gradient sums of a checkpoint, or None where the source is in memory."""
    return source.gradients(checkpoint) if isinstance(source, Run) else None


def vocabulary(source: Source) -> pl.DataFrame | None:
    """Return the vocabulary of a source, or None where the source is in memory."""
    return source.vocab if isinstance(source, Run) else None


def sampled_by(source: Source, checkpoint: str, rollouts: pl.DataFrame) -> bool | None:
    """Tell whether a checkpoint sampled some rollouts, from the generator's log-probs.

    Those of several policies or training steps are judged by themselves, and all of them count: in
    a dump of two steps, one of two models sampled half of the tokens.

    Args:
        source: A run; of a source in memory it is not known.
        checkpoint: Name of the checkpoint.
        rollouts: The rollouts, as `choose_rollouts` returns them.

    Returns:
        None where it is not known: no log-probs in the rollouts.
    """
    if not isinstance(source, Run):
        return None
    alignment = source.manifest.checkpoints[checkpoint].alignment
    if not alignment or alignment.get("median") is None:
        return None
    several = rollouts.select("policy", "step").n_unique() > 1
    if rollouts.height == source.rollouts.height and not several:
        return bool(alignment["diagnosis"] == "aligned")
    sampled = (
        rollouts.lazy()
        .select("rollout", "policy", "step", "sampled_logp")
        .drop_nulls("sampled_logp")
        .with_columns(position=pl.int_ranges(pl.col("sampled_logp").list.len(), dtype=pl.UInt32))
        .explode("sampled_logp", "position")
    )
    student = (
        source.tokens(checkpoint).filter("in_loss").select("rollout", "position", "student_logp")
    )
    apart = (pl.col("sampled_logp") - pl.col("student_logp")).abs()
    fits = (
        sampled.join(student, on=["rollout", "position"])
        .with_columns(apart=apart.fill_nan(None))
        .drop_nulls("apart")
        .group_by("policy", "step")
        .agg(n=pl.len(), median=pl.col("apart").median(), p95=pl.col("apart").quantile(0.95))
        .filter(pl.col("n") >= FEWEST_ALIGNED)
        .select((pl.col("median") <= MEDIAN_ALIGNED) & (pl.col("p95") <= P95_ALIGNED))
        .collect()
        .to_series()
    )
    return bool(fits.all()) if len(fits) else None


def finished_result(source: Source, name: str) -> pl.DataFrame | None:
    """Return a result of the same run, or None if there is none or it is stale."""
    if isinstance(source, Run) and name in source.results() and not source.is_stale(name):
        return source.result(name)
    return None


def choose_checkpoints(
    source: Source, checkpoint: str | Sequence[str] | None = None, *, as_asked: bool = False
) -> tuple[str, ...]:
    """Return the checkpoints asked for, or all, in the source's order.

    Args:
        source: Where the checkpoints are.
        checkpoint: One or more names; None: all.
        as_asked: Keep the order of the names instead.

    Raises:
        TableError: If one is unknown, or asked for twice where their order counts.
    """
    if checkpoint is None:
        return source.checkpoints
    asked = (checkpoint,) if isinstance(checkpoint, str) else tuple(checkpoint)
    unknown = [name for name in asked if name not in source.checkpoints]
    if unknown:
        raise TableError(
            f"checkpoint: no {', '.join(map(repr, unknown))}; expected one of "
            f"{', '.join(source.checkpoints)}"
        )
    if not as_asked:
        return tuple(name for name in source.checkpoints if name in asked)
    if len(set(asked)) < len(asked):
        raise TableError(f"checkpoint: {', '.join(asked)}; expected each name once")
    return asked


def choose_rollouts(
    rollouts: pl.DataFrame,
    policy: str | None = None,
    step: int | None = None,
    group: str | None = None,
) -> pl.DataFrame:
    """Take the rollouts of a policy, a training step and a group, sorted by `rollout`.

    Optional columns that are absent come back as null.

    Raises:
        TableError: If there are no such rollouts.
    """
    absent = {name: dtype for name, dtype in _OPTIONAL.items() if name not in rollouts.columns}
    frame = rollouts.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in absent.items())
    for name, value in (("policy", policy), ("step", step), ("group", group)):
        if value is None:
            continue
        kept = frame.filter(pl.col(name) == value)
        if kept.is_empty():
            known = ", ".join(map(str, frame[name].drop_nulls().unique().sort())) or "none"
            raise TableError(f"{name}: no rollouts of {value!r}; expected one of {known}")
        frame = kept
    return frame.sort("rollout")
