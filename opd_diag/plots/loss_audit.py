"""Draw usual losses beside the exact KL: their bias, the signs they flip, where they lose it."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from opd_diag.plots.style import (
    CONTROL,
    bars,
    colour,
    interval,
    legend_below,
    nothing,
    panel,
    plain_powers,
    readable,
    style,
)
from opd_diag.tables.columns.loss_audit import MARGIN

BIASED = ("k1", "k3", "k3_clamp_1", "student_top_4", "teacher_top_4", "teacher_top_4_bucket")
TICKS = (-100, -10, -5, -2, -1, 0, 0.5, 1, 2, 5, 10, 100, 1000)
NOTHING = "no token in the loss has an exact KL"


def loss_audit(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean of every estimator over the exact KL, with intervals.

    Args:
        table: `loss_audit`; the checkpoint that sampled the tokens is drawn, or the last one.
        ax: Where to draw; None: a new figure.
    """
    rows = _one_checkpoint(table).filter(pl.col("relative").is_not_null())
    with style():
        ax = panel(ax, size=(7.0, 1.2 + 0.24 * max(rows.height, 6)))
        if rows.is_empty():
            return nothing(ax, NOTHING)
        place = list(map(float, range(rows.height)))
        ax.axvspan(1 - MARGIN, 1 + MARGIN, color=CONTROL, alpha=0.2, linewidth=0)
        ax.axvline(1, color=CONTROL)
        for number, (own, label) in enumerate(((True, "the trainer's loss"), (False, "others"))):
            kept = [i for i, asked in enumerate(rows["trainer_loss"]) if asked is own]
            if kept:
                values = interval(rows[kept], "relative")
                bars(ax, [place[i] for i in kept], *values, colour=colour(1 - number), label=label,
                     horizontal=True)  # fmt: skip
        ax.set_yticks(place, [name.replace("_", " ") for name in rows["estimator"]])
        ax.set_xscale("symlog", linthresh=2)
        left, right = ax.get_xlim()
        ax.set_xticks([tick for tick in TICKS if left <= tick <= right])
        ax.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
        ax.set(
            ylim=(rows.height - 0.5, -0.5),
            xlabel="mean of the estimator over the exact KL\n(bars: 95 %; logarithmic beyond 2)",
            title=f"Losses beside the exact KL: {readable(rows['checkpoint'][0])}",
        )
        legend_below(ax)
    return ax


def loss_audit_flips(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw on how many tokens an estimator's gradient has the wrong sign, or is none.

    Args:
        table: `loss_audit`; the checkpoint that sampled the tokens is drawn, or the last one.
        ax: Where to draw; None: a new figure.
    """
    rows = _one_checkpoint(table).filter(pl.col("flips").is_not_null())
    with style():
        ax = panel(ax, size=(7.0, 1.2 + 0.24 * max(rows.height, 6)))
        if rows.is_empty():
            return nothing(ax, NOTHING)
        place = list(map(float, range(rows.height)))
        for number, (name, label) in enumerate(
            (("flips", "the wrong sign"), ("no_gradient", "no gradient"))
        ):
            shifted = [at + 0.3 * (number - 0.5) for at in place]
            values = interval(rows, name)
            bars(ax, shifted, *values, colour=colour(number), label=label, horizontal=True)
        ax.set_yticks(place, [name.replace("_", " ") for name in rows["estimator"]])
        ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        ax.set(
            ylim=(rows.height - 0.5, -0.5),
            xlabel="share of tokens, in the logit of the token itself (bars: 95 %)",
            title=f"Gradients beside the exact ones: {readable(rows['checkpoint'][0])}",
        )
        ax.set_xlim(left=0)
        legend_below(ax)
    return ax


def loss_bins(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what some estimators make of tokens of small and of large KL.

    Args:
        table: `loss_bins`; the first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    rows = table.filter(pl.col("checkpoint") == table["checkpoint"][0]) if table.height else table
    rows = rows.filter(pl.col("exact") > 0, pl.col("mean").is_not_null())
    with style():
        ax = panel(ax)
        shown = [name for name in BIASED if name in set(rows["estimator"])]
        if not shown:
            return nothing(ax, NOTHING)
        ends = [float(rows["exact"].min()), float(rows["exact"].max())]  # type: ignore[arg-type]
        ax.plot(ends, ends, color=CONTROL, label="the exact KL")
        for number, name in enumerate(shown):
            own = rows.filter(pl.col("estimator") == name).sort("exact")
            ax.plot(own["exact"], own["mean"], color=colour(number), marker="o", markersize=3,
                    label=name.replace("_", " "))  # fmt: skip
            ax.fill_between(own["exact"], own["mean_low"].cast(pl.Float64).fill_null(float("nan")),
                            own["mean_high"].cast(pl.Float64).fill_null(float("nan")),
                            color=colour(number), alpha=0.15, linewidth=0)  # fmt: skip
        ax.set_xscale("log")
        ax.set_yscale("symlog", linthresh=1e-3)
        plain_powers(ax)
        ax.set(
            xlabel="exact KL(student ‖ teacher) of a token (nat, two bins to a factor of ten)",
            ylabel="mean of the estimator (nat)",
            title=f"Where losses lose the KL: {readable(rows['checkpoint'][0])}",
        )
        legend_below(ax)
    return ax


def _one_checkpoint(table: pl.DataFrame) -> pl.DataFrame:
    """Keep the checkpoint that sampled the tokens, or the last one."""
    if table.is_empty():
        return table
    sampled = table.filter("sampled_here")
    name = (sampled if sampled.height else table)["checkpoint"][-1]
    return table.filter(pl.col("checkpoint") == name)
