"""Draw what was learned, and by which tokens: `teachability` and `teachability_contrast`."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from opd_diag.plots.style import (
    CONTROL,
    WIDE,
    bars,
    colour,
    interval,
    legend_below,
    nothing,
    panel,
    style,
)
from opd_diag.plots.teachability_labels import counts, gain, leading, pair, why
from opd_diag.tables.columns.teachability import MATCHED, PLANE, WORDS
from opd_diag.tables.columns.tokens import KL_NAMES

HATCHED = "\nhatched: too few tokens or prompts for an interval"
SCORES = {
    "d_learn": "D_learn: divergent and compatible",
    "d_incompat": "D_incompat: divergent and not compatible",
}


def teachability(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the gain by tenths of D_learn and D_incompat, beside the mean of all tokens.

    Args:
        table: `teachability`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax)
        kl = leading(table)
        rows = table.filter(pl.col("gain").is_not_null(), group="all", kl=kl)
        if rows.is_empty():
            return nothing(ax, why(table))
        for i, (feature, label) in enumerate(SCORES.items()):
            tenth = rows.filter(feature=feature)
            at = [place + 0.16 * (2 * i - 1) for place in tenth["bin"]]
            bars(ax, at, *interval(tenth, "gain"), colour=colour(i), label=label)
        whole = rows.filter(feature="all")
        ax.axhline(whole["gain"][0], color=CONTROL, linestyle="--", label="all tokens")
        ax.set_xticks(range(10), [str(tenth) for tenth in range(1, 11)])
        ax.set_xlabel("tenth of the tokens by the feature before training")
        ax.set_ylabel(gain(kl))
        ax.set_title(f"Gain at fixed contexts, {pair(whole)} ({counts(whole)})")
        ax.legend()
        return ax


def teachability_groups(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean gain of every group of tokens.

    Args:
        table: `teachability`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax)
        kl = leading(table)
        rows = table.filter(pl.col("gain").is_not_null(), feature="all", kl=kl)
        if rows.is_empty():
            return nothing(ax, why(table))
        at = list(range(rows.height))
        bars(ax, at, *interval(rows, "gain"), colour=colour(0), horizontal=True)
        ax.axvline(0, color=CONTROL, linewidth=0.8)
        groups = zip(rows["group"], rows["n"], strict=True)
        ax.set_yticks(
            range(rows.height), [f"{WORDS.get(group, group)} ({n:,})" for group, n in groups]
        )
        ax.invert_yaxis()
        ax.set_xlabel(gain(kl))
        ax.set_ylabel("group (tokens)")
        ax.set_title(f"Gain by group, {pair(rows)}")
        return ax


def teachability_plane(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the plane of entropy and divergence, coloured by the mean gain.

    Cells without an interval, of few tokens or prompts, are hatched and not coloured.

    Args:
        table: `teachability`.
        ax: Where to draw; None: a new figure.
    """
    return _plane(table, ax, "gain", gain(leading(table)), "Gain by entropy and divergence")


def teachability_plane_compatibility(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the plane of entropy and divergence, coloured by the mean compatibility.

    Args:
        table: `teachability`.
        ax: Where to draw; None: a new figure.
    """
    title = "Compatibility by entropy and divergence"
    return _plane(table, ax, "compatibility", "mean compatibility (share)", title)


def _plane(table: pl.DataFrame, ax: Axes | None, value: str, label: str, title: str) -> Axes:
    with style():
        ax = panel(ax)
        cells = table.filter(pl.col("bin").is_not_null(), feature=PLANE, kl=leading(table))
        if cells[value].null_count() == cells.height:
            return nothing(ax, why(table))
        sure = pl.when(pl.col(f"{value}_low").is_not_null()).then(pl.col(value))
        cells = cells.sort("other_bin", "bin").with_columns(shown=sure)
        if cells["shown"].null_count() == cells.height:
            return nothing(ax, "no cell has tokens enough for an interval")
        for row in cells.filter(pl.col("n") > 0, pl.col("shown").is_null()).to_dicts():
            corner = row["bin"] - 0.5, row["other_bin"] - 0.5
            ax.add_patch(Rectangle(corner, 1, 1, facecolor="#F2F2F2", edgecolor="#BBBBBB",
                                   hatch="////", linewidth=0))  # fmt: skip
        grid = cells["shown"].fill_null(float("nan")).to_numpy()
        # Gains may have both signs: white is none. Compatibility has one.
        most = float(cells["shown"].abs().max() or 1)  # type: ignore[arg-type]
        look = {"cmap": "RdBu_r", "vmin": -most, "vmax": most} if value == "gain" else {}
        image = ax.imshow(grid.reshape(10, 10), origin="lower", aspect="auto", **look)  # type: ignore[arg-type]
        ax.grid(visible=False)
        ax.figure.colorbar(image, ax=ax, label=label)
        for axis, prefix, place in ((ax.xaxis, "bin", "bin"), (ax.yaxis, "other", "other_bin")):
            edges = cells.unique(place).sort(place)[f"{prefix}_high"]
            axis.set_ticks([b + 0.5 for b in range(1, 9, 2)])
            axis.set_ticklabels([f"{edges[b]:.2g}" for b in range(1, 9, 2)])
        ax.axhline(4.5, color=CONTROL, linewidth=1)
        ax.axvline(4.5, color=CONTROL, linewidth=1)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
        ax.text(0.03, 0.97, WORDS["Q3"], transform=ax.transAxes, va="top", size="small", bbox=box)
        hatched = cells["shown"].null_count() > cells.filter(n=0).height
        ax.set_xlabel(f"student entropy (nat), by tenths{HATCHED if hatched else ''}")
        ax.set_ylabel("divergence (nat), by tenths")
        ax.set_title(f"{title}, {pair(cells)}")
        return ax


def teachability_contrast(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw both contrasts of compatibility, each with what it is where compatibility cannot matter.

    Args:
        table: `teachability_contrast`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=WIDE)
        rows = table.filter(pl.col("difference").is_not_null())
        rows = rows.sort(pl.col("contrast") != MATCHED, maintain_order=True)
        if rows.is_empty():
            return nothing(ax, why(table))
        places = list(range(rows.height))
        label = "observed, 95 % interval over prompts"
        difference = interval(rows, "difference")
        bars(ax, places, *difference, colour=colour(0), label=label, horizontal=True)
        matched = [i for i, name in enumerate(rows["contrast"]) if name == MATCHED]
        if adjusted := [place + 0.2 for place in matched]:
            label = "what entropy, divergence and position tell taken out of the gain"
            rest = interval(rows[matched], "adjusted")
            bars(ax, adjusted, *rest, colour=colour(1), label=label, horizontal=True)
        bars(
            ax,
            [place + 0.4 for place in places],
            *interval(rows, "null"),
            colour=CONTROL,
            label="where compatibility cannot matter",
            horizontal=True,
        )
        ax.axvline(0, color=CONTROL, linewidth=0.8)
        ax.set_yticks(places, [_contrast_label(row) for row in rows.iter_rows(named=True)])
        ax.set_ylim(rows.height - 0.4, -0.6)
        ax.set_xlabel("gain of compatible minus gain of incompatible tokens (nat)")
        ax.set_title(f"Gain of compatible minus incompatible tokens, {pair(rows)}")
        legend_below(ax)
        return ax


def _contrast_label(row: dict[str, object]) -> str:
    name = KL_NAMES[str(row["kl"])]
    if row["contrast"] == MATCHED:
        return f"{row['n_pairs']:,} matched pairs,\n{name}"
    return f"{row['n']:,} sure, divergent tokens,\n{name}"
