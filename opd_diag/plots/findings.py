"""Draw the answers: every question's difference from its control, in margins."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import CONTROL, PALETTE, legend_below, nothing, panel, readable, style
from opd_diag.tables.columns.findings import NO, NOT_ASKED, UNDECIDED, YES

COLOURS = {YES: PALETTE[1], NO: PALETTE[0], UNDECIDED: PALETTE[6], NOT_ASKED: CONTROL}
QUESTION_CHARACTERS = 38
ROW_INCHES = 0.5
TICKS = (-100, -10, -1, 0, 1, 10, 100)
FARTHEST = 300  # margins; what lies beyond stands at the edge


def findings(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw each question's difference from its control in units of the margin that `no` needs.

    A question that was asked of several checkpoints is drawn at the last of them. Its estimate
    and its control stand on the right.

    Args:
        table: `findings`.
        ax: Where to draw; None: a new figure.
    """
    rows = [_shown(part) for part in table.partition_by("question", maintain_order=True)]
    with style():
        ax = panel(ax, size=(9.6, 1.2 + ROW_INCHES * max(len(rows), 2)))
        if not rows:
            return nothing(ax, "no question")
        ax.axvspan(-1, 1, color=CONTROL, alpha=0.15, linewidth=0)
        ax.axvline(0, color=CONTROL, linewidth=1)
        ax.set_xscale("symlog", linthresh=1, linscale=0.7)
        labelled: set[str] = set()
        for place, row in enumerate(rows):
            _draw(ax, place, row, labelled)
        ax.set(
            ylim=(len(rows) - 0.5, -0.5),
            xlim=_limits(rows),
            xlabel="difference from the control, in margins (grey: too small to matter)",
            title="Findings",
        )
        ax.set_yticks(range(len(rows)), [fill(row["text"], QUESTION_CHARACTERS) for row in rows])
        ax.grid(axis="y", visible=False)
        ticks = [tick for tick in TICKS if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        names = ax.get_legend_handles_labels()[1]
        if names:
            legend_below(ax)
    return ax


def _shown(rows: pl.DataFrame) -> Mapping[str, Any]:
    """The last checkpoint that was asked, else the last."""
    asked = rows.filter(pl.col("answer") != NOT_ASKED)
    return (rows if asked.is_empty() else asked).row(-1, named=True)


def _draw(ax: Axes, place: int, row: Mapping[str, Any], labelled: set[str]) -> None:
    answer = row["answer"]
    size = "small"
    if answer == NOT_ASKED or not row["margin"] or row["difference"] is None:
        words = "not asked" if answer == NOT_ASKED else f"{answer}: {_beside(row)}"
        ax.text(1.02, place, words, color=CONTROL, va="center", size=size,
                transform=ax.get_yaxis_transform())  # fmt: skip
        return
    point, low, high = (_in_margins(row, end) for end in ("", "_low", "_high"))
    assert point is not None
    colour = COLOURS[answer]
    label = None if answer in labelled else answer
    labelled.add(answer)
    ax.plot([point], [place], "o", label=label, color=colour)
    if low is not None and high is not None:
        ax.hlines([place], [low], [high], linewidth=2, color=colour)
    ax.text(1.02, place, _beside(row), va="center", size=size,
            transform=ax.get_yaxis_transform())  # fmt: skip


def _in_margins(row: Mapping[str, Any], end: str) -> float | None:
    value = row[f"difference{end}"]
    if value is None:
        return None
    return float(min(max(value / row["margin"], -FARTHEST), FARTHEST))


def _limits(rows: list[Mapping[str, Any]]) -> tuple[float, float]:
    """Both ends, as far as the intervals reach, and never nearer than two margins."""
    ends = [
        abs(end)
        for row in rows
        if row["margin"] and row["answer"] != NOT_ASKED
        for name in ("", "_low", "_high")
        if (end := _in_margins(row, name)) is not None
    ]
    reach = 1.2 * max([2.0, *ends])
    return -reach, reach


def _beside(row: Mapping[str, Any]) -> str:
    """The estimate with its interval beside the control, and the checkpoint."""
    unit = row["unit"]
    share = unit == "share"

    def write(value: float | None) -> str:
        if value is None:
            return "n/a"
        return f"{100 * value:.1f}" if share else f"{value:.3g}"

    interval = f" [{write(row['estimate_low'])}, {write(row['estimate_high'])}]"
    words = f"{write(row['estimate'])}{interval if row['estimate_low'] is not None else ''}"
    if row["control"] is not None:
        words += f" against {write(row['control'])}"
    return readable(f"{words} {'%' if share else unit} ({row['checkpoint']})")
