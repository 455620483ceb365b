"""Draw where in their rollouts the low-KL stretches lie."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from opd_diag.plots.style import (
    CONTROL,
    TALL,
    THRESHOLD,
    WIDE,
    colour,
    counted,
    legend_below,
    nothing,
    panel,
    plain_powers,
    style,
)

OUTCOMES = {True: "correct", False: "wrong", None: "outcome unknown"}
DASHES = ("-", (0, (5, 1)), (0, (2, 1)))
MOST_SPLIT = 2  # checkpoints: the lines of more cannot be told apart
LEAST_SHOWN = 1e-4  # nat: below this all is one colour


def agreement_traps(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw where the cuts stand: by outcome for one or two checkpoints, all together for more.

    Args:
        table: `agreement_traps`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
        cut = table.filter("triggered")
        if cut.is_empty():
            return nothing(ax, "the rule fires on no rollout")
        bins = np.linspace(0, 1, 21).tolist()
        names = cut["checkpoint"].unique(maintain_order=True)
        split = len(names) <= MOST_SPLIT
        for i, name in enumerate(names):
            own = cut.filter(pl.col("checkpoint") == name)
            parts = {
                label: own.filter(pl.col("correct").eq_missing(pl.lit(outcome)))
                for outcome, label in OUTCOMES.items()
            }
            counts = ", ".join(f"{r.height:,} {label}" for label, r in parts.items() if r.height)
            whole = f"{name} ({counts})"
            for label, rows in parts.items() if split else ((whole, own),):
                if not rows.is_empty():
                    n = counted(rows.height, "rollout")
                    ax.hist(
                        rows["cut_frac"].to_numpy(),
                        bins=bins,
                        histtype="step",
                        color=colour(i),
                        linestyle=DASHES[list(parts).index(label) if split else i % len(DASHES)],
                        linewidth=plt.rcParams["lines.linewidth"],
                        label=f"{name}, {label} ({n})" if split else label,
                    )
        ax.set_xlim(0, 1)
        ax.set_xlabel("tokens before the cut (share of the rollout)")
        ax.set_ylabel("rollouts")
        together = "by outcome" if split else "correct and wrong together"
        ax.set_title(f"Where the low-KL stretch begins ({together})")
        legend_below(ax)
        return ax


def trap_map(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the KL of all rollouts, one line each, sorted by onset, with the cut marked.

    Args:
        table: `trap_map`; its first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=(7.2, 5.2))
        if table.is_empty():
            return nothing(ax, "no rollout has tokens")
        name, rows = _first(table)
        cells = rows.pivot("start", index="row", values="mean_kl").sort("row").drop("row")
        edges = sorted({*rows["start"].to_list(), int(rows["end"].max())})  # type: ignore[arg-type]
        values = cells.select(str(edge) for edge in edges[:-1]).to_numpy()
        shown = np.ma.masked_invalid(np.maximum(values.astype(float), LEAST_SHOWN))
        low, high = float(shown.min()), max(float(shown.max()), 10 * LEAST_SHOWN)
        mesh = ax.pcolormesh(
            edges,
            np.arange(values.shape[0] + 1),
            shown,
            cmap="viridis",
            norm=LogNorm(low, high),
            rasterized=True,
        )
        cuts = rows.unique("row", keep="first").filter(pl.col("cut").is_not_null())
        ax.plot(cuts["cut"], cuts["row"] + 0.5, ".", color="#FFFFFF", markersize=4, label="cut")
        ax.plot(cuts["cut"], cuts["row"] + 0.5, ".", color="#D55E00", markersize=2.5)
        figure = ax.get_figure(root=True)
        assert figure is not None
        bar = figure.colorbar(mesh, ax=ax, label="mean KL(student ‖ teacher) (nat)")
        plain_powers(bar.ax)
        ax.invert_yaxis()
        ax.grid(visible=False)
        ax.set_xlabel("position (tokens in the loss)")
        ax.set_ylabel("rollout, by onset")
        drawn = values.shape[0]
        ax.set_title(
            f"{name}: {counted(drawn, 'rollout')}, the rule fires on {cuts.height:,} (points: cut)"
        )
        return ax


def trap_trace(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the windowed KL of one rollout with its threshold and phases.

    Args:
        table: `trap_trace`; its first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=WIDE)
        if table.is_empty():
            return nothing(ax, "no rollout is as long as a window")
        name, rows = _first(table)
        position = rows["position"]
        ax.plot(position, rows["kl"], color=CONTROL, alpha=0.4, linewidth=0.7, label="KL")
        ax.plot(position, rows["mean_kl"], color=colour(0), label="mean of the window ending here")
        ax.plot(position, rows["threshold"], color=THRESHOLD, linestyle="--", label="threshold")
        inside = rows.filter(pl.col("phase") == "agreement")["position"]
        if not inside.is_empty():
            ends = float(inside[0]) - 0.5, float(inside[-1]) + 0.5
            ax.axvspan(*ends, color=colour(4), alpha=0.15, linewidth=0, label="low-KL stretch")
        # Single tokens reach far above any window: what stands out of the frame is cut off.
        highest = rows.select(pl.max_horizontal("mean_kl", "threshold").max()).item()
        ax.set_ylim(0, 2.5 * highest if highest else None)
        ax.set_xlabel("position (tokens)")
        ax.set_ylabel("KL(student ‖ teacher) (nat)")
        ax.set_title(f"{name}: rollout {rows['rollout'][0]}, {rows.height:,} tokens")
        legend_below(ax)
        return ax


def _first(table: pl.DataFrame) -> tuple[str, pl.DataFrame]:
    """Return the first checkpoint's name and rows."""
    name = str(table["checkpoint"][0])
    return name, table.filter(pl.col("checkpoint") == name)
