"""One rollout, token by token: its text, one column, and what the results say of each token."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.errors import OptionError, TableError
from opd_diag.tables.columns.token_strip import TOKEN_STRIP
from opd_diag.tables.columns.tokens import SINCE_VERSION_3, token_columns, truncated_grid
from opd_diag.tables.run import Run
from opd_diag.tables.schema import check_table
from opd_diag.tables.source import (
    Source,
    Tokens,
    as_source,
    choose_checkpoints,
    finished_result,
    vocabulary,
)

DERIVED = {"advantage": "nat", "gain": "nat", "first_order": "nat"}
USUAL_K = {"margin": 4, "teacher_mass": 16, "overlap": 16}
_KEYS = ("rollout", "position", "token_id", "segment", "in_loss")
_CHOICES = {
    "student_logp": ("student_prob", pl.Float64),
    "teacher_logp": ("teacher_prob", pl.Float64),
    "teacher_top_id": ("teacher_top_id", pl.Int32),
    "teacher_top_logp": ("teacher_top_prob", pl.Float64),
}


def token_strip(
    run: Run | str | Path | Tokens,
    rollout: int | str,
    rollouts: pl.DataFrame | None = None,
    *,
    column: str = "reverse_kl",
    checkpoint: str | None = None,
) -> pl.DataFrame:
    """Put the tokens of one rollout in a table that `plots.token_strip` draws.

    Args:
        run: A run, its folder, or a token table.
        rollout: Its `rollout_id`, or its row number.
        rollouts: The rollouts table, needed with a token table and with nothing else.
        column: What the tokens are coloured by: a numeric column of the token table, where
            `margin_8` is `margin` at K = 8 (without K: margin 4, teacher_mass 16, overlap 16),
            `advantage` = teacher_logp - student_logp, `gain` = forward_kl under the first
            checkpoint minus forward_kl under this one, or `first_order`, what the update from
            this checkpoint to the next does to reverse_kl to first order.
        checkpoint: Which one; None: the first, or the last for `gain`.

    Returns:
        Columns of `TOKEN_STRIP`, sorted by position, with no rows if the response has none.

    Raises:
        OptionError: If the column is unknown, `gain` has no earlier checkpoint, or `first_order`
            is not known of this rollout.
        TableError: If the rollout or the checkpoint is unknown.
    """
    source = as_source(run, rollouts)
    row = _row_of(source.rollouts, rollout)
    known = choose_checkpoints(source, checkpoint)
    name = known[-1] if column == "gain" else known[0]
    full, unit, value = _choose(column, source.k_grid)
    tokens = source.tokens(name).filter(pl.col("rollout") == row)
    if column == "gain":
        values = _gain(source, row, source.checkpoints[0], name)
    elif column == "first_order":
        values = _first_order(source, row, name)
    else:
        values = tokens.select("position", value.cast(pl.Float64).alias("value")).collect()
    # `reverse_kl` is what the phases were counted over.
    wanted = tokens.select(*_KEYS, "reverse_kl", *_choices(tokens)).collect()
    frame = wanted.join(values, on="position", how="left").sort("position")
    vocab = vocabulary(source)
    frame = frame.with_columns(
        checkpoint=pl.lit(name),
        rollout_id=pl.lit(_its_own(source.rollouts, row, "rollout_id"), pl.String),
        correct=pl.lit(_its_own(source.rollouts, row, "correct"), pl.Boolean),
        prompt=pl.lit(_prompt(source.rollouts, row, vocab), pl.String),
        text=_text(frame["token_id"], vocab),
        teacher_top_text=_text(frame["teacher_top_id"], vocab),
        column=pl.lit(full),
        unit=pl.lit(unit),
        is_rock=_is_rock(finished_result(source, "rock_tokens")),
        is_released=_is_released(finished_result(source, "release_points"), name, row),
        phase=_phase(finished_result(source, "agreement_traps"), name, row),
    )
    return check_table(frame.drop("reverse_kl"), TOKEN_STRIP, "token_strip")


def _row_of(rollouts: pl.DataFrame, rollout: int | str) -> int:
    """Return the row number of a rollout; an id comes before a number written as text."""
    if isinstance(rollout, str):
        if "rollout_id" in rollouts.columns:
            rows = rollouts.filter(pl.col("rollout_id") == rollout)["rollout"]
            if rows.len():
                return int(rows[0])
        if not rollout.isdecimal():
            raise TableError(f"rollout: no {rollout!r}; expected a rollout_id or a row number")
        rollout = int(rollout)
    if rollout not in rollouts["rollout"]:
        raise TableError(
            f"rollout: no row {rollout}; expected a rollout_id, or a row number "
            f"below {rollouts.height}"
        )
    return rollout


def _its_own(rollouts: pl.DataFrame, row: int, column: str) -> Any:
    """Return what a column says of a rollout, None where the rollouts do not have it."""
    if column not in rollouts.columns:
        return None
    return rollouts.filter(pl.col("rollout") == row)[column][0]


def _prompt(rollouts: pl.DataFrame, row: int, vocab: pl.DataFrame | None) -> str | None:
    """Write a prompt's bytes as text; invalid ones are escaped."""
    ids = _its_own(rollouts, row, "prompt_token_ids")
    if vocab is None or ids is None:
        return None
    known = dict(vocab.filter(pl.col("token_id").is_in(ids.to_list()))
                 .select("token_id", "bytes").iter_rows())  # fmt: skip
    text = b"".join(known.get(token) or f"[{token}]".encode() for token in ids)
    return text.decode("utf-8", "backslashreplace")


def _choices(tokens: pl.LazyFrame) -> list[pl.Expr]:
    """Select what both models make of a token; null where a table does not have it."""
    there = tokens.collect_schema().names()
    choices = []
    for column, (name, dtype) in _CHOICES.items():
        value = pl.col(column) if column in there else pl.lit(None)
        value = value.cast(dtype)
        choices.append((value.exp() if column.endswith("logp") else value).alias(name))
    return choices


def _choose(column: str, k_grid: Sequence[int]) -> tuple[str, str, pl.Expr]:
    """Return the full name, unit and expression of a column."""
    if column in DERIVED:
        return column, DERIVED[column], pl.col("teacher_logp") - pl.col("student_logp")
    units, choices = {}, []
    by_grid: dict[tuple[int, ...], list[str]] = {}
    for known in token_columns(k_grid):
        if isinstance(known.dtype, pl.Array):
            few = known.name in SINCE_VERSION_3
            grid = truncated_grid(k_grid) if few else tuple(k_grid)
            for place, k in enumerate(grid):
                units[f"{known.name}_{k}"] = known.unit, pl.col(known.name).arr.get(place)
            by_grid.setdefault(grid, []).append(f"{known.name}_K")
        elif known.dtype in (pl.Float32, pl.UInt32, pl.UInt16) and known.name not in _KEYS:
            units[known.name] = known.unit, pl.col(known.name)
            choices.append(known.name)
    full = f"{column}_{USUAL_K[column]}" if column in USUAL_K else column
    if full not in units:
        expected = [", ".join([*choices, *DERIVED])]
        for grid, names in by_grid.items():
            expected.append(f"{', '.join(names)} (K: {', '.join(map(str, grid))})")
        raise OptionError(f"column: {column!r}; expected one of {'; '.join(expected)}")
    return full, *units[full]


def _gain(source: Source, row: int, first: str, last: str) -> pl.DataFrame:
    if first == last:
        raise OptionError(
            f"column: 'gain' under {last!r}; expected a checkpoint after the first to compare with"
        )
    sides = [
        source.tokens(name).filter(pl.col("rollout") == row).select("position", "forward_kl")
        for name in (first, last)
    ]
    before, after = (side.collect() for side in sides)
    gain = before["forward_kl"].cast(pl.Float64) - after["forward_kl"]
    return before.select("position", gain.alias("value"))


def _first_order(source: Source, row: int, checkpoint: str) -> pl.DataFrame:
    table = finished_result(source, "update_tokens")
    if table is None:
        raise OptionError(
            "column: 'first_order' needs update_tokens; expected `opd-diag analyze "
            "update-alignment` before"
        )
    own = table.filter(checkpoint_from=checkpoint)
    known = own["rollout"].unique().sort()
    if row not in known:
        some = ", ".join(map(str, known.head(8))) or f"none of an update from {checkpoint!r}"
        raise OptionError(f"column: 'first_order' is not known of rollout {row}; expected {some}")
    value = pl.col("first_order_reverse_kl").cast(pl.Float64).alias("value")
    return own.filter(rollout=row).select("position", value)


def _text(ids: pl.Series, vocab: pl.DataFrame | None) -> pl.Series | pl.Expr:
    if vocab is None:
        return pl.lit(None, pl.String)
    return ids.replace_strict(
        vocab["token_id"], vocab["text"], default=None, return_dtype=pl.String
    )


def _is_rock(table: pl.DataFrame | None) -> pl.Expr:
    if table is None:
        return pl.lit(None, pl.Boolean)
    return pl.col("token_id").is_in(table.filter("is_rock")["token_id"].to_list())


def _is_released(table: pl.DataFrame | None, checkpoint: str, row: int) -> pl.Expr:
    own = _result_row(table, checkpoint, row)
    if own is None:
        return pl.lit(None, pl.Boolean)
    first = own["release_token"][0]
    return pl.lit(False) if first is None else pl.col("position") >= first


def _phase(table: pl.DataFrame | None, checkpoint: str, row: int) -> pl.Expr:
    """Count the phases off over the tokens that the rule saw: in the loss and measured."""
    own = _result_row(table, checkpoint, row)
    if own is None or own["triggered"][0] is None:
        return pl.lit(None, pl.String)
    seen = pl.col("in_loss") & pl.col("reverse_kl").is_not_null()
    if not own["triggered"][0]:
        return pl.when(seen).then(pl.lit("untriggered"))
    before = seen.cum_sum() - 1
    return (
        pl.when(~seen)
        .then(None)
        .when(before < own["n_pre"][0])
        .then(pl.lit("pre"))
        .when(before < own["n_pre"][0] + own["n_agreement"][0])
        .then(pl.lit("agreement"))
        .otherwise(pl.lit("post"))
    )


def _result_row(table: pl.DataFrame | None, checkpoint: str, row: int) -> pl.DataFrame | None:
    """Return the row of a result that speaks of this rollout, if there is one."""
    if table is None:
        return None
    own = table.filter(pl.col("checkpoint") == checkpoint, pl.col("rollout") == row)
    return own if own.height else None
