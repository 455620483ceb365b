"""Files of a run that are whole but not its own: swapped, taken from another run, or edited."""

import os
from collections.abc import Callable
from pathlib import Path

import polars as pl

from opd_diag.tables.gradients import gradients_path
from opd_diag.tables.tokens import part_path

Edit = Callable[[Path, Path], None]


def swap(one: Path, other: Path) -> None:
    """Exchange two files or folders by renaming, so that their times stay."""
    kept = one.with_name("kept")
    one.rename(kept)
    other.rename(one)
    kept.rename(other)


def copy(source: Path, target: Path) -> None:
    """Put the bytes of one file in the place of another, with the times of the other."""
    times = target.stat()
    target.write_bytes(source.read_bytes())
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


def edit_rollouts(change: pl.Expr) -> Edit:
    """Change a column of the rollouts table."""

    def edit(run: Path, _: Path) -> None:
        path = run / "rollouts.parquet"
        pl.read_parquet(path).with_columns(change).write_parquet(path)

    return edit


def permute_vocab(run: Path, _: Path) -> None:
    path = run / "vocab.parquet"
    table = pl.read_parquet(path)
    columns = pl.exclude("token_id").shuffle(seed=1)
    table.with_columns(columns).write_parquet(path)


# What is done to a run of checkpoints a and b, beside another run of the same shape.
EDITS: dict[str, Edit] = {
    "token folders of two checkpoints swapped": lambda run, _: swap(
        run / "tokens" / "checkpoint=a", run / "tokens" / "checkpoint=b"
    ),
    "one token part swapped between checkpoints": lambda run, _: swap(
        part_path(run, "a", 1), part_path(run, "b", 1)
    ),
    "one token part copied over another checkpoint's": lambda run, _: copy(
        part_path(run, "a", 1), part_path(run, "b", 1)
    ),
    "one token part copied over another part": lambda run, _: copy(
        part_path(run, "a", 0), part_path(run, "a", 1)
    ),
    "gradient folders of two checkpoints swapped": lambda run, _: swap(
        run / "gradients" / "checkpoint=a", run / "gradients" / "checkpoint=b"
    ),
    "one gradient part swapped between checkpoints": lambda run, _: swap(
        gradients_path(run, "a", 1), gradients_path(run, "b", 1)
    ),
    "one gradient part copied over another part": lambda run, _: copy(
        gradients_path(run, "b", 0), gradients_path(run, "b", 1)
    ),
    "a gradient part of another run": lambda run, other: copy(
        gradients_path(other, "a", 0), gradients_path(run, "a", 0)
    ),
    "a token part of another run with equal rows": lambda run, other: copy(
        part_path(other, "a", 0), part_path(run, "a", 0)
    ),
    "all token parts of another run with equal rows": lambda run, other: (
        [copy(path, run / path.relative_to(other)) for path in (other / "tokens").rglob("part-*")]
        and None
    ),
    "the rollouts of another run": lambda run, other: copy(
        other / "rollouts.parquet", run / "rollouts.parquet"
    ),
    "rollouts with `correct` inverted": edit_rollouts(
        pl.col("correct").fill_null(False).not_().alias("correct")
    ),
    "rollouts with their halves exchanged": edit_rollouts(
        (1 - pl.col("half").cast(pl.Int8)).cast(pl.UInt8).alias("half")
    ),
    "rollouts with other prompt ids": edit_rollouts(pl.col("prompt_id").reverse()),
    "rollouts with another loss mask": edit_rollouts(
        pl.col("response_token_ids").list.eval(pl.element() % 2 == 0).alias("loss_mask")
    ),
    "the vocabulary permuted": permute_vocab,
    "a token part replaced by a pipe": lambda run, _: _pipe(part_path(run, "a", 0)),
    "a gradient part replaced by a device": lambda run, _: _device(gradients_path(run, "a", 0)),
    "the rollouts replaced by a pipe": lambda run, _: _pipe(run / "rollouts.parquet"),
}


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")
