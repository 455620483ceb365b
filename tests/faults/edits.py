"""Files of a run that are whole but not its own: swapped, taken from another run, or edited."""

import json
import os
import re
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
    "two gradient parts of one checkpoint swapped": lambda run, _: swap(
        gradients_path(run, "a", 0), gradients_path(run, "a", 1)
    ),
    "two token parts of one checkpoint swapped": lambda run, _: swap(
        part_path(run, "b", 0), part_path(run, "b", 1)
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
    "the last token part gone, and another missing": lambda run, _: _remove(
        _last(run, "a"), part_path(run, "a", 1)
    ),
    "a token part and another's gradients missing": lambda run, _: _remove(
        _last(run, "b"), gradients_path(run, "a", 0)
    ),
    "a token part replaced by a pipe": lambda run, _: _pipe(part_path(run, "a", 0)),
    "a gradient part replaced by a device": lambda run, _: _device(gradients_path(run, "a", 0)),
    "the rollouts replaced by a pipe": lambda run, _: _pipe(run / "rollouts.parquet"),
}


def _last(run: Path, checkpoint: str) -> Path:
    return max((run / "tokens" / f"checkpoint={checkpoint}").iterdir())


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _set(*keys: str, value: object = None, other: bool = False) -> Callable[[str, str], str]:
    """Change one entry of a manifest, to a value or to that of another manifest."""

    def edit(text: str, theirs: str) -> str:
        values = json.loads(text)
        place, source = values, json.loads(theirs)
        for key in keys[:-1]:
            place, source = place[key], source[key]
        place[keys[-1]] = source[keys[-1]] if other else value
        return json.dumps(values, indent=1)

    return edit


def _exchange(text: str, _: str) -> str:
    """Let the checkpoints exchange what is known of them."""
    values = json.loads(text)
    names = list(values["checkpoints"])
    known = list(values["checkpoints"].values())
    values["checkpoints"] = dict(zip(names, reversed(known), strict=True))
    return json.dumps(values, indent=1)


# What is done to the manifest of a run of checkpoints a and b, beside that of another run.
MANIFEST_EDITS: dict[str, Callable[[str, str], str]] = {
    "its checksums those of another run": _set("files", other=True),
    "the checksum of one part that of another run": _set(
        "files", "tokens/checkpoint=a/part-00000.parquet", other=True
    ),
    "its checkpoints those of another run": _set("checkpoints", other=True),
    "what is known of two checkpoints exchanged": _exchange,
    "another noise floor": _set("checkpoints", "a", "noise_floor", "p95", "js", value=0.5),
    "another mass outside": _set("checkpoints", "a", "statistics", value={}),
    "another fingerprint": _set("checkpoints", "a", "fingerprint", value="0" * 64),
    "a warning removed or added": _set("warnings", value=["all is well"]),
    "a number of 1e999": lambda text, _: re.sub(
        r'("reverse_kl": )[^,]+', r"\g<1>1e999", text, count=1
    ),
    "a number of NaN": lambda text, _: re.sub(r'("reverse_kl": )[^,]+', r"\g<1>NaN", text, count=1),
    "no checksum of its own": lambda text, _: re.sub(r',\s*"checksum".*"', "", text),
    "cut in the middle": lambda text, _: text[: len(text) // 2],
    "the manifest of another run": lambda _, theirs: theirs,
}


def _rewrite(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Edit:
    """Change the table of a result and keep what is written beside it."""

    def edit(path: Path, _: Path) -> None:
        metadata = {k: v for k, v in pl.read_parquet_metadata(path).items() if "opd_diag" in k}
        change(pl.read_parquet(path)).write_parquet(path, metadata=metadata)

    return edit


def _change_a_number(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(
        pl.col(next(n for n, t in table.schema.items() if t.is_integer())) + 1
    )


def _arguments(path: Path, _: Path) -> None:
    metadata = {k: v for k, v in pl.read_parquet_metadata(path).items() if "opd_diag" in k}
    metadata["opd_diag"] = metadata["opd_diag"].replace('"arguments": {', '"arguments": {"x": 1, ')
    pl.read_parquet(path).write_parquet(path, metadata=metadata)


def _another_table(path: Path, _: Path) -> None:
    source = next(one for one in sorted(path.parent.iterdir()) if one.name != path.name)
    path.write_bytes(source.read_bytes())


# What is done to a result table, beside the results of another run.
RESULT_EDITS: dict[str, Edit] = {
    "those of another run": lambda path, other: copy(other / path.name, path),
    "a row removed": _rewrite(lambda table: table.head(table.height - 1)),
    "a number changed": _rewrite(_change_a_number),
    "what made it changed": _arguments,
    "another table under its name": _another_table,
    "a pipe in its place": lambda path, _: _pipe(path),
}
