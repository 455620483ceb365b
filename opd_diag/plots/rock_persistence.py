"""Draw whether the same tokens stay hard, and what kinds of tokens rocks are."""

import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import (
    CONTROL,
    TALL,
    THRESHOLD,
    WIDE,
    band,
    bars,
    colour,
    counted,
    interval,
    legend_below,
    legend_beside,
    nothing,
    panel,
    plain_powers,
    readable,
    style,
)
from opd_diag.tables.columns.rock_tokens import TOKEN_CLASSES

CURVES = {"all": "all tokens", "rock": "rocks", "control": "as frequent", "rest": "all but rocks"}
SHARES = {
    "share_learned": ("learned: at first only", 2),
    "share_rock": ("rock: at first and last", 1),
    "share_regressed": ("regressed: at last only", 4),
}
LISTED = 25
LINE = 0.24  # inches
COLUMNS = (0.42, 0.54, 0.80, 1.0)  # right ends of the numbers, share of the width


def rock_persistence(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the share of hard tokens that stayed hard under every checkpoint so far, by group.

    Args:
        table: `rock_persistence`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax)
        rows = table.filter(kind="group")
        names = rows["checkpoint"].unique(maintain_order=True).to_list()
        if len(names) < 2 or rows["survival"].is_null().all():
            return nothing(ax, "no two checkpoints on the same tokens")
        steps = rows.unique("checkpoint", maintain_order=True)["step"]
        apart = steps.null_count() == 0 and steps.n_unique() == steps.len()
        at = steps.to_list() if apart else list(range(len(names)))
        for i, (group, words) in enumerate(CURVES.items()):
            own = rows.filter(name=group)
            shade = CONTROL if group == "all" else colour(i)
            n = own["n_hard_first"][0]
            label = f"{words} ({n:,} hard at first)"
            band(ax, at, *interval(own, "survival"), colour=shade, label=label)
        ax.plot(at, rows.filter(name="all")["expected"], color=CONTROL, linestyle=":",
                label="all, if only the type mattered")  # fmt: skip
        if not apart:
            ax.set_xticks(at, names)
        ax.set_ylim(0, 1.02)
        ax.set_xlabel("training step" if apart else "checkpoint")
        ax.set_ylabel("share hard ever since")
        ax.set_title("Which of the hardest fifth at first stay hard")
        legend_below(ax)
        return ax


def rock_persistence_classes(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how many tokens of each group and class were learned, stayed hard or became hard.

    Args:
        table: `rock_persistence`, of which the last checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
        names = table["checkpoint"].unique(maintain_order=True)
        if names.len() < 2:
            return nothing(ax, "no two checkpoints on the same tokens")
        rows = table.filter(pl.col("kind") != "type", checkpoint=names[-1]).reverse()
        left = [0.0] * rows.height
        for column, (label, i) in SHARES.items():
            width = [value or 0.0 for value in rows[column]]
            ax.barh(range(rows.height), width, left=left, color=colour(i), label=label)
            left = [start + step for start, step in zip(left, width, strict=True)]
        words = [f"{name} ({n:,})" for name, n in rows.select("name", "n").iter_rows()]
        ax.set_yticks(range(rows.height), words)
        ax.set_xlim(0, 1)
        ax.set_xlabel("share of the tokens that is hard; the rest is easy")
        ax.set_ylabel("group or class (tokens)")
        ax.set_title(f"Hard tokens from {names[0]} to {names[-1]}")
        legend_below(ax)
        return ax


def rock_persistence_types(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Write the first listed types as a table: occurrences, lift, and how many stay hard.

    Args:
        table: `rock_persistence`, of which at most 25 types are written.
        ax: Where to draw; None: a new figure.
    """
    with style():
        rows = table.filter(kind="type").head(LISTED)
        size = TALL[0], LINE * (rows.height + 3)
        ax = panel(ax, size=size if rows.height else TALL)
        if rows.is_empty():
            return nothing(ax, "no two checkpoints on the same tokens, or no listed type")
        lines = [("type", "tokens", "lift", "stays hard", "of the type")]
        lines += [
            (
                f"#{row['token_id']}" if row["text"] is None else f"“{readable(row['text'])}”",
                f"{row['n']:,}",
                _number(row["lift"]),
                _share(row),
                _number(row["expected"]),
            )
            for row in rows.iter_rows(named=True)
        ]
        for y, (name, *numbers) in enumerate(lines):
            shade = CONTROL if y == 0 else THRESHOLD
            ax.text(0, y, name, va="center", color=shade)
            for right, cell in zip(COLUMNS, numbers, strict=True):
                ax.text(right, y, cell, ha="right", va="center", color=shade)
        ax.set_xlim(0, 1)
        ax.set_ylim(len(lines) - 0.4, -0.6)
        ax.set_axis_off()
        listed = counted(table.filter(kind="type").height, "listed type")
        ax.set_title(f"Hard tokens that stay hard, the first {rows.height} of {listed}")
        return ax


def rock_composition(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the share of each class of tokens among rocks and among all others.

    Args:
        table: `rock_composition`, of which the whole response is drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=WIDE)
        rows = table.filter(phase="all").drop_nulls("token_class")
        if rows.is_empty():
            return nothing(ax, "no vocabulary: what a type spells is not known")
        present = [name for name in TOKEN_CLASSES if name in rows["token_class"].to_list()]
        place = {name: i for i, name in enumerate(present)}
        shown = (
            ("rest", "position_share", "share of the tokens that are no rock", 5, -0.27),
            ("rock", "position_share", "share of the rock tokens", 0, -0.09),
            ("all", "position_share", "share of all tokens", None, 0.09),
            ("all", "loss_share", "share of all loss", 1, 0.27),
        )
        for group, column, label, i, shift in shown:
            own = rows.filter(group=group)
            at = [place[name] + shift for name in own["token_class"]]
            shade = CONTROL if i is None else colour(i)
            ax.bar(at, own[column].fill_null(0), width=0.17, color=shade, alpha=0.35)
            bars(ax, at, *interval(own, column), colour=shade, label=label)
        ax.set_xticks(range(len(present)), present, rotation=20, ha="right")
        ax.set_ylim(bottom=0)
        ax.set_xlabel("class of tokens")
        ax.set_ylabel("share")
        ax.set_title(f"What rock tokens are: {table['checkpoint'][0]}")
        legend_beside(ax)
        return ax


def rock_composition_lift(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean loss and gradient of each class of tokens over that of all tokens.

    Args:
        table: `rock_composition`, of which the whole response and all tokens are drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
        rows = table.filter(phase="all", group="all").drop_nulls("token_class")
        if rows.is_empty() or rows["lift"].is_null().all():
            return nothing(ax, "no vocabulary, or a loss that can be negative")
        for i, (column, label) in enumerate(
            {"lift": "loss, against the same tenths", "grad_lift": "logit gradient"}.items()
        ):
            at = [place + 0.12 - 0.24 * i for place in range(rows.height)]
            values = interval(rows, column)
            bars(ax, at, *values, colour=colour(i), label=label, horizontal=True)
        ax.axvline(1, color=CONTROL, linewidth=1)
        ax.set_xscale("log")
        plain_powers(ax)
        words = [f"{name} ({n:,})" for name, n in rows.select("token_class", "n").iter_rows()]
        ax.set_yticks(range(rows.height), words)
        ax.invert_yaxis()
        ax.set_xlabel("mean over that of all tokens (ratio)")
        ax.set_ylabel("class (tokens)")
        ax.set_title(f"Where loss and gradient lie: {table['checkpoint'][0]}")
        legend_below(ax)
        return ax


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _share(row: dict[str, float | None]) -> str:
    value, low, high = (row[f"stays_hard{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "n/a"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"
