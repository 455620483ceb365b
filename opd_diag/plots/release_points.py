"""Draw the tables of `release_points`."""

from collections.abc import Iterator

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import (
    CONTROL,
    SINGLE,
    THRESHOLD,
    WIDE,
    bars,
    colour,
    nothing,
    panel,
    style,
)

THRESHOLDS = (0, 6)
TEXT_SEGMENTS = 40  # more lines of text than this cannot be read in a figure
TEXT_CHARACTERS = 70

CONTROLS = {
    "accepted_at_6": "downward",
    "accepted_up_at_6": "upward",
    "accepted_shuffled_at_6": "downward, segments shuffled",
    "step_beats_line": "step beats a line\n(accepted, 100 segments or more)",
}


def release_points(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how much each rollout gains by a downward shift, with both thresholds.

    Args:
        table: `release_points`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax)
        gains = table.filter(pl.col("gain").is_not_null())
        if gains.is_empty():
            return nothing(ax, "no rollout has a downward split")
        bins = np.histogram_bin_edges(gains["gain"].to_numpy(), "auto").tolist()
        for i, (name, rows) in enumerate(_checkpoints(gains)):
            ax.hist(
                rows["gain"].to_numpy(),
                bins=bins,
                histtype="stepfilled",
                facecolor=(colour(i), 0.2),
                edgecolor=colour(i),
                label=f"{name} ({rows.height:,} rollouts)",
            )
        for threshold, dash in zip(THRESHOLDS, (":", "--"), strict=True):
            ax.axvline(threshold, color=THRESHOLD, linestyle=dash, label=f"gain {threshold}")
        ax.set_xlabel("BIC gain of one downward shift over one mean (nat)")
        ax.set_ylabel("rollouts")
        ax.set_title("Gain of a release point")
        ax.legend()
        return ax


def release_points_positions(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw where in the response the accepted release points stand.

    Args:
        table: `release_points`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax)
        accepted = table.filter("accepted")
        if accepted.is_empty():
            return nothing(ax, "no release point was accepted")
        for i, (name, rows) in enumerate(_checkpoints(accepted)):
            ax.hist(
                rows["release_frac"].to_numpy(),
                bins=np.linspace(0, 1, 21).tolist(),
                histtype="stepfilled",
                facecolor=(colour(i), 0.2),
                edgecolor=colour(i),
                label=f"{name} ({rows.height:,} released)",
            )
        ax.set_xlim(0, 1)
        ax.set_xlabel("release point (share of the response's tokens)")
        ax.set_ylabel("rollouts")
        ax.set_title("Where release points stand")
        ax.legend()
        return ax


def release_summary(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the accepted share beside its controls: up, shuffled, straight line.

    Args:
        table: `release_summary`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax)
        if table.is_empty():
            return nothing(ax, "no rollout was summarised")
        order = pl.DataFrame({"statistic": list(CONTROLS), "place": range(len(CONTROLS))})
        main_k = table.filter(pl.col("statistic") == "accepted_up_at_6")["k"].unique()
        shown = table.filter((pl.col("split") == "all") & pl.col("k").is_in(main_k.implode())).join(
            order, on="statistic"
        )
        for i, (name, rows) in enumerate(_checkpoints(shown)):
            at = (rows["place"] + _offset(i)).to_list()
            drawn = (rows["value"], rows["value_low"], rows["value_high"])
            bars(ax, at, *drawn, colour=colour(i), label=name, horizontal=True)
        paper = shown.filter(pl.col("paper").is_not_null())
        ax.plot(paper["paper"], paper["place"], "D", color=CONTROL, label="paper", markersize=5)
        ax.set_yticks(range(len(CONTROLS)), list(CONTROLS.values()))
        ax.invert_yaxis()
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel("share of rollouts with gain above 6 nat")
        ax.set_title("The rule and its controls")
        ax.legend()
        return ax


def release_correlation(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the correlation of student and teacher log-probs, late against early.

    Args:
        table: `release_correlation`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=(4.8, 4.8))
        known = table.drop_nulls(["pearson_early", "pearson_late"])
        if known.is_empty():
            return nothing(ax, "no rollout has enough tokens on both sides")
        ax.plot([-1, 1], [-1, 1], color=CONTROL, linewidth=1)
        for i, (name, rows) in enumerate(_checkpoints(known)):
            ax.scatter(
                rows["pearson_early"],
                rows["pearson_late"],
                s=12,
                alpha=0.5,
                linewidths=0,
                color=colour(i),
                label=f"{name} ({rows.height:,} rollouts)",
            )
        ax.set_xlim(-1, 1)
        ax.set_ylim(-1, 1)
        ax.set_aspect("equal")
        ax.set_xlabel("correlation in the first 20 % of the response")
        ax.set_ylabel("correlation in the last 20 %")
        ax.set_title("Student against teacher log-probs of the tokens")
        ax.legend(loc="lower right")
        return ax


def release_budgets(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what a kept token carries, for each window, relative to any token.

    Args:
        table: `release_budgets`, of which the first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=(6.4, 5.2))
        if table.is_empty():
            return nothing(ax, "no window was compared")
        name, rows = next(_checkpoints(table))
        kept = pl.col("token_share") < 1
        windows = rows.filter(kept)["window"].unique(maintain_order=True).to_list()
        if not windows:
            return nothing(ax, "every window keeps all tokens")
        place = pl.col("window").replace_strict(windows, range(len(windows)), default=None)
        shown = rows.with_columns(place=place).filter(pl.col("place").is_not_null())
        for i, quantity in enumerate(shown["quantity"].unique(maintain_order=True)):
            own = shown.filter(pl.col("quantity") == quantity)
            drawn = (own["lift"], own["lift_low"], own["lift_high"])
            at = (own["place"] + _offset(i)).to_list()
            bars(ax, at, *drawn, colour=colour(i), label=quantity, horizontal=True)
        ax.axvline(1, color=CONTROL, linewidth=1)
        shares = dict(shown.select("window", "token_share").iter_rows())
        ax.set_yticks(range(len(windows)), [f"{w} ({shares[w]:.0%} of tokens)" for w in windows])
        ax.invert_yaxis()
        ax.set_xlabel("per token kept / per token")
        ax.set_title(f"What the kept tokens carry: {name}")
        ax.legend()
        return ax


def release_example(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw one rollout segment by segment, with the fitted means, the cut and the text.

    Args:
        table: `release_example`, of which the first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        if table.is_empty():
            return nothing(panel(ax), "no rollout has a segment")
        name, rows = next(_checkpoints(table))
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
        ax.legend()
        return ax


def _checkpoints(table: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Give each checkpoint and its rows, in the order of the table."""
    for rows in table.partition_by("checkpoint", maintain_order=True):
        yield rows["checkpoint"][0], rows


def _offset(i: int) -> float:
    """Move the i-th series off the row it shares with others."""
    return 0.16 * i


def _shortened(text: str) -> str:
    """Make one short line of a segment; a dollar sign is not the start of a formula."""
    line = " ".join(text.split()).replace("$", r"\$")
    return line if len(line) <= TEXT_CHARACTERS else line[: TEXT_CHARACTERS - 1] + "…"
