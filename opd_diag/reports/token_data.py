"""The tokens of chosen rollouts as compact JSON values, for the script of the page."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from opd_diag.errors import OpdDiagError
from opd_diag.exports import token_weights
from opd_diag.reports.rollout_sample import updated_rollouts
from opd_diag.tables.columns.tokens import KL_NAMES
from opd_diag.tables.run import Run
from opd_diag.tables.source import finished_result
from opd_diag.text.escaping import for_page_text, for_terminal

BYTES = 6_500_000  # of base64 text that all tokens together may take
MOST_CHECKPOINTS = 3
MOST_PROMPT = 4_000  # characters of a prompt that are shown
SELECTOR = "selector:d_learn@10%"
MARGIN_K = 4

FLOATS = (
    "reverse_kl",
    "forward_kl",
    "student_logp",
    "teacher_logp",
    "margin",
    "student_entropy",
    "teacher_entropy",
    "grad_logits",
)
WHOLE = ("student_rank", "teacher_rank", "student_top_id", "teacher_top_id")
# What colours the tokens: name, label, unit, and whether it has a sign.
COLOURS = (
    ("reverse_kl", KL_NAMES["reverse_kl"], "nat", False),
    ("forward_kl", KL_NAMES["forward_kl"], "nat", False),
    ("advantage", "Advantage (teacher minus student log-prob)", "nat", True),
    ("margin", "Teacher's margin", "nat", False),
    ("student_entropy", "Student's entropy", "nat", False),
    ("teacher_entropy", "Teacher's entropy", "nat", False),
    ("grad_logits", "Gradient norm", "nat/logit", False),
    ("gain", "Gain since the first checkpoint, KL(student ‖ teacher)", "nat", True),
)
# There only where the derivatives of some rollouts are known.
FIRST_ORDER = (
    "first_order",
    "Change by the next update to first order, KL(student ‖ teacher)",
    "nat",
    True,
)


def token_view(run: Run, reasons: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """Gather the tokens of some rollouts.

    The columns are float32 and int32 values in base64. Where the tokens would take more than about
    6.5 MB, long responses are cut and the last rollouts left out, and `left_out` says how many.

    Args:
        run: A run.
        reasons: Row numbers of the rollouts in the order in which they matter, with reasons.

    Returns:
        JSON values.
    """
    shown = _checkpoints(run)
    colours = [*COLOURS, FIRST_ORDER] if updated_rollouts(run) else [*COLOURS]
    floats = [*FLOATS, "first_order"] if FIRST_ORDER in colours else [*FLOATS]
    each = (len(floats) + len(WHOLE)) * 4 * 4 // 3 * len(shown) + 24
    lengths = _lengths(run, list(reasons))
    sizes = _fit(lengths, BYTES // each)
    rows = list(sizes)
    tokens = {name: _with_first_order(_tokens(run, name, rows), run, name) for name in shown}
    marks = _marks(run, rows, shown)
    colours = _known_colours(colours, list(tokens.values()))
    table = run.rollouts.filter(pl.col("rollout").is_in(rows))
    about = {row["rollout"]: row for row in table.iter_rows(named=True)}
    vocab = {name: run.vocab[name].to_list() for name in ("text", "is_special", "bytes")}
    used: set[int] = set()
    rollouts = []
    for row in rows:
        parts = {name: frame.filter(rollout=row).head(sizes[row]) for name, frame in tokens.items()}
        first = next(iter(parts.values()))
        ids = first["token_id"].to_list()
        used.update(ids)
        for part in parts.values():
            used.update(part["student_top_id"].drop_nulls(), part["teacher_top_id"].drop_nulls())
        rollouts.append(
            {
                **_about(about[row], vocab["bytes"]),
                "row": row,
                "reasons": list(reasons[row]),
                "tokens": lengths[row],
                "ids": ids,
                "segment": first["segment"].to_list(),
                "in_loss": first["in_loss"].cast(pl.Int8).to_list(),
                "columns": {name: _packed(part, floats) for name, part in parts.items()},
                "marks": marks[row],
            }
        )
    return {
        "checkpoints": list(shown),
        "colours": [
            dict(zip(("name", "label", "unit", "signed"), c, strict=True)) for c in colours
        ],
        "scales": {name: _scales(frame, colours) for name, frame in tokens.items()},
        "rocks": _rocks(run),
        "vocab": {
            str(i): [for_page_text(vocab["text"][i]), int(vocab["is_special"][i])]
            for i in sorted(used)
        },
        "rollouts": rollouts,
        "left_out": len(reasons) - len(rows),
        "margin_k": _margin_k(run),
    }


def _checkpoints(run: Run) -> tuple[str, ...]:
    """Take the first, the last and one in the middle of the checkpoints."""
    names = run.checkpoints
    if len(names) <= MOST_CHECKPOINTS:
        return names
    return names[0], names[len(names) // 2], names[-1]


def _lengths(run: Run, rows: list[int]) -> dict[int, int]:
    counted = (
        run.tokens(run.checkpoints[0])
        .filter(pl.col("rollout").is_in(rows))
        .group_by("rollout")
        .len()
    )
    known = dict(counted.collect().iter_rows())
    return {row: known.get(row, 0) for row in rows}


def _fit(lengths: Mapping[int, int], room: int) -> dict[int, int]:
    """Give each rollout the tokens that are shown, within the room for all."""
    most = max(room // 8, 200)
    sizes: dict[int, int] = {}
    for row, length in lengths.items():
        size = min(length, most)
        if size > room:
            continue
        sizes[row] = size
        room -= size
    return sizes


def _margin_k(run: Run) -> int:
    return MARGIN_K if MARGIN_K in run.k_grid else run.k_grid[0]


def _tokens(run: Run, checkpoint: str, rows: list[int]) -> pl.DataFrame:
    place = run.k_grid.index(_margin_k(run))
    columns = [name for name in FLOATS if name != "margin"]
    return (
        run.tokens(checkpoint)
        .filter(pl.col("rollout").is_in(rows))
        .select(
            *("rollout", "position", "token_id", "segment", "in_loss"),
            *columns,
            *WHOLE,
            margin=pl.col("margin").arr.get(place),
        )
        .sort("rollout", "position")
        .collect()
    )


def _with_first_order(tokens: pl.DataFrame, run: Run, checkpoint: str) -> pl.DataFrame:
    """Add what the update from a checkpoint does to each token to first order, null elsewhere."""
    table = finished_result(run, "update_tokens")
    if table is None:
        return tokens.with_columns(first_order=pl.lit(None, pl.Float32))
    own = table.filter(checkpoint_from=checkpoint).select(
        "rollout", "position", first_order="first_order_reverse_kl"
    )
    return tokens.join(own, on=["rollout", "position"], how="left", maintain_order="left")


def _known_colours(
    colours: Sequence[tuple[str, str, str, bool]], frames: Sequence[pl.DataFrame]
) -> list[tuple[str, str, str, bool]]:
    """Leave out what no token has, such as KL where the teacher is known by log-probs alone."""
    needed = {"advantage": "teacher_logp", "gain": "reverse_kl"}
    return [
        colour
        for colour in colours
        if any(frame[needed.get(colour[0], colour[0])].count() for frame in frames)
    ]


def _packed(part: pl.DataFrame, floats: Sequence[str]) -> dict[str, str]:
    """Write columns as base64 of little-endian float32 (null: NaN) and int32 (null: -1)."""
    packed = {}
    for name in floats:
        values = part[name].cast(pl.Float32).fill_null(np.nan).to_numpy()
        packed[name] = b64encode(values.astype("<f4").tobytes()).decode()
    for name in WHOLE:
        numbers = part[name].cast(pl.Int64).fill_null(-1).to_numpy()
        packed[name] = b64encode(numbers.astype("<i4").tobytes()).decode()
    return packed


def _scales(frame: pl.DataFrame, colours: Sequence[tuple[Any, ...]]) -> dict[str, float]:
    """Return the 98th percentile of each column's size, where its colour is full."""
    advantage = (pl.col("teacher_logp") - pl.col("student_logp")).abs()
    names = [name for name, *_ in colours if name in frame.columns]
    row = frame.select(
        *(pl.col(name).abs().quantile(0.98) for name in names),
        advantage=advantage.quantile(0.98),
        gain=pl.col("reverse_kl").quantile(0.98),
    ).row(0, named=True)
    return {name: float(value or 0) for name, value in row.items()}


def _rocks(run: Run) -> list[int]:
    table = finished_result(run, "rock_tokens")
    return [] if table is None else table.filter("is_rock")["token_id"].to_list()


def _marks(run: Run, rows: list[int], shown: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Gather, by rollout: release token, low-KL stretch, and what the selector chooses."""
    marks: dict[int, dict[str, Any]] = {row: {"release": {}, "stretch": {}} for row in rows}
    wanted = pl.col("rollout").is_in(rows) & pl.col("checkpoint").is_in(list(shown))
    points = finished_result(run, "release_points")
    if points is not None:
        cuts = points.filter(wanted, pl.col("release_token").is_not_null())
        for row in cuts.select("rollout", "checkpoint", "release_token").iter_rows():
            marks[row[0]]["release"][row[1]] = row[2]
    traps = finished_result(run, "agreement_traps")
    if traps is not None:
        fired = traps.filter(wanted, pl.col("cut_token").is_not_null())
        columns = ("rollout", "checkpoint", "cut_token", "stretch_end_token")
        for row in fired.select(columns).iter_rows():
            marks[row[0]]["stretch"][row[1]] = [row[2], row[3] + 1]
    try:
        weights = token_weights(run, rule=SELECTOR)
    except OpdDiagError:  # without the features there is nothing to mark
        return marks
    chosen = weights.filter(pl.col("rollout").is_in(rows), pl.col("weight") > 0)
    for (row,), part in chosen.group_by("rollout"):
        marks[int(str(row))]["selected"] = part["position"].to_list()
    return marks


def _about(row: Mapping[str, Any], spelled: Sequence[bytes]) -> dict[str, Any]:
    """Return what the page says of a rollout, with the text of its prompt."""
    known = [spelled[i] for i in row["prompt_token_ids"] if 0 <= i < len(spelled)]
    prompt = b"".join(known).decode("utf-8", errors="replace")
    facts = ("rollout_id", "prompt_id", "sample", "step", "policy", "correct", "reward",
             "finish_reason")  # fmt: skip
    return {
        **{name: _shown(row[name]) for name in facts},
        "prompt": for_page_text(prompt[:MOST_PROMPT]),
        "prompt_cut": max(0, len(prompt) - MOST_PROMPT),
    }


def _shown(value: object) -> object:
    return for_terminal(value) if isinstance(value, str) else value
