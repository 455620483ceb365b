"""What an analysis reads: a run on disk, or frames in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import polars as pl

from opd_diag.errors import TableError
from opd_diag.tables.columns.tokens import K_GRID
from opd_diag.tables.given import given_rollouts, given_tokens
from opd_diag.tables.gradients import GradientSums
from opd_diag.tables.run import Run, open_run

Tokens = pl.LazyFrame | pl.DataFrame

_OPTIONAL = {
    "policy": pl.String,
    "step": pl.Int64,
    "correct": pl.Boolean,
    "finish_reason": pl.String,
}


class Source(Protocol):
    """Tokens and rollouts, from a run or from memory."""

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
        """Token table of one checkpoint, or of all."""


class Frames:
    """A token table and a rollouts table in memory. They need only the columns that are used."""

    def __init__(
        self, tokens: Tokens, rollouts: pl.DataFrame, k_grid: Sequence[int] | None
    ) -> None:
        self._tokens = given_tokens(tokens.lazy(), k_grid)
        self.rollouts = given_rollouts(rollouts)
        self.k_grid = tuple(K_GRID if k_grid is None else k_grid)
        names = self._tokens.select(pl.col("checkpoint").unique(maintain_order=True)).collect()
        self.checkpoints: tuple[str, ...] = tuple(names["checkpoint"])

    def tokens(self, checkpoint: str | None = None) -> pl.LazyFrame:
        """Return the token table of one checkpoint, or of all."""
        if checkpoint is None:
            return self._tokens
        if checkpoint not in self.checkpoints:
            raise TableError(
                f"tokens: no checkpoint {checkpoint!r}; expected one of "
                f"{', '.join(self.checkpoints)}"
            )
        return self._tokens.filter(pl.col("checkpoint") == checkpoint)


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


def finished_result(source: Source, name: str) -> pl.DataFrame | None:
    """Return a result of the same run, or None if there is none or it is stale."""
    if isinstance(source, Run) and name in source.results() and not source.is_stale(name):
        return source.result(name)
    return None


def choose_checkpoints(
    source: Source, checkpoint: str | Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the checkpoints asked for, in the source's order; all of them by default.

    Raises:
        TableError: If one is unknown.
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
    return tuple(name for name in source.checkpoints if name in asked)


def choose_rollouts(
    rollouts: pl.DataFrame, policy: str | None = None, step: int | None = None
) -> pl.DataFrame:
    """Take the rollouts of a policy and a training step, sorted by `rollout`.

    Optional columns that are absent come back as null.

    Raises:
        TableError: If there are no such rollouts.
    """
    absent = {name: dtype for name, dtype in _OPTIONAL.items() if name not in rollouts.columns}
    frame = rollouts.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in absent.items())
    for name, value in (("policy", policy), ("step", step)):
        if value is None:
            continue
        kept = frame.filter(pl.col(name) == value)
        if kept.is_empty():
            known = ", ".join(map(str, frame[name].drop_nulls().unique().sort())) or "none"
            raise TableError(f"{name}: no rollouts of {value!r}; expected one of {known}")
        frame = kept
    return frame.sort("rollout")


def paired_tokens(
    source: Source, first: str, last: str, columns: Sequence[str], shared: Sequence[str] = ()
) -> pl.DataFrame:
    """Put the same tokens under two checkpoints side by side.

    Args:
        source: Where the tokens come from.
        first: Name of the first checkpoint.
        last: Name of the last checkpoint.
        columns: Columns that are wanted from both; they come back as `<name>_first` and
            `<name>_last`.
        shared: Columns that are wanted from the first checkpoint alone, under their own name.

    Returns:
        rollout, position, token_id, the shared columns and the paired ones, sorted by
        (rollout, position).

    Raises:
        TableError: If the two do not hold the same tokens, one to one.
    """
    keys = ["rollout", "position", "token_id"]
    sides = []
    for name, extra in ((first, shared), (last, ())):
        frame = source.tokens(name).select(*keys, *dict.fromkeys((*extra, *columns))).collect()
        sides.append(frame if _rises(frame) else frame.sort("rollout", "position"))
    one, other = sides
    if not one.select(keys).equals(other.select(keys)):
        raise TableError(
            f"tokens: checkpoints {first!r} and {last!r} differ in (rollout, position, token_id); "
            "expected the same tokens, one to one"
        )
    if not _rises(one):
        raise TableError("tokens: (rollout, position) occurs twice; expected each token once")
    renamed_one = one.select(*keys, *shared, *(pl.col(c).alias(f"{c}_first") for c in columns))
    return renamed_one.hstack(other.select(pl.col(c).alias(f"{c}_last") for c in columns))


def _rises(tokens: pl.DataFrame) -> bool:
    """Tell whether (rollout, position) rises from row to row, as it does on disk."""
    rollout, position = pl.col("rollout"), pl.col("position")
    further = (rollout == rollout.shift()) & (position > position.shift())
    return bool(tokens.select(((rollout > rollout.shift()) | further).slice(1).all()).item())
