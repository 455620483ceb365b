"""The look that all figures share: colours, sizes, bands, and text that every font can draw."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import ScaledTranslation

from opd_diag.errors import OptionError
from opd_diag.text.escaping import escape_character

# Okabe and Ito's colours, which stay apart for the colour-blind, in the order of use.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CONTROL = "#7F7F7F"  # nulls, controls and reference lines
THRESHOLD = "#000000"

SINGLE = (6.4, 4.0)  # inches
TALL = (6.4, 4.8)  # with room for a legend below
WIDE = (9.6, 4.0)
WIDEST_SINGLE = 7.2  # a figure that is wider on the screen spans both columns of a page
REASON_CHARACTERS = 56  # in a line of an empty panel
_EMPTY = "empty: "  # begins the mark of an empty panel
_BELOW = "below"  # marks a legend under its axes

_SETTINGS: dict[Any, Any] = {
    "figure.dpi": 120,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType outlines inside the file: text can be searched and edited
    "svg.fonttype": "path",  # outlines inside the file: looks the same without the font
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # a $ in a name or a token is a $
}
_SMALLER: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
}
# Width of a page's column or columns in inches, and what is smaller there.
SIZES: dict[str, tuple[float | None, dict[Any, Any]]] = {
    "screen": (None, {}),
    "one-column": (
        3.4,
        _SMALLER | {"font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "legend.fontsize": 6},
    ),
    "two-columns": (7.0, _SMALLER),
}
_size: ContextVar[str] = ContextVar("size", default="screen")


@contextmanager
def style(size: str | None = None) -> Iterator[None]:
    """Draw what is inside in the shared look, and leave the user's settings as they were.

    Args:
        size: `screen`, or the width of a paper's page: `one-column` (3.4 inches) or
            `two-columns` (7 inches); None: as around this block.

    Raises:
        OptionError: If the size is unknown.
    """
    size = _size.get() if size is None else size
    if size not in SIZES:
        raise OptionError(f"size: {size!r}; expected {', '.join(SIZES)}")
    outside = _size.set(size)
    try:
        with plt.rc_context(_SETTINGS | SIZES[size][1]):
            yield
    finally:
        _size.reset(outside)


def panel(ax: Axes | None, *, size: tuple[float, float] = SINGLE) -> Axes:
    """Return `ax`, or the axes of a new figure in the shared look if it is None.

    Args:
        ax: Where to draw.
        size: Width and height of a new figure in inches, on the screen.
    """
    if ax is not None:
        return ax
    with style():
        return plt.subplots(figsize=on_page(size))[1]


def on_page(size: tuple[float, float]) -> tuple[float, float]:
    """Return the width and height that a figure has on the page drawn for, in inches.

    A figure that is wide on the screen spans both columns of a paper. The height keeps its ratio,
    but not below 2.4 inches.
    """
    name = _size.get()
    width = SIZES["two-columns" if size[0] > WIDEST_SINGLE and name != "screen" else name][0]
    return size if width is None else (width, max(size[1] * width / size[0], 2.4))


def colour(i: int) -> str:
    """Return the i-th colour of the palette, from the start again after the last."""
    return PALETTE[i % len(PALETTE)]


def interval(rows: pl.DataFrame, name: str) -> tuple[pl.Series, pl.Series, pl.Series]:
    """Return an estimate and the ends of its interval, as `band` and `bars` draw them."""
    return rows[name], rows[f"{name}_low"], rows[f"{name}_high"]


def band(
    ax: Axes,
    x: Sequence[Any],
    value: Iterable[Any],
    low: Iterable[Any],
    high: Iterable[Any],
    *,
    colour: str,
    label: str | None = None,
    linestyle: str = "-",
) -> None:
    """Draw a curve with its interval; null leaves a gap. A lone point is drawn with its bar."""
    y, bottom, top = _numbers(value), _numbers(low), _numbers(high)
    lone = len(y) == 1
    ax.plot(x, y, color=colour, label=label, linestyle=linestyle, marker="o" if lone else "")
    ax.fill_between(x, bottom, top, color=colour, alpha=0.2, linewidth=0)
    if lone:
        ax.vlines(x, bottom, top, color=colour)


def bars(
    ax: Axes,
    at: Sequence[float],
    value: Iterable[Any],
    low: Iterable[Any],
    high: Iterable[Any],
    *,
    colour: str,
    label: str | None = None,
    horizontal: bool = False,
    marker: str = "o",
) -> None:
    """Draw points with their intervals as bars; null draws nothing."""
    y, bottom, top = _numbers(value), _numbers(low), _numbers(high)
    point = 0.83 * plt.rcParams["lines.markersize"]
    ax.plot(*((y, at) if horizontal else (at, y)), color=colour, label=label, marker=marker,
            linestyle="", markersize=point)  # fmt: skip
    draw = ax.hlines if horizontal else ax.vlines
    draw(at, bottom, top, color=colour, linewidth=1.25 * plt.rcParams["lines.linewidth"])


def legend_beside(ax: Axes) -> None:
    """Put the legend right of the axes: what is drawn leaves no free corner."""
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def legend_below(ax: Axes) -> None:
    """Put the legend under the axes and their label, in as many columns as stand side by side."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    size = FontProperties(size=plt.rcParams["legend.fontsize"]).get_size_in_points()
    room = 72 * ax.get_window_extent().width / figure.dpi  # points, as all lengths here
    texts = ax.legend().get_texts()
    wide = max((72 * t.get_window_extent().width / figure.dpi for t in texts), default=room)
    lines = 1 + (72 * ax.xaxis.label.get_window_extent().width / figure.dpi > room)
    legend = ax.legend(loc="upper left", ncols=max(1, int(room / (wide + 4.5 * size))),
                       borderaxespad=0, borderpad=0, columnspacing=1.5)  # fmt: skip
    legend.set_gid(_BELOW)
    lower_legend(ax, lines)


def lower_legend(ax: Axes, lines: int = 1) -> None:
    """Move a legend that stands below the axes under all lines of their label.

    Args:
        ax: The axes.
        lines: Lines that the label will have at least.
    """
    legend, figure = ax.get_legend(), ax.get_figure(root=True)
    if legend is None or figure is None or legend.get_gid() != _BELOW:
        return
    sizes = plt.rcParams["xtick.labelsize"], plt.rcParams["axes.labelsize"]
    tick, label = (FontProperties(size=of).get_size_in_points() for of in sizes)
    lines = max(lines, 1 + ax.get_xlabel().count("\n"))
    down = ScaledTranslation(0, -(15 + tick + 1.3 * lines * label) / 72, figure.dpi_scale_trans)
    legend.set_bbox_to_anchor((0, 0), transform=ax.transAxes + down)


def plain_powers(ax: Axes) -> None:
    """Write the ticks of logarithmic axes as plain numbers: no text of a figure is a formula."""
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() in ("log", "symlog"):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def counted(n: int, noun: str) -> str:
    """Write a number with its noun: 1 rollout, 2,000 rollouts."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def nothing(ax: Axes, reason: str) -> Axes:
    """Say in an empty panel why there is nothing to draw; `why_blank` finds it again."""
    ax.set_gid(_EMPTY + reason)
    words = fill(readable(reason), REASON_CHARACTERS)
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", color=CONTROL,
            parse_math=False)  # fmt: skip
    ax.set_axis_off()
    return ax


def why_blank(figure: Figure) -> str | None:
    """Return why a figure has nothing but empty panels, or None if something is drawn."""
    marks = [ax.get_gid() or "" for ax in figure.axes]
    reasons = [mark.removeprefix(_EMPTY) for mark in marks if mark.startswith(_EMPTY)]
    return "; ".join(dict.fromkeys(reasons)) if reasons and len(reasons) == len(marks) else None


def _numbers(values: Iterable[Any]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]


def readable(text: str, family: str = "sans-serif") -> str:
    r"""Write what a font cannot draw, or nobody can see, as signs: ⏎, ⇥, \u4e2d, · for nothing.

    Args:
        text: Any text, such as a token's.
        family: Font family that will draw it.
    """
    shown = text.replace("\r\n", "\n").replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
    return drawable(shown, family) or "·"


def drawable(text: str, family: str = "sans-serif") -> str:
    r"""Write what a font cannot draw by its number, such as \u4e2d; newlines stay."""
    path = findfont(FontProperties(family=[family]))
    return "".join(sign if sign == "\n" else _sign(sign, path) for sign in text)


@cache
def _sign(sign: str, path: str) -> str:
    if sign.isprintable() and get_font(path).get_char_index(ord(sign)):
        return sign
    return escape_character(sign)
