"""Draw one rollout with its release point: `release_example`."""

import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import (
    CONTROL,
    SINGLE,
    THRESHOLD,
    WIDE,
    colour,
    legend_below,
    nothing,
    panel,
    style,
)

TEXT_SEGMENTS = 40  # more lines of text than this cannot be read in a figure
TEXT_CHARACTERS = 70


def release_example(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw one rollout segment by segment, with the fitted means, the cut and the text.

    Args:
        table: `release_example`, of which the first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        if table.is_empty():
            return nothing(panel(ax), "no rollout has a segment")
        name = table["checkpoint"][0]
        rows = table.filter(pl.col("checkpoint") == name)
        readable = rows["text"].is_not_null().all() and rows.height <= TEXT_SEGMENTS
        ax = panel(ax, size=(WIDE[0], max(SINGLE[1], 0.24 * rows.height)) if readable else WIDE)
        at = rows["segment"].to_list()
        for kept, i, label in ((True, 0, "kept"), (False, 1, "released")):
            own = rows.filter(pl.col("kept") == kept)
            ax.plot(own["score"], own["segment"], "o", color=colour(i), label=label, markersize=5)
        for i, level in enumerate(rows["fitted"].drop_nulls().unique(maintain_order=True)):
            side = rows.filter(pl.col("fitted") == level)["segment"]
            ends = side[0] - 0.5, side[-1] + 0.5
            ax.vlines(level, *ends, color=CONTROL, label="fitted mean" if i == 0 else "")
        cut = rows.filter(~pl.col("kept"))
        if cut.height:
            ax.axhline(
                cut["segment"][0] - 0.5, color=THRESHOLD, linestyle="--", label="release point"
            )
        if readable:
            ax.set_yticks(at, [_shortened(text) for text in rows["text"]], fontsize=7)
        else:
            ax.set_ylabel("segment")
        ax.invert_yaxis()
        ax.set_xlabel("segment score: log(1 + mean margin in nat)")
        ax.set_title(f"Rollout {rows['rollout'][0]} under {name}")
        legend_below(ax)
        return ax


def _shortened(text: str) -> str:
    """Make one short line of a segment."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_CHARACTERS else line[: TEXT_CHARACTERS - 1] + "…"
