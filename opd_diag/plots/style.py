"""The look that all figures share: colours, sizes, bands."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from opd_diag.tables.files import atomic_path

# Okabe and Ito's colours, which stay apart for the colour-blind, in the order of use.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CONTROL = "#7F7F7F"  # nulls, controls and reference lines
THRESHOLD = "#000000"

SINGLE = (6.4, 4.0)  # inches
WIDE = (9.6, 4.0)

_SETTINGS: dict[Any, Any] = {
    "figure.dpi": 120,
    "savefig.dpi": 150,
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
}


@contextmanager
def style() -> Iterator[None]:
    """Draw what is inside in the shared look, and leave the user's settings as they were."""
    with plt.rc_context(_SETTINGS):
        yield


def panel(ax: Axes | None, *, size: tuple[float, float] = SINGLE) -> Axes:
    """Return `ax`, or the axes of a new figure in the shared look if it is None.

    Args:
        ax: Where to draw.
        size: Width and height of a new figure in inches.
    """
    if ax is not None:
        return ax
    with style():
        return plt.subplots(figsize=size)[1]


def colour(i: int) -> str:
    """Return the i-th colour of the palette, from the start again after the last."""
    return PALETTE[i % len(PALETTE)]


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
    """Draw a curve with its interval; null leaves a gap."""
    y, bottom, top = _numbers(value), _numbers(low), _numbers(high)
    ax.plot(x, y, color=colour, label=label, linestyle=linestyle)
    ax.fill_between(x, bottom, top, color=colour, alpha=0.2, linewidth=0)


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
) -> None:
    """Draw points with their intervals as bars; null draws nothing."""
    y, bottom, top = _numbers(value), _numbers(low), _numbers(high)
    ax.plot(*((y, at) if horizontal else (at, y)), "o", color=colour, label=label, markersize=5)
    draw = ax.hlines if horizontal else ax.vlines
    draw(at, bottom, top, color=colour, linewidth=2)


def nothing(ax: Axes, reason: str) -> Axes:
    """Say in an empty panel why there is nothing to draw."""
    ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", color=CONTROL)
    ax.set_axis_off()
    return ax


def _numbers(values: Iterable[Any]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]


def saved(ax: Axes, path: Path) -> Path:
    """Write the figure of `ax` to a file, complete or not at all.

    Args:
        ax: Axes of the figure.
        path: Where to; its suffix is the format.

    Returns:
        The path.

    Raises:
        StorageError: If the file cannot be written.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    with style(), atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])
    return path
