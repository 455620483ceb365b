"""Draw the table of token types: `rock_tokens`."""

import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import CONTROL, colour, drawable, nothing, panel, style

NAMED = 8  # texts beside points: more overlap
SQUARE = (5.2, 5.2)


def rock_tokens(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw mean loss against frequency, with the band that frequency alone would give.

    Args:
        table: `rock_tokens`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax)
        shown = table.filter(pl.col("mean_loss") > 0).sort("n")
        if shown.is_empty():
            return nothing(ax, "no type has a positive mean loss")
        rocks = shown.filter("is_rock")
        controls = shown.filter(pl.col("token_id").is_in(table["control_token_id"].implode()))
        one_per_n = shown.unique("n", maintain_order=True)
        ends = one_per_n["mean_loss_p10"], one_per_n["mean_loss_p90"]
        ax.fill_between(
            one_per_n["n"],
            *ends,
            color=CONTROL,
            alpha=0.25,
            linewidth=0,
            label="10-90 % of as many tokens drawn from the run",
        )
        rest = shown.filter(~pl.col("is_rock"))
        _points(ax, rest, CONTROL, f"other types ({rest.height:,})", size=6)
        _points(ax, controls, colour(5), f"controls as frequent ({controls.height:,})", size=16)
        _points(ax, rocks, colour(1), f"rocks ({rocks.height:,})", size=16)
        for row in rocks.sort("rank").head(NAMED).iter_rows(named=True):
            ax.annotate(_name(row), (row["n"], row["mean_loss"]), fontsize=7, xytext=(3, 2),
                        textcoords="offset points", parse_math=False)  # fmt: skip
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("occurrences of the type")
        ax.set_ylabel(f"mean {table['loss'][0]} (nat)")
        ax.set_title(f"Loss and frequency of token types: {table['checkpoint'][0]}")
        ax.legend()
        return ax


def rock_tokens_change(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean loss of each type under the last checkpoint against the first.

    Args:
        table: `rock_tokens`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=SQUARE)
        shown = table.filter((pl.col("mean_first") > 0) & (pl.col("mean_last") > 0))
        if shown.is_empty():
            return nothing(ax, "no two checkpoints to compare")
        lowest = shown.select(pl.min_horizontal("mean_first", "mean_last").min()).item()
        highest = shown.select(pl.max_horizontal("mean_first", "mean_last").max()).item()
        ax.plot([lowest, highest], [lowest, highest], color=CONTROL, linewidth=1, label="no change")
        rest = shown.filter(~pl.col("is_rock"))
        _points(ax, rest, CONTROL, f"other types ({rest.height:,})", size=6, of="mean_last")
        rocks = shown.filter("is_rock")
        labels = {"changed": 0, "stagnant": 1, "undecided": 2}
        for label, i in labels.items():
            own = rocks.filter(label=label)
            ax.vlines(own["mean_first"], own["mean_last_low"], own["mean_last_high"],
                      color=colour(i), linewidth=0.8)  # fmt: skip
            _points(ax, own, colour(i), f"rocks, {label} ({own.height:,})", size=14, of="mean_last")
        ax.set_xscale("log")
        ax.set_yscale("log")
        loss = table["loss"][0]
        ax.set_xlabel(f"mean {loss} under the first checkpoint (nat)")
        ax.set_ylabel(f"mean {loss} under the last (nat)")
        ax.set_title(f"Do rocks stay? ({table['pairing'][0]}, other half)")
        ax.legend()
        return ax


def rock_tokens_gradients(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the squared norm of the mean gradient against frequency, raw and across halves.

    Args:
        table: `rock_tokens`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax)
        shown = table.drop_nulls(["norm2_raw", "norm2_cross"])
        if shown.is_empty():
            return nothing(ax, "no gradient sums of these rollouts")
        _points(ax, shown, CONTROL, "raw: noise adds to rare types", size=8, of="norm2_raw")
        _points(ax, shown, colour(0), "across halves: unbiased", size=8, of="norm2_cross")
        ax.axhline(0, color=CONTROL, linewidth=1)
        ax.set_xscale("log")
        # Linear where the unbiased values scatter around 0, so that negative ones are seen.
        ax.set_yscale(
            "symlog", linthresh=shown.select(pl.col("norm2_cross").abs().max() / 100).item()
        )
        ax.set_xlabel("occurrences of the type")
        ax.set_ylabel("squared norm of the mean gradient ((nat/unit)²)")
        ax.set_title(f"Gradient of {shown.height:,} types in the hidden state")
        ax.legend()
        return ax


def _points(
    ax: Axes, rows: pl.DataFrame, shade: str, label: str, *, size: float, of: str = "mean_loss"
) -> None:
    """Scatter one column against frequency, or the last checkpoint against the first."""
    x = rows["mean_first" if of == "mean_last" else "n"]
    ax.scatter(x, rows[of], s=size, color=shade, alpha=0.7, linewidths=0, label=label)


def _name(row: dict[str, object]) -> str:
    """Write a type's text as the table of results writes it."""
    return f"#{row['token_id']}" if row["text"] is None else drawable(repr(row["text"]))
