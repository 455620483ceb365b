"""Figures inside the page: those of matplotlib as SVG text, and the small one of a finding."""

import io
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from markupsafe import Markup, escape

from opd_diag import plots
from opd_diag.errors import TableError
from opd_diag.plots.catalogue import CAPTIONS
from opd_diag.plots.figures import choose_figures
from opd_diag.plots.saving import escape_texts
from opd_diag.plots.style import style, why_blank
from opd_diag.tables.columns import ANALYSES
from opd_diag.tables.run import Run

LARGEST_SVG = 300_000  # characters; a larger drawing is put in as pixels
INTERVAL_SIZE = (150, 26)  # width and height of the drawing of an interval, in CSS pixels
MOST_FIGURES = 3  # of one analysis


class InlineFigure(NamedTuple):
    """One figure of the page: its name, what it shows, and its markup."""

    name: str
    caption: str
    markup: Markup


def figures_of(run: Run, analysis: str) -> list[InlineFigure]:
    """Draw the default figures of an analysis that the run's results allow."""
    drawn: list[InlineFigure] = []
    for name, table in choose_figures(()).items():
        if table not in ANALYSES[analysis] or len(drawn) == MOST_FIGURES:
            continue
        try:
            result = run.result(table)
        except TableError:
            continue
        with style("screen"):
            figure = getattr(plots, name)(result).get_figure(root=True)
            try:
                if why_blank(figure) is None:
                    caption = CAPTIONS.get(name, "")
                    drawn.append(InlineFigure(name, caption, _markup(figure, name, caption)))
            finally:
                plt.close(figure)
    return drawn


def _markup(figure: Any, name: str, caption: str) -> Markup:
    text = io.StringIO()
    escape_texts(figure)
    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    label = escape(f"{name}: {caption}" if caption else name)
    svg = text.getvalue()
    if len(svg) > LARGEST_SVG:
        pixels = io.BytesIO()
        figure.set_layout_engine("none")  # everything has its place from the first drawing
        figure.savefig(pixels, format="png", dpi=110)
        data = b64encode(pixels.getvalue()).decode()
        return Markup(f'<img alt="{label}" src="data:image/png;base64,{data}">')
    body = svg[svg.index("<svg") :]
    # Names of paths and clips are unique in one drawing only: each figure gets its own.
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return Markup(body)


def interval_figure(row: Mapping[str, Any]) -> Markup:
    """Draw an estimate with its interval, and its control as a tick.

    Args:
        row: A row of the table `findings`.
    """
    width, height = INTERVAL_SIZE
    ends = (row["estimate"], row["estimate_low"], row["estimate_high"], row["control"])
    known = [value for value in ends if value is not None]
    if row["estimate"] is None:
        return Markup("")
    low, high = min(known), max(known)
    pad = 0.12 * (high - low) or 1.0
    scale = (width - 8) / (high - low + 2 * pad)

    def x(value: float) -> str:
        return f"{4 + (value - low + pad) * scale:.1f}"

    middle = height / 2
    parts = [f'<line class="axis" x1="0" x2="{width}" y1="{middle}" y2="{middle}"/>']
    if row["estimate_low"] is not None and row["estimate_high"] is not None:
        parts.append(
            f'<line class="interval" x1="{x(row["estimate_low"])}" '
            f'x2="{x(row["estimate_high"])}" y1="{middle}" y2="{middle}"/>'
        )
    if row["control"] is not None:
        at = x(row["control"])
        parts.append(f'<line class="control" x1="{at}" x2="{at}" y1="4" y2="{height - 4}"/>')
    parts.append(f'<circle class="estimate" cx="{x(row["estimate"])}" cy="{middle}" r="4"/>')
    return Markup(
        f'<svg class="small" role="img" aria-label="estimate, interval and control" '
        f'width="{width}" height="{height}">{"".join(parts)}</svg>'
    )
