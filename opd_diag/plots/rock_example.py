"""Draw one rollout as text: `rock_example`."""

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm

from opd_diag.plots.style import colour, nothing, panel, style

WIDTH = 100  # characters in a line
CHARACTER = 0.075  # inches
LINE = 0.2
MOST_LINES = 60


def rock_example(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw one rollout token by token, coloured by loss, rocks underlined.

    Args:
        table: `rock_example`, of which at most 60 lines are drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        if table.is_empty() or table["value"].is_null().all():
            return nothing(panel(ax), "no rollout has a token in the loss")
        words = [
            _visible(text if text is not None else f" {token_id}")
            for text, token_id in table.select("text", "token_id").iter_rows()
        ]
        placed = _wrapped(words)
        lines = min(placed[-1][0] + 1, MOST_LINES)
        ax = panel(ax, size=(WIDTH * CHARACTER + 1, 0.9 + LINE * lines))
        values = table["value"]
        # A square root: few tokens hold most of the loss, and the others would look alike.
        scale = PowerNorm(0.5, vmin=min(values.min(), 0), vmax=values.max())  # type: ignore[type-var, arg-type]
        shades = ScalarMappable(scale, "YlOrRd")
        shades.set_array(values.drop_nulls().to_numpy())
        rows = zip(placed, words, values, table["is_rock"], strict=True)
        for (line, column), word, value, is_rock in rows:
            if line >= MOST_LINES:
                break
            span = [(column, len(word))]
            if value is not None:
                shade = shades.to_rgba(value, alpha=0.75)
                ax.broken_barh(span, (line - 0.42, 0.84), color=shade, linewidth=0)
            if is_rock:
                ax.broken_barh(span, (line + 0.36, 0.1), color=colour(0), linewidth=0)
            text = word.replace("$", r"\$")
            ax.text(column, line, text, fontsize=7, family="monospace", va="center")
        ax.figure.colorbar(
            shades, ax=ax, fraction=0.03, pad=0.01, label=f"{table['loss'][0]} (nat)"
        )
        ax.set_xlim(0, WIDTH)
        ax.set_ylim(lines - 0.4, -0.6)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set_xlabel("tokens of a rock type are underlined; uncoloured ones are outside the loss")
        ax.set_title(f"Rollout {table['rollout'][0]} under {table['checkpoint'][0]}")
        return ax


def _wrapped(words: Sequence[str]) -> list[tuple[int, int]]:
    """Give line and column of each word; a line is broken after a newline and when it is full."""
    places = []
    line = column = 0
    for word in words:
        if column and column + len(word) > WIDTH:
            line, column = line + 1, 0
        places.append((line, column))
        column += len(word)
        if word.endswith("⏎"):
            line, column = line + 1, 0
    return places


def _visible(text: str) -> str:
    """Show what a token's text would hide: newlines, tabs, control characters."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
    return "".join(sign if sign.isprintable() else "·" for sign in shown) or "·"
