"""Draw the tables of selectors, their overlap, the models and the definitions of compatibility."""

import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import (
    CONTROL,
    TALL,
    WIDE,
    band,
    bars,
    colour,
    counted,
    interval,
    legend_below,
    nothing,
    panel,
    style,
)
from opd_diag.plots.teachability_labels import gain, leading, pair, why
from opd_diag.tables.columns.teachability import RANDOM, WORDS

BUDGET = 0.10
DASHES = ("-", "--")  # the palette is used twice: seven colours, up to eleven selectors
NOT_DRAWN = ("position",)
LOCAL = "local compatibility"  # what is drawn of the model `local`
DEFINITIONS = {
    "teacher_mass": "teacher's mass on the student's top K",
    "overlap": "overlap of both top K",
    "teacher_top": "teacher's best in the student's top K",
}


def teachability_selectors(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean gain of what each selector chooses, by budget.

    Args:
        table: `teachability_selectors`.
        ax: Where to draw; None: a new figure.
    """
    return _by_budget(table, ax, "gain", gain(leading(table)), "Gain of the chosen tokens")


def teachability_selectors_captured(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the share of all gain that each selector captures, by budget.

    Args:
        table: `teachability_selectors`.
        ax: Where to draw; None: a new figure.
    """
    return _by_budget(table, ax, "captured", "share of all gain", "Gain captured")


def _by_budget(table: pl.DataFrame, ax: Axes | None, name: str, label: str, title: str) -> Axes:
    with style():
        ax = panel(ax, size=WIDE)
        rows = table.filter(pl.col(name).is_not_null(), kl=leading(table))
        if rows.is_empty():
            return nothing(ax, why(table))
        for i, (selector, of) in enumerate(_groups(rows, "selector")):
            line = of.sort("budget")
            band(
                ax,
                line["actual_budget"].to_list(),
                *interval(line, name),
                colour=CONTROL if selector == RANDOM else colour(i),
                label=WORDS.get(selector, selector),
                linestyle=":" if selector == RANDOM else DASHES[i // 7],
            )
        for interval_band in ax.collections:  # up to eleven lie over one another
            interval_band.set_alpha(0.1)
        ax.set_xscale("log")
        ticks = sorted(set(rows["budget"]))
        ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks], minor=False)
        ax.set_xticks([], minor=True)
        whole = "the run" if rows["budget_per"][0] == "run" else "each rollout"
        ax.set_xlabel(f"share of the tokens chosen (of {whole})")
        ax.set_ylabel(label)
        ax.set_title(f"{title}, {pair(rows)} ({counted(max(rows['n_prompts']), 'prompt')})")
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return ax


def teachability_overlap(
    table: pl.DataFrame, *, budget: float = BUDGET, ax: Axes | None = None
) -> Axes:
    """Draw the Jaccard of every two selectors as a matrix.

    Args:
        table: `teachability_overlap`.
        budget: Share of the tokens; the nearest in the table is drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=(7.5, 6.2))
        if table.is_empty():
            return nothing(ax, why(table))
        near = min(set(table["budget"]), key=lambda b: abs(b - budget))
        rows = table.filter(pl.col("budget") == near)
        names = rows["selector"].unique(maintain_order=True).to_list()
        place = {name: i for i, name in enumerate(names)}
        grid = [[float("nan")] * len(names) for _ in names]
        for row in rows.filter(pl.col("jaccard").is_not_null()).iter_rows(named=True):
            i, j = place[row["selector"]], place[row["other"]]
            grid[i][j] = grid[j][i] = row["jaccard"]
        image = ax.imshow(grid, vmin=0, vmax=1, cmap="viridis")
        for i, values in enumerate(grid):
            for j, value in enumerate(values):
                if value == value:  # not NaN
                    shade = "black" if value > 0.6 else "white"
                    ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=shade, size=8)
        ax.grid(visible=False)
        ax.figure.colorbar(image, ax=ax, label="Jaccard (share)")
        ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
        ax.set_yticks(range(len(names)), names)
        n = max(rows.filter(pl.col("selector") == pl.col("other"))["n"])
        ax.set_title(f"Tokens shared by two selectors at {near:.0%} (up to {n:,} tokens each)")
        return ax


def teachability_models(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the standardised coefficients of the models, all tokens and without the largest gains.

    Args:
        table: `teachability_models`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=(WIDE[0], 5.5))
        rows = table.filter(pl.col("standard").is_not_null(), kl=leading(table))
        rows = rows.filter(pl.col("model") != "base", ~pl.col("term").is_in(NOT_DRAWN))
        rows = rows.filter((pl.col("model") != "local") | (pl.col("term") == LOCAL))
        if rows.is_empty():
            return nothing(ax, why(table))
        labels = [
            f"{model}: {term}"
            for model, term in rows.select("model", "term").unique(maintain_order=True).rows()
        ]
        for i, trimmed in enumerate((False, True)):
            of = rows.filter(pl.col("trimmed") == trimmed)
            names = zip(of["model"], of["term"], strict=True)
            at = [labels.index(f"{model}: {term}") + 0.3 * i for model, term in names]
            label = "without the largest 0.5 % of |gain|" if trimmed else "all tokens"
            bars(ax, at, *interval(of, "standard"), colour=colour(i), label=label, horizontal=True)
        ax.axvline(0, color=CONTROL, linewidth=0.8)
        ax.set_yticks(range(len(labels)), labels)
        ax.invert_yaxis()
        ax.set_xlabel("standardised coefficient (SD of gain per SD of term)")
        ax.set_title(f"Least squares of the gain, {pair(rows)}")
        ax.legend()
        return ax


def teachability_support(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what each definition of compatibility tells beyond the base model, by K.

    Args:
        table: `teachability_support`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
        rows = table.filter(pl.col("standard").is_not_null(), kl=leading(table))
        if rows.is_empty():
            return nothing(ax, why(table))
        ks = rows["k"].unique().sort().to_list()
        for i, (definition, of) in enumerate(_groups(rows, "definition")):
            at = [ks.index(k) + 0.2 * (i - 1) for k in of["k"]]
            label = DEFINITIONS[definition]
            bars(ax, at, *interval(of, "standard"), colour=colour(i), label=label)
        ax.axhline(0, color=CONTROL, linewidth=0.8)
        ax.set_xticks(range(len(ks)), [str(k) for k in ks])
        ax.set_xlabel("K (tokens)")
        ax.set_ylabel("standardised coefficient of\nlocal compatibility (SD per SD)")
        ax.set_title(f"Definitions of compatibility, {pair(rows)} ({rows['n_local'][0]:,} tokens)")
        legend_below(ax)
        return ax


def _groups(rows: pl.DataFrame, column: str) -> list[tuple[str, pl.DataFrame]]:
    names = rows[column].unique(maintain_order=True)
    return [(name, rows.filter(pl.col(column) == name)) for name in names]
