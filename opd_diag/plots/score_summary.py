"""Draw the divergences of `score_summary`: by checkpoint, along responses, over tokens."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from opd_diag.plots.style import (
    CONTROL,
    band,
    bars,
    colour,
    counted,
    interval,
    legend_below,
    nothing,
    panel,
    style,
)
from opd_diag.tables.columns.score_summary import ALL, CORRECT, WRONG
from opd_diag.tables.columns.tokens import KL_NAMES

DASHES = {ALL: "-", CORRECT: "-", WRONG: "--"}
MARKERS = {ALL: "o", CORRECT: "^", WRONG: "v"}
ENOUGH = 24  # prompts: below them intervals are marked
APART = 0.12  # of the way from one checkpoint to the next


def score_summary(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean KL in both directions under every checkpoint, for correct and wrong rollouts.

    Args:
        table: `score_summary`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax)
        rows = table.filter(pl.col("column").is_in(list(KL_NAMES)), pl.col("value").is_not_null())
        if rows.is_empty():
            return nothing(ax, "no token in the loss has a divergence")
        checkpoints = table["checkpoint"].unique(maintain_order=True).to_list()
        if _groups(rows) == [ALL]:
            rows = rows.filter(group=ALL)
        series = rows.select("column", "group").unique(maintain_order=True).rows()
        for place, (column, group) in enumerate(series):
            own = rows.filter(pl.col("column") == column, pl.col("group") == group)
            shift = APART * (place - (len(series) - 1) / 2)
            at = [checkpoints.index(name) + shift for name in own["checkpoint"]]
            bars(ax, at, *interval(own, "value"), colour=colour(list(KL_NAMES).index(column)),
                 marker=MARKERS[group], label=f"{KL_NAMES[column][3:-1]}, {group}")  # fmt: skip
        ax.set_xticks(range(len(checkpoints)), checkpoints)
        ax.set_xlim(-0.5, len(checkpoints) - 0.5)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("checkpoint")
        ax.set_ylabel("mean KL over tokens (nat)")
        prompts = counted(max(rows["n_prompts"]), "prompt")
        ax.set_title(f"KL between student and teacher (bars: 95 %, {prompts})")
        legend_below(ax)
        return ax


def score_positions(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw KL(student ‖ teacher) along the response, under the first and the last checkpoint.

    Args:
        table: `score_positions`.
        ax: Where to draw; None: a new figure.
    """
    return _positions(table, "reverse_kl", "relative", ax)


def score_positions_absolute(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw KL(student ‖ teacher) by token position, under the first and the last checkpoint.

    Args:
        table: `score_positions`.
        ax: Where to draw; None: a new figure.
    """
    return _positions(table, "reverse_kl", "absolute", ax)


def score_positions_forward(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw KL(teacher ‖ student) along the response, under the first and the last checkpoint.

    Args:
        table: `score_positions`.
        ax: Where to draw; None: a new figure.
    """
    return _positions(table, "forward_kl", "relative", ax)


def _positions(table: pl.DataFrame, column: str, axis: str, ax: Axes | None) -> Axes:
    with style():
        ax = panel(ax)
        rows = table.filter(
            pl.col("column") == column, pl.col("axis") == axis, pl.col("value").is_not_null()
        )
        if rows.is_empty():
            return nothing(ax, "no token in the loss has a divergence")
        names = rows["checkpoint"].unique(maintain_order=True).to_list()
        ends = list(dict.fromkeys((names[0], names[-1])))
        for place, checkpoint in enumerate(ends):
            for group in _groups(rows):
                own = rows.filter(pl.col("checkpoint") == checkpoint, pl.col("group") == group)
                middle = ((own["start"] + own["end"]) / 2).to_list()
                values, label = interval(own, "value"), f"{checkpoint}, {group}"
                band(ax, middle, *values, colour=colour(place), linestyle=DASHES[group],
                     label=label)  # fmt: skip
        ax.set_ylim(bottom=0)
        if axis == "relative":
            ax.set_xlim(0, 1)
        unit = "share of its tokens" if axis == "relative" else "tokens"
        ax.set_xlabel(f"position in the response ({unit})")
        ax.set_ylabel("mean over tokens (nat)")
        prompts = counted(max(rows["n_prompts"]), "prompt")
        along = "along the response" if axis == "relative" else "by token position"
        ax.set_title(f"{KL_NAMES[column]} {along} (band: 95 %, {prompts})")
        legend_below(ax)
        return ax


def score_histogram(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how KL(student ‖ teacher) of the last checkpoint is spread over tokens.

    Args:
        table: `score_histogram`.
        ax: Where to draw; None: a new figure.
    """
    return _histogram(table, "reverse_kl", ax)


def score_histogram_forward(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how KL(teacher ‖ student) of the last checkpoint is spread over tokens.

    Args:
        table: `score_histogram`.
        ax: Where to draw; None: a new figure.
    """
    return _histogram(table, "forward_kl", ax)


def _histogram(table: pl.DataFrame, column: str, ax: Axes | None) -> Axes:
    """Draw the shares of tokens and of their sum in each bin, for correct and wrong rollouts."""
    with style():
        ax = panel(ax)
        rows = table.filter(pl.col("column") == column, pl.col("token_share").is_not_null())
        if rows.is_empty() or not rows["n"].sum():
            return nothing(ax, "no token in the loss has a divergence")
        checkpoint = rows["checkpoint"][-1]
        rows = rows.filter(pl.col("checkpoint") == checkpoint)
        for group in _groups(rows):
            own = rows.filter(pl.col("group") == group)
            edges = [*own["bin"], own["bin"][-1] + 1]
            for shares, hue, words in (
                ("token_share", CONTROL, "tokens"),
                ("loss_share", colour(0), "their KL"),
            ):
                label = f"{words}, {group}"
                ax.stairs(own[shares].fill_null(0).to_list(), edges, color=hue, label=label,
                          linestyle=DASHES[group], linewidth=1.6)  # fmt: skip
        starts = rows.filter(pl.col("group") == rows["group"][0]).sort("bin")["start"].to_list()
        marks = [i for i in range(1, len(starts)) if i % 2]
        ax.set_xticks(marks, [f"{starts[i]:.0e}" if starts[i] < 0.01 else f"{starts[i]:g}"
                              for i in marks])  # fmt: skip
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        ax.set_xlabel(f"{KL_NAMES[column]} of a token (nat, two bins to a factor of ten)")
        ax.set_ylabel("share of tokens, of their KL")
        ax.set_title(f"How few tokens hold {KL_NAMES[column]}: {checkpoint}")
        legend_below(ax)
        return ax


def _groups(rows: pl.DataFrame) -> list[str]:
    """List the groups to draw: correct and wrong rollouts where enough are known, or else all."""
    prompts = {
        group: max(rows.filter(group=group)["n_prompts"]) for group in rows["group"].unique()
    }
    known = [group for group in (CORRECT, WRONG) if group in prompts]
    return known if known and not _too_few(prompts) else [ALL]


def _too_few(prompts: dict[str, int]) -> bool:
    """Tell whether outcomes stand on few prompts in a run of many: wild intervals beside good."""
    outcomes = [number for group, number in prompts.items() if group != ALL]
    return prompts.get(ALL, 0) >= ENOUGH > min(outcomes, default=ENOUGH)
