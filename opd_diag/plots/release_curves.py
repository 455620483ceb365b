"""Draw the curves of `release_points` over the position in the response."""

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import (
    CONTROL,
    band,
    colour,
    counted,
    interval,
    legend_below,
    nothing,
    panel,
    style,
)


def release_curves(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the spread of the advantage relative to its early value, for every checkpoint.

    Args:
        table: `release_curves`.
        ax: Where to draw; None: a new figure.
    """
    names = table["checkpoint"].unique(maintain_order=True)
    lines = [
        (name, _pick(table, name, "advantage_std_over_early"), colour(i), "-")
        for i, name in enumerate(names)
    ]
    return _draw(
        lines, "std of the advantage / its value in the first 20 %", "Spread of the advantage", ax
    )


def release_curves_advantage(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean advantage, for every checkpoint.

    Args:
        table: `release_curves`.
        ax: Where to draw; None: a new figure.
    """
    names = table["checkpoint"].unique(maintain_order=True)
    lines = [
        (name, _pick(table, name, "advantage"), colour(i), "-") for i, name in enumerate(names)
    ]
    return _draw(lines, "teacher_logp - student_logp (nat)", "Mean advantage", ax)


def release_curves_margin(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the teacher's margin among the student's top K, for every K.

    Args:
        table: `release_curves`, of which the first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    name = _first(table)
    rows = _pick(table, name, "margin")
    lines = [
        (f"K = {k}", rows.filter(pl.col("k") == k), colour(i), "-")
        for i, k in enumerate(rows["k"].unique().sort())
    ]
    return _draw(lines, "mean margin (nat)", f"Teacher's margin: {name}", ax)


def release_curves_entropy(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the entropies of the student under every checkpoint (solid) and the teacher (dashed).

    Args:
        table: `release_curves`.
        ax: Where to draw; None: a new figure.
    """
    names = table["checkpoint"].unique(maintain_order=True)
    lines = [
        (f"student {name}", _pick(table, name, "student_entropy"), colour(i), "-")
        for i, name in enumerate(names)
    ]
    # The teacher is the same under all checkpoints.
    lines.append(("teacher", _pick(table, _first(table), "teacher_entropy"), CONTROL, "--"))
    return _draw(lines, "mean entropy (nat)", "Entropies", ax)


def release_curves_overlap(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the share that the two top-16 sets have in common, for every checkpoint.

    Args:
        table: `release_curves`.
        ax: Where to draw; None: a new figure.
    """
    names = table["checkpoint"].unique(maintain_order=True)
    lines = [(name, _pick(table, name, "overlap"), colour(i), "-") for i, name in enumerate(names)]
    return _draw(lines, "shared share of the top 16", "Overlap of student and teacher", ax)


def release_curves_policy(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the spread of the advantage on the prefixes of each policy, the teacher's own too.

    Args:
        table: `release_curves`, of which the first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    name = _first(table)
    rows = table.filter(pl.col("split") == "policy")
    if rows.is_empty() and not table.is_empty():
        return nothing(panel(ax), "all rollouts are of one policy")
    lines = [
        (policy, _pick(rows, name, "advantage_std", group=policy), colour(i), "-")
        for i, policy in enumerate(rows["group"].unique(maintain_order=True))
    ]
    return _draw(
        lines,
        "std of the advantage (nat)",
        f"Spread by policy: {name}",
        ax,
    )


def release_curves_absolute(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the spread of the advantage over the absolute position, for every checkpoint.

    Args:
        table: `release_curves`.
        ax: Where to draw; None: a new figure.
    """
    names = table["checkpoint"].unique(maintain_order=True)
    lines = [
        (name, _pick(table, name, "advantage_std", axis="absolute"), colour(i), "-")
        for i, name in enumerate(names)
    ]
    return _draw(lines, "std of the advantage (nat)", "Spread by token", ax, relative=False)


Line = tuple[str, pl.DataFrame, str, str]


def _draw(
    lines: Sequence[Line], unit: str, title: str, ax: Axes | None, *, relative: bool = True
) -> Axes:
    """Draw (label, rows, colour, dash) with bands over the middle of each bin."""
    with style():
        ax = panel(ax)
        if all(rows.is_empty() for _, rows, _, _ in lines):
            return nothing(ax, "no rollout is long enough")
        for label, rows, hue, dash in lines:
            middle = (rows["start"] + rows["end"]) / 2
            values = interval(rows, "value")
            band(ax, middle.to_list(), *values, colour=hue, label=label, linestyle=dash)
        of = "share of its tokens" if relative else "tokens"
        ax.set_xlabel(f"position in the response ({of})")
        if relative:
            ax.set_xlim(0, 1)
        ax.set_ylabel(unit)
        prompts = max(max(rows["n_prompts"], default=0) for _, rows, _, _ in lines)
        ax.set_title(f"{title} (band: 95 %, {counted(prompts, 'prompt')})")
        legend_below(ax)
        return ax


def _pick(
    table: pl.DataFrame,
    checkpoint: str,
    quantity: str,
    *,
    group: str = "all",
    axis: str = "relative",
) -> pl.DataFrame:
    return table.filter(
        pl.col("checkpoint") == checkpoint,
        pl.col("group") == group,
        pl.col("axis") == axis,
        pl.col("quantity") == quantity,
    ).sort("bin")


def _first(table: pl.DataFrame) -> str:
    """Name the first checkpoint of a table, nothing if it is empty."""
    return "".join(table["checkpoint"][:1])
