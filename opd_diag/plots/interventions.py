"""Draw what interventions cost: bans, continuations after a cut, replaced tokens."""

import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import (
    CONTROL,
    bars,
    colour,
    counted,
    interval,
    legend_below,
    nothing,
    panel,
    readable,
    style,
)
from opd_diag.tables.columns.interventions import (
    ALL_ROCKS,
    AT_CUT,
    LISTED,
    RANDOM,
    RECOVERABLE,
    ROCK,
    SINGLE,
    UNMASKED,
)
from opd_diag.tables.columns.interventions import CONTROL as CONTROL_LIST

POINTS = 100.0  # of a share
_COLOURS = {
    UNMASKED: CONTROL,
    ROCK: colour(1),
    ALL_ROCKS: colour(4),
    CONTROL_LIST: colour(0),
    RANDOM: colour(5),
    SINGLE: colour(3),
    LISTED: colour(2),
}


def knock_out(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what each ban costs in accuracy, beside repeats without a ban.

    Args:
        table: `knock_out`; the last checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    rows = _last(table)
    with style():
        ax = panel(ax, size=(8.0, 1.6 + 0.3 * max(rows.height, 3)))
        if rows.is_empty():
            return nothing(ax, "no arm")
        labels = [_label(row) for row in rows.iter_rows(named=True)]
        for kind in rows["kind"].unique(maintain_order=True):
            own = (rows["kind"] == kind).arg_true().to_list()
            part = rows[own]
            points = (values * POINTS for values in interval(part, "difference"))
            bars(ax, own, *points, colour=_COLOURS[kind], label=kind, horizontal=True)
        ax.axvline(0, color=CONTROL, linewidth=1)
        ax.set_yticks(range(len(labels)), labels)
        ax.grid(axis="y", visible=False)
        problems = counted(rows["n_problems"][0], "problem")
        ax.set(
            ylim=(rows.height - 0.5, -0.5),
            xlabel="accuracy minus that without a ban, same random numbers (points)",
            title=f"Bans while {readable(rows['checkpoint'][0])} answers {problems}",
        )
        legend_below(ax)
    return ax


def continuation(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how often continuations are right, from the cut and from the same depth elsewhere.

    Args:
        table: `continuation`; the last checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    rows = _last(table).filter(pl.col("measure") == RECOVERABLE, pl.col("value").is_not_null())
    with style():
        ax = panel(ax)
        if rows.is_empty():
            return nothing(ax, "no rollout is cut where another of its problem goes on")
        place = list(map(float, range(rows.height)))
        sides = (
            ("value", -0.1, colour(1), f"from the {AT_CUT}"),
            ("control", 0.1, colour(0), "from the same depth of another rollout of the problem"),
        )
        for name, shift, shade, label in sides:
            points = (values * POINTS for values in interval(rows, name))
            bars(ax, [at + shift for at in place], *points, colour=shade, label=label)
        ax.set_xticks(place, rows["model"].to_list())
        ax.grid(axis="x", visible=False)
        ax.set(
            xlim=(-0.6, rows.height - 0.4),
            xlabel="who goes on",
            ylabel="continuations that are right (%)",
            title=f"Continuations after the {rows['cut'][0]} cut of "
            f"{readable(rows['checkpoint'][0])}",
        )
        legend_below(ax)
    return ax


def replacement(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what replacing one token does to the log-prob of the answer.

    Args:
        table: `replacement`; the last checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    rows = _last(table).filter(pl.col("change").is_not_null())
    with style():
        ax = panel(ax)
        if rows.is_empty():
            return nothing(ax, "no occurrence that could be replaced and matched")
        place = list(map(float, range(rows.height)))
        for number, at in enumerate(place):
            bars(ax, [at], *interval(rows[[number]], "change"), colour=colour(1 - number))
        ax.axhline(0, color=CONTROL, linewidth=1)
        ax.set_xticks(place, rows["group"].to_list())
        ax.grid(axis="x", visible=False)
        ax.set(
            xlim=(-0.6, rows.height - 0.4),
            xlabel="tokens replaced by the student's likeliest other one",
            ylabel="change of the answer's log-prob (nat)",
            title=f"Replaced tokens of {readable(rows['checkpoint'][0])}",
        )
    return ax


def _label(row: dict[str, object]) -> str:
    if row["kind"] == UNMASKED:
        return str(row["arm"])
    if row["text"] is not None:
        return f"{row['arm']} ({readable(str(row['text']))!r})"
    types = counted(int(str(row["n_types"])), "type")
    return f"{row['arm']} ({types})"


def _last(table: pl.DataFrame) -> pl.DataFrame:
    """Keep the rows of the last checkpoint of the table."""
    if table.is_empty():
        return table
    return table.filter(pl.col("checkpoint") == table["checkpoint"][-1])
