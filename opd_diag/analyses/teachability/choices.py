"""Choose checkpoints and rollouts, and refuse what would leak."""

from collections.abc import Iterable, Sequence

import polars as pl

from opd_diag.errors import TableError
from opd_diag.tables.source import Source, choose_checkpoints

_OPTIONAL = {"policy": pl.String, "step": pl.Int64, "correct": pl.Boolean}


def first_checkpoint(source: Source) -> str:
    """Return the checkpoint before training: the first of the source."""
    if not source.checkpoints:
        raise TableError("tokens: no checkpoint; expected one or more")
    return source.checkpoints[0]


def before_and_after(
    source: Source, checkpoint: str | Sequence[str] | None, features_from: str | None
) -> tuple[str, str | None]:
    """Return the checkpoints before and after training; the second is None if there is but one.

    Raises:
        TableError: If a name is unknown, more than two are given, or `features_from` is any other
            checkpoint than the one before training.
    """
    first = first_checkpoint(source)
    chosen = choose_checkpoints(source, checkpoint)
    if checkpoint is not None and len(chosen) > 2:
        raise TableError(
            f"checkpoint: {len(chosen)} names; expected the one after training, or the ones before "
            "and after it"
        )
    if checkpoint is None or len(chosen) == 2:
        first = chosen[0]
    last = chosen[-1]
    if features_from not in (None, first):
        raise TableError(
            f"features_from: {features_from!r}; expected {first!r}, the student before training: "
            "features of a later one have seen the gain that they are to explain"
        )
    return first, None if last == first else last


def require(source: Source, columns: Iterable[str]) -> None:
    """Check that the token table has the columns.

    Raises:
        TableError: If some are missing.
    """
    names = set(source.tokens().collect_schema().names())
    if missing := [name for name in columns if name not in names]:
        raise TableError(f"tokens: no column {', '.join(missing)}; expected them for this analysis")


def choose_rollouts(
    rollouts: pl.DataFrame, policy: str | None = None, step: int | None = None
) -> pl.DataFrame:
    """Take the rollouts of a policy and a training step, null in columns that are absent.

    Raises:
        TableError: If there are none.
    """
    frame = rollouts.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in _OPTIONAL.items() if name not in rollouts
    )
    for name, value in (("policy", policy), ("step", step)):
        if value is None:
            continue
        kept = frame.filter(pl.col(name) == value)
        if kept.is_empty():
            known = ", ".join(map(str, frame[name].unique().sort())) or "no rollouts"
            raise TableError(f"{name}: no rollouts of {value!r}; expected one of {known}")
        frame = kept
    return frame
