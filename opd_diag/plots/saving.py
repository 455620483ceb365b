"""Write figures to files, with text that the font can draw and lines that fit the page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

from opd_diag.plots.style import drawable, lower_legend, style
from opd_diag.tables.files import atomic_path

CAPTION_KEYS = {"png": "Description", "svg": "Description", "pdf": "Subject"}
FEWEST = 12  # characters in a line
LEGEND = 40
NO_BREAK = "\N{NO-BREAK SPACE}"
LEGEND_SHARE = 0.7  # of the width of its axes and their labels
TICK = 24
_KEEP_LAYOUT: dict[Any, Any] = {"figure.constrained_layout.use": False}  # a figure has its own
POINTS = 72  # to the inch, in which an SVG or PDF is measured
SAFE = 0.85  # some lines have wider letters, and broken labels move the axes


def save_figure(
    figure: Figure, path: Path, *, title: str = "", caption: str = "", dpi: int | None = None
) -> Path:
    """Write a figure to a file, complete or not at all.

    Args:
        figure: What to write.
        path: Where to; its suffix is the format: `.png`, `.svg` or `.pdf`.
        title: Name of the figure, kept in the file's metadata.
        caption: How to read it, kept in the file's metadata.
        dpi: Dots per inch of a PNG; None: 200.

    Returns:
        The path.

    Raises:
        StorageError: If the file cannot be written.
    """
    form = path.suffix[1:]
    words = {"Title": title, CAPTION_KEYS[form]: caption}
    with style(), plt.rc_context(_KEEP_LAYOUT), atomic_path(path) as temporary:
        dots = dpi or plt.rcParams["savefig.dpi"]
        escape_texts(figure)
        with _measured_at(figure, dots if form == "png" else POINTS):
            _break_lines(figure)
        figure.savefig(
            temporary,
            format=form,
            dpi=dots,
            metadata={key: value for key, value in words.items() if value},
        )
    return path


@contextmanager
def _measured_at(figure: Figure, dpi: float) -> Iterator[None]:
    """Measure a figure as its file will have it: letters are not as wide at any dots per inch."""
    before = figure.dpi
    figure.set_dpi(dpi)
    try:
        yield
    finally:
        figure.set_dpi(before)


def escape_texts(figure: Figure) -> None:
    """Escape what no font here draws, such as other scripts in names and tokens."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(drawable(text.get_text(), text.get_fontfamily()[0]))
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            _rename(axis, drawable)


def _rename(axis: Axis, change: Callable[[str], str]) -> None:
    """Change the names at the ticks of an axis, if it has names and not numbers."""
    if isinstance(axis.get_major_formatter(), FuncFormatter | FixedFormatter):
        names = [label.get_text() for label in axis.get_ticklabels()]
        if names != (changed := [change(name) for name in names]):
            axis.set_ticklabels(changed)


def _break_lines(figure: Figure) -> None:
    """Break names, titles and labels that are longer than their place."""
    for ax in figure.axes:
        left, right, _, _ = _slot(ax)
        legend = ax.get_legend()
        for text in legend.get_texts() if legend else ():
            text.set_text(fill(text.get_text(), LEGEND))
            _break(text, LEGEND_SHARE * (right - left))
        for title in _titles(ax):
            _break(title, right - left)
        _rename(ax.xaxis, lambda name: name if "\n" in name else fill(name, TICK))
    figure.draw_without_rendering()  # lets the layout find where the axes stand
    for ax in figure.axes:
        left, right, bottom, top = _slot(ax)
        box = ax.get_window_extent()
        middle, centre = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        for title in _titles(ax):
            _break(title, right - box.x0)
        _break(ax.xaxis.label, 2 * min(middle - left, right - middle))
        _break(ax.yaxis.label, 2 * min(centre - bottom, top - centre))
        lower_legend(ax)


def _titles(ax: Axes) -> list[Text]:
    shown = {ax.get_title(loc=place) for place in ("left", "center", "right")} - {""}
    return [t for t in ax.get_children() if isinstance(t, Text) and t.get_text() in shown]


def _break(text: Text, room: float) -> None:
    """Break the lines of a text so that they fit into a number of pixels."""
    extent = text.get_window_extent()
    longest = max(extent.width, extent.height)
    if longest > room:
        lines = text.get_text().split("\n")
        most = max(int(SAFE * room / longest * max(map(len, lines))), FEWEST)
        text.set_text("\n".join(_wrap(line, most) for line in lines))


def _wrap(line: str, most: int) -> str:
    """Break a line before its bracket if that is enough, and never between a number and its %."""
    start, bracket, end = line.partition(" (")
    if bracket and max(len(start), len(end) + 1) <= most:
        return f"{start}\n({end}"
    return fill(line.replace(" %", f"{NO_BREAK}%"), most).replace(NO_BREAK, " ")


def _slot(ax: Axes) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of the part of the figure that belongs to an axes."""
    figure = ax.get_figure()  # the whole figure, or a part of it
    assert figure is not None
    box = figure.bbox
    spec = ax.get_subplotspec()
    if spec is None:
        return box.x0, box.x1, box.y0, box.y1
    rows, columns, _, _ = spec.get_geometry()
    across, down = spec.colspan, spec.rowspan
    return (
        box.x0 + box.width * across.start / columns,
        box.x0 + box.width * across.stop / columns,
        box.y0 + box.height * (1 - down.stop / rows),
        box.y0 + box.height * (1 - down.start / rows),
    )
