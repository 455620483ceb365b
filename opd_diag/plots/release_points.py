"""Draw the tables of `release_points`."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import (
    CONTROL,
    SINGLE,
    TALL,
    THRESHOLD,
    WIDE,
    bars,
    colour,
    counted,
    interval,
    legend_below,
    nothing,
    panel,
    style,
)
from opd_diag.tables.columns.release_points import GAINS, LINE_SEGMENTS

DASHES = ("-", (0, (5, 1)), (0, (2, 1)), "-.")
TEXT_SEGMENTS = 40  # more lines of text than this cannot be read in a figure
TEXT_CHARACTERS = 70

CARRIED = {"reverse_kl": "reverse KL", "grad_logits": "gradient norm", "margin": "margin"}

CONTROLS = {
    "accepted": "downward",
    "accepted_up": "upward",
    "accepted_shuffled": "downward,\nsegments shuffled",
    "step_beats_line": f"step beats a line\n(accepted, with\n{LINE_SEGMENTS} segments)",
}


def release_points(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how much each rollout gains by a downward shift, with both thresholds.

    Args:
        table: `release_points`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
        gains = table.filter(pl.col("gain").is_not_null())
        if gains.is_empty():
            return nothing(ax, "no rollout has a downward split")
        bins = np.histogram_bin_edges(gains["gain"].to_numpy(), "auto").tolist()
        for i, (name, rows) in enumerate(_checkpoints(gains)):
            label = f"{name} ({counted(rows.height, 'rollout')})"
            _outline(ax, rows["gain"], bins, i, label)
        for threshold, dash in zip(GAINS, (":", "--"), strict=True):
            ax.axvline(threshold, color=THRESHOLD, linestyle=dash, label=f"gain {threshold}")
        ax.set_xlabel("BIC gain of one downward shift over one mean (nat)")
        ax.set_ylabel("rollouts")
        ax.set_title("Gain of a release point")
        legend_below(ax)
        return ax


def release_points_positions(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw where in the response the accepted release points stand.

    Args:
        table: `release_points`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
        accepted = table.filter("accepted")
        if accepted.is_empty():
            return nothing(ax, "no release point was accepted")
        for i, (name, rows) in enumerate(_checkpoints(accepted)):
            label = f"{name} ({rows.height:,} released)"
            _outline(ax, rows["release_frac"], np.linspace(0, 1, 21).tolist(), i, label)
        ax.set_xlim(0, 1)
        ax.set_xlabel("release point (share of the response's tokens)")
        ax.set_ylabel("rollouts")
        ax.set_title("Where release points stand")
        legend_below(ax)
        return ax


def release_summary(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the accepted share beside its controls: up, shuffled, straight line.

    Args:
        table: `release_summary`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
        if table.is_empty():
            return nothing(ax, "no rollout was summarised")
        order = pl.DataFrame({"statistic": list(CONTROLS), "place": range(len(CONTROLS))})
        rule = table.filter(pl.col("statistic") == "accepted")
        main_k, threshold = rule["k"].unique(), rule["threshold"][0]
        shown = table.filter((pl.col("split") == "all") & pl.col("k").is_in(main_k.implode())).join(
            order, on="statistic"
        )
        for i, (name, rows) in enumerate(_checkpoints(shown)):
            at = (rows["place"] + _offset(i)).to_list()
            values = interval(rows, "value")
            bars(ax, at, *values, colour=colour(i), label=name, horizontal=True)
        for place, reason in _missing(shown):
            words = ax.text(0.01, place, reason, color=CONTROL, va="center")
            words.set_in_layout(False)  # or the row would narrow the axes
        ax.set_yticks(range(len(CONTROLS)), list(CONTROLS.values()))
        ax.set_ylim(len(CONTROLS) - 0.4, -0.4)
        ax.set_xlim(left=-0.02 * ax.get_xlim()[1])
        short = table.filter(pl.col("split") == "all", pl.col("statistic") == "too_few_segments")
        left_out = max(share for share in [*short["value"], 0.0] if share is not None)
        ax.set_xlabel(f"share of the rollouts\n(left out, too few segments: up to {left_out:.1%})")
        ax.set_title(f"Rollouts with a shift of the margin above the threshold {threshold:g}")
        legend_below(ax)
        return ax


def release_correlation(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the correlation of student and teacher log-probs, late against early.

    Args:
        table: `release_correlation`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=(4.8, 5.2))
        known = table.drop_nulls(["pearson_early", "pearson_late"])
        if known.is_empty():
            return nothing(ax, "no rollout has enough tokens on both sides")
        ends = known.select(
            low=pl.min_horizontal(pl.col("pearson_early", "pearson_late").min()),
            high=pl.max_horizontal(pl.col("pearson_early", "pearson_late").max()),
        ).row(0)
        # A square around the points: correlations of one run mostly lie in a corner of [-1, 1].
        edge = 0.05 * (ends[1] - ends[0]) or 0.05
        view = max(ends[0] - edge, -1.02), min(ends[1] + edge, 1.02)
        ax.plot(view, view, color=CONTROL, linewidth=1, label="no change")
        for i, (name, rows) in enumerate(_checkpoints(known)):
            ax.scatter(
                rows["pearson_early"],
                rows["pearson_late"],
                s=12,
                alpha=0.5,
                linewidths=0,
                color=colour(i),
                label=f"{name} ({counted(rows.height, 'rollout')})",
            )
        ax.set_xlim(view)
        ax.set_ylim(view)
        ax.set_aspect("equal")
        ax.set_xlabel("correlation in the first 20 % of the response")
        ax.set_ylabel("correlation in the last 20 %")
        ax.set_title("Student against teacher log-probs of the tokens")
        legend_below(ax)
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
            lift = interval(own, "lift")
            at = (own["place"] + _offset(i)).to_list()
            bars(ax, at, *lift, colour=colour(i), label=CARRIED[quantity], horizontal=True)
        ax.axvline(1, color=CONTROL, linewidth=1)
        shares = dict(shown.select("window", "token_share").iter_rows())
        ax.set_yticks(range(len(windows)), [f"{w} ({shares[w]:.0%} of tokens)" for w in windows])
        ax.invert_yaxis()
        ax.set_xlabel("per token kept / per token")
        ax.set_title(f"What the kept tokens carry: {name}")
        legend_below(ax)
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


def _outline(ax: Axes, values: pl.Series, bins: list[float], i: int, label: str) -> None:
    """Draw the i-th histogram as steps: fills of several would hide one another."""
    ax.hist(
        values.to_numpy(),
        bins=bins,
        histtype="step",
        color=colour(i),
        linestyle=DASHES[i % len(DASHES)],
        linewidth=plt.rcParams["lines.linewidth"],
        label=label,
    )


def _missing(rows: pl.DataFrame) -> Iterator[tuple[int, str]]:
    """Give place and reason of each statistic that no checkpoint has a value of."""
    for own in rows.partition_by("place", maintain_order=True):
        if own["value"].is_null().all():
            rollouts = max(own["n"].to_list())
            reason = next(iter(own["reason"].drop_nulls()), "no value")
            text = f"{reason}\n({counted(rollouts, 'rollout')})" if rollouts else "no such rollout"
            yield own["place"][0], text


def _checkpoints(table: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Give each checkpoint and its rows, in the order of the table."""
    for rows in table.partition_by("checkpoint", maintain_order=True):
        yield rows["checkpoint"][0], rows


def _offset(i: int) -> float:
    """Move the i-th series off the row it shares with others."""
    return 0.16 * i


def _shortened(text: str) -> str:
    """Make one short line of a segment."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_CHARACTERS else line[: TEXT_CHARACTERS - 1] + "…"
