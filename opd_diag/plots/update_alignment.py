"""Draw which tokens an update served: shares beside controls, and first order against fact."""

import polars as pl
from matplotlib.axes import Axes

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

MOST_POINTS = 5_000


def update_alignment(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw each group's share of the first-order decrease beside its controls.

    Args:
        table: `update_alignment`; the first update under which KL decreases is drawn.
        ax: Where to draw; None: a new figure.
    """
    rows = _first_update(
        table.filter(
            pl.col("kl") == "reverse_kl", pl.col("split") != "all", pl.col("share").is_not_null()
        )
    )
    with style():
        ax = panel(ax, size=(8.0, 1.4 + 0.36 * max(rows.height, 3)))
        if rows.is_empty():
            return nothing(ax, "KL does not decrease to first order")
        place = list(map(float, range(rows.height)))
        label = "share of the first-order decrease"
        bars(ax, place, *interval(rows, "share"), colour=colour(0), label=label, horizontal=True)
        ax.plot(
            rows["shifted_share"], place, "|", color=colour(1), markersize=14, markeredgewidth=2,
            label="the same groups moved inside the rollouts", linestyle="",
        )  # fmt: skip
        ax.plot(
            rows["token_share"], place, "o", color=CONTROL, label="share of the tokens",
            linestyle="", fillstyle="none",
        )  # fmt: skip
        if not rows["later_share"].is_null().all():
            ax.plot(
                rows["later_share"], place, "x", color=colour(2), linestyle="",
                label="the same groups under the next update",
            )  # fmt: skip
        ax.set_yticks(place, [readable(group) for group in rows["group"]])
        ax.set(
            ylim=(rows.height - 0.5, -0.5),
            xlabel="share",
            title=f"What the update to {readable(rows['checkpoint'][0])} served, to first order",
        )
        legend_below(ax)
    return ax


def update_tokens(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the realised change of every token's KL against its first-order change.

    Args:
        table: `update_tokens`; the first update is drawn, and of over 5,000 tokens every n-th.
        ax: Where to draw; None: a new figure.
    """
    known = _first_update(table).drop_nulls(["first_order_reverse_kl", "realised_reverse_kl"])
    rows = known.gather_every(max(1, -(-known.height // MOST_POINTS)))
    with style():
        ax = panel(ax)
        if rows.is_empty():
            return nothing(ax, "no token with both changes")
        first = rows["first_order_reverse_kl"].to_numpy()
        realised = rows["realised_reverse_kl"].to_numpy()
        ends = [min(first.min(), realised.min()), max(first.max(), realised.max())]
        ax.plot(ends, ends, color=CONTROL, label="equal: the update acts linearly")
        ax.plot(first, realised, ".", color=colour(0), markersize=3, alpha=0.5, linestyle="")
        ax.set_xscale("symlog", linthresh=0.01)
        ax.set_yscale("symlog", linthresh=0.01)
        plain_powers(ax)
        ax.set(
            xlabel="first-order change of KL(student ‖ teacher) (nat)",
            ylabel="realised change (nat)",
            title=f"Tokens under the update to {readable(rows['checkpoint'][0])}",
        )
        legend_below(ax)
    return ax


def _first_update(table: pl.DataFrame) -> pl.DataFrame:
    """Keep the rows of the first update of a table."""
    return table.filter(pl.col("checkpoint").is_in(table["checkpoint"].head(1).to_list()))
