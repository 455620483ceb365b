"""Draw the tables of lists, groups and rollouts: `rock_cutoff`, `rock_groups` and others."""

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import (
    CONTROL,
    TALL,
    THRESHOLD,
    WIDE,
    band,
    bars,
    colour,
    counted,
    interval,
    legend_below,
    legend_beside,
    nothing,
    panel,
    plain_powers,
    style,
)
from opd_diag.plots.token_strip import WIDTH, readable_words, token_strip
from opd_diag.plots.wrapping import wrapped
from opd_diag.tables.columns.rock_tokens import GROUPS, STABLE
from opd_diag.tables.columns.token_strip import TOKEN_STRIP
from opd_diag.tables.schema import polars_schema

PAPER_K = 100
MOST_LINES = 60  # of an example


def rock_cutoff(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how stable lists of K types are, and what they cover on other prompts.

    Args:
        table: `rock_cutoff`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=WIDE)
        if table["J_c"].is_null().all() and table["cross_coverage"].is_null().all():
            return nothing(ax, _reason(table))
        for i, name in enumerate(("R", "frequency")):
            rows = table.filter(selector=name)
            band(ax, rows["K"].to_list(), rows["J_c"], rows["J_c_p05"], rows["J_c_p95"],
                 colour=colour(i), label=f"agreement by {name}, 5-95 % of splits")  # fmt: skip
            coverage = interval(rows, "cross_coverage")
            band(ax, rows["K"].to_list(), *coverage, colour=colour(i),
                 label=f"coverage on the other half, by {name}", linestyle="--")  # fmt: skip
            suggested = rows["suggested_K"][0]
            if suggested is not None:
                ax.axvline(
                    suggested,
                    color=colour(i),
                    linestyle=":",
                    label=f"suggested by {name}: {suggested}",
                )
        ours = table.filter(selector="R")
        ax.plot(ours["K"], ours["coverage"], color=colour(0), linewidth=0.8,
                label="coverage by R on the rows that chose")  # fmt: skip
        ax.axhline(STABLE, color=CONTROL, linewidth=1)
        ax.axvline(PAPER_K, color=THRESHOLD, linewidth=1, linestyle="-.", label=f"paper: {PAPER_K}")
        ax.set_xscale("log")
        plain_powers(ax)
        ax.set_xticks(ours["K"].to_list(), [str(k) for k in ours["K"]], minor=False)
        ax.minorticks_off()
        ax.set_ylim(-0.05, 1.05)
        ax.set_xlabel("types in the list, K")
        ax.set_ylabel("agreement of halves, share of loss")
        ax.set_title(f"How many of {table['n'][0]:,} types: {table['checkpoint'][0]}")
        legend_beside(ax)
        return ax


def rock_selectors(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the lift of each selector's list on other prompts against its stability.

    Args:
        table: `rock_selectors`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
        shown = table.drop_nulls(["J_c", "cross_lift"])
        if shown.is_empty():
            return nothing(ax, _reason(table))
        for i, row in enumerate(shown.iter_rows(named=True)):
            ax.hlines(
                row["cross_lift"], row["J_c_p05"], row["J_c_p95"], color=colour(i), linewidth=1
            )
            ends = [row["cross_lift_low"]], [row["cross_lift_high"]]
            bars(
                ax,
                [row["J_c"]],
                [row["cross_lift"]],
                *ends,
                colour=colour(i),
                label=row["selector"],
            )
        ax.axhline(1, color=CONTROL, linewidth=1)
        ax.set_xlabel("agreement of two halves beyond chance (5-95 % of splits)")
        ax.set_ylabel("lift on the half that did not choose")
        ax.set_title(
            f"What a list of {table['K'][0]} is chosen by: stable, and more than frequency?"
        )
        legend_below(ax)
        return ax


def rock_groups(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the level of each group over the checkpoints, on other prompts and on those that chose.

    Args:
        table: `rock_groups`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=WIDE)
        names = table["checkpoint"].unique(maintain_order=True).to_list()
        at = list(range(len(names)))
        if table["level"].is_null().all():
            return nothing(ax, _reason(table))
        for i, group in enumerate(GROUPS):
            own = table.filter(group=group)
            other, same = (own.filter(measured_on=side) for side in ("other half", "same half"))
            level = interval(other, "level")
            band(ax, at, *level, colour=colour(i), label=f"{group}, other half")
            ax.plot(at, same["level"], color=colour(i), linestyle=":", marker="x", markersize=4,
                    label=f"{group}, the half that chose")  # fmt: skip
        ax.set_xticks(at, names)
        ax.set_xlabel("checkpoint")
        ax.set_ylabel(f"mean {table['loss'][0]} (nat)")
        ax.set_title(f"Groups of types over the checkpoints ({table['pairing'][0]})")
        legend_beside(ax)
        return ax


def rock_outputs(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how common rocks are in the rollouts: share of tokens and of loss.

    Args:
        table: `rock_outputs`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax)
        columns = {"rock_share": "share of tokens", "rock_loss_share": "share of loss"}
        known = {name: table[name].drop_nulls() for name in columns}
        if not known["rock_share"].len():
            return nothing(ax, "no rollout has a token in the loss")
        for i, (name, label) in enumerate(columns.items()):
            ax.hist(
                known[name].to_numpy(),
                bins=np.linspace(0, 1, 41).tolist(),
                histtype="stepfilled",
                facecolor=(colour(i), 0.2),
                edgecolor=colour(i),
                label=f"{label} ({counted(known[name].len(), 'rollout')})",
            )
        ax.set_xlim(0, 1)
        ax.set_xlabel("share of the rollout that rocks hold")
        ax.set_ylabel("rollouts")
        ax.set_title(f"Rocks in each rollout: {table['checkpoint'][0]}")
        legend_below(ax)
        return ax


def rock_example(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw one rollout token by token, coloured by loss, rocks underlined.

    Args:
        table: `rock_example`, of which at most 60 lines are drawn, as `token_strip` draws them.
        ax: Where to draw; None: a new figure, as high as the text needs.
    """
    with style():
        if table.is_empty() or table["value"].is_null().all():
            return nothing(panel(ax), "no rollout has a token in the loss")
        drawn = 1 + max(
            p.token for p in wrapped(readable_words(table), WIDTH) if p.line < MOST_LINES
        )
        ax = token_strip(_strip(table.head(drawn)), ax=ax)
        part = "" if drawn == table.height else f", its first {drawn:,} of {table.height:,} tokens"
        title = f"Rollout {table['rollout'][0]} under {table['checkpoint'][0]}{part}"
        ax.set_title(title, y=1, pad=9, parse_math=False, fontsize=8)
        return ax


def _reason(table: pl.DataFrame) -> str:
    """Say why a table has nothing to draw."""
    return "; ".join(table["reason"].drop_nulls().unique().sort()) or "nothing was measured"


def _strip(table: pl.DataFrame) -> pl.DataFrame:
    """Give the table the columns of a strip; what this analysis does not know is null."""
    known = table.with_columns(
        pl.col("value").is_not_null().alias("in_loss"),
        pl.col("loss").alias("column"),
        pl.lit("nat").alias("unit"),
    )
    return known.with_columns(
        pl.lit(None, dtype).alias(name)
        for name, dtype in polars_schema(TOKEN_STRIP).items()
        if name not in known.columns
    )
