"""Draw the table of token types: `rock_tokens`."""

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import SymmetricalLogLocator
from matplotlib.transforms import Bbox

from opd_diag.plots.style import (
    CONTROL,
    TALL,
    colour,
    counted,
    drawable,
    legend_below,
    nothing,
    panel,
    plain_powers,
    style,
)

NAMED = 8  # most texts beside points
ASKED = 40  # rocks by rank that may get one, if it hides no other
SQUARE = (5.2, 5.6)
LABELS = {"changed": 0, "stagnant": 1, "undecided": 2, None: 3}  # and their colours


def rock_tokens(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw mean loss against frequency, with the band that frequency alone would give.

    The first rocks are named where there is room, at most eight.

    Args:
        table: `rock_tokens`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
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
            label="10-90 % of as many random tokens",
        )
        rest = shown.filter(~pl.col("is_rock"))
        _points(ax, rest, CONTROL, f"other types ({rest.height:,})", size=6)
        _points(ax, controls, colour(5), f"controls as frequent ({controls.height:,})", size=16)
        _points(ax, rocks, colour(1), f"rocks ({rocks.height:,})", size=16)
        ax.set_xscale("log")
        ax.set_yscale("log")
        plain_powers(ax)
        ax.set_xlim(_decade(shown["n"]))
        ax.set_ylim(_decade(shown["mean_loss"]))  # the band may reach far below
        _names(ax, rocks.sort("rank").head(ASKED))
        ax.set_xlabel("occurrences of the type")
        ax.set_ylabel(f"mean {table['loss'][0]} (nat)")
        ax.set_title(f"Loss and frequency of token types: {table['checkpoint'][0]}")
        legend_below(ax)
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
        view = _decade(pl.concat([shown["mean_first"], shown["mean_last"].rename("mean_first")]))
        ax.plot(view, view, color=CONTROL, linewidth=1, label="no change")
        rest = shown.filter(~pl.col("is_rock"))
        _points(ax, rest, CONTROL, f"other types ({rest.height:,})", size=6, of="mean_last")
        rocks = shown.filter("is_rock")
        for label, i in LABELS.items():
            own = rocks.filter(pl.col("label").eq_missing(pl.lit(label)))
            if own.height:
                bounded = own.drop_nulls("mean_last_low")
                ends = bounded["mean_last_low"], bounded["mean_last_high"]
                ax.vlines(bounded["mean_first"], *ends, color=colour(i), linewidth=0.8)
                words = f"rocks, {label or 'no interval'} ({own.height:,})"
                _points(ax, own, colour(i), words, size=14, of="mean_last")
        ax.set_xscale("log")
        ax.set_yscale("log")
        plain_powers(ax)
        ax.set_xlim(view)
        ax.set_ylim(view)
        ax.set_box_aspect(1)
        loss = table["loss"][0]
        ax.set_xlabel(f"mean {loss} under the first checkpoint (nat)")
        ax.set_ylabel(f"mean {loss} under the last (nat)")
        ax.set_title(f"Do rocks stay? ({table['pairing'][0]}, other half)")
        legend_below(ax)
        return ax


def rock_tokens_gradients(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the squared norm of the mean gradient against frequency, raw and across halves.

    Args:
        table: `rock_tokens`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
        shown = table.drop_nulls(["norm2_raw", "norm2_cross"])
        if shown.is_empty():
            return nothing(ax, "no gradient sums of these rollouts")
        _points(ax, shown, CONTROL, "raw: noise adds to rare types", size=8, of="norm2_raw")
        _points(ax, shown, colour(0), "across halves: unbiased", size=8, of="norm2_cross")
        ax.axhline(0, color=CONTROL, linewidth=1)
        ax.set_xscale("log")
        # Linear where the unbiased values scatter around 0, so that negative ones are seen.
        both = pl.col("norm2_raw", "norm2_cross")
        low = shown.select(pl.min_horizontal(both.min())).item()
        high = shown.select(pl.max_horizontal(both.max())).item()
        linear = (max(high, -low) or 1.0) / 100
        ax.set_yscale("symlog", linthresh=linear)
        plain_powers(ax)
        ax.set_ylim(2 * low if low < 0 else -linear / 2, max(2 * high, linear))
        ticks = SymmetricalLogLocator(base=10, linthresh=linear)
        ticks.set_params(numticks=5)
        ax.yaxis.set_major_locator(ticks)
        ax.set_xlabel("occurrences of the type")
        ax.set_ylabel("squared norm of the mean gradient ((nat/unit)²)")
        ax.set_title(f"Gradient of {counted(shown.height, 'type')} in the hidden state")
        legend_below(ax)
        return ax


def _points(
    ax: Axes, rows: pl.DataFrame, shade: str, label: str, *, size: float, of: str = "mean_loss"
) -> None:
    """Scatter one column against frequency, or the last checkpoint against the first."""
    x = rows["mean_first" if of == "mean_last" else "n"]
    ax.scatter(x, rows[of], s=size, color=shade, alpha=0.7, linewidths=0, label=label)


def _decade(values: pl.Series) -> tuple[float, float]:
    """Give the ends of a logarithmic axis: around all points, at least ten times apart."""
    low, high = 0.7 * float(values.min()), 1.4 * float(values.max())  # type: ignore[arg-type]
    wider = max(10 * low / high, 1.0) ** 0.5
    return low / wider, high * wider


def _names(ax: Axes, rows: pl.DataFrame) -> None:
    """Write texts beside points, right or left, leaving out what would hide another text."""
    size = plt.rcParams["legend.fontsize"]
    inside = ax.get_window_extent()
    taken: list[Bbox] = []
    for row in rows.iter_rows(named=True):
        for ha, shift in (("left", 3), ("right", -3)):
            text = ax.annotate(
                _name(row),
                (row["n"], row["mean_loss"]),
                fontsize=size,
                xytext=(shift, 2),
                ha=ha,
                textcoords="offset points",
            )
            # The axes may become smaller when the legend has its place; the text does not.
            box = text.get_window_extent().expanded(1.1, 1.5)
            within = inside.x0 <= box.x0 and box.x1 <= inside.x1 and box.y1 <= inside.y1
            if within and len(taken) < NAMED and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _name(row: dict[str, object]) -> str:
    """Write a type's text as the table of results writes it."""
    return f"#{row['token_id']}" if row["text"] is None else drawable(repr(row["text"]))
