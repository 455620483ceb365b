"""Draw one rollout as text: `token_strip`."""

from collections.abc import Sequence
from textwrap import wrap

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import AsinhNorm, Colormap, LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.lines import Line2D

from opd_diag.plots.style import (
    CONTROL,
    THRESHOLD,
    colour,
    nothing,
    on_page,
    readable,
    style,
)
from opd_diag.plots.wrapping import Piece, wrapped

WIDTH = 100  # characters in a line
MOST_LINES = 400
PROMPT_LINES = 3
MOST_NOTES = 8
CHARACTER = 0.075  # inches
LINE = 0.2
LEFT, RIGHT, TOP, BOTTOM = 0.25, 0.15, 0.75, 0.45  # inches around the text
ADVANCE = 0.61  # width of a monospaced character in units of its size, and a little
OUTSIDE = "#9A9A9A"  # text outside the loss
PHASES = {"agreement": (4, "low-KL stretch"), "post": (5, "after it")}
FULL, HALF = 0.38, 0.06  # of a line: half a cell's height, half a mark's thickness
TITLE_CHARACTERS = 44

Corners = list[tuple[float, float]]


def token_strip(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw one rollout token by token, coloured by a column, with what the results say.

    Above it stands the end of the prompt. The tokens with the largest values at which the teacher
    prefers another one are numbered, and what it prefers is listed below.

    Tokens outside the loss are grey and have no colour. What the font cannot draw is escaped; a
    font for other scripts is taken from matplotlib's setting `font.monospace`.

    Args:
        table: What `opd_diag.token_strip` makes; at most 400 lines of it are drawn.
        ax: Where to draw; None: a new figure, as high as the text needs.
    """
    with style():
        if table.is_empty():
            return nothing(ax or _page(8), "the response has no tokens")
        words = readable_words(table)
        pieces = [piece for piece in wrapped(words, WIDTH) if piece.line < MOST_LINES]
        above, notes = _prompt_lines(table), _notes(table, words, pieces[-1].token + 1)
        below = _note_lines(notes)
        top, bottom = -0.6 - len(above), pieces[-1].line + 0.6 + len(below)
        ax = ax or _page(bottom - top)
        ax.set_xlim(-0.5, WIDTH + 0.5)
        ax.set_ylim(bottom, top)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        coloured = table.select(pl.when("in_loss").then("value"))["value"].to_list()
        shades = _shades([value for value in coloured if value is not None])
        _cells(ax, coloured, pieces, shades)
        points = _points(ax, bottom - top)
        _words(ax, coloured, pieces, shades, table["in_loss"].to_list(), points)
        _around(ax, above, top + 0.6, points)
        _around(ax, below, pieces[-1].line + 1.2, points)
        _number(ax, [token for token, _ in notes], pieces, points)
        _legend(ax, _marks(ax, table, pieces))
        _title(ax, table, pieces[-1].token + 1)
        _scale(ax, table, shades)
        return ax


def readable_words(table: pl.DataFrame) -> list[str]:
    """Return what is drawn for every token: its text as the font can draw it, or else its id.

    Args:
        table: A table with `text` and `token_id`.
    """
    return [
        readable(f"[{token_id}]" if text is None else text, "monospace")
        for text, token_id in table.select("text", "token_id").iter_rows()
    ]


def _prompt_lines(table: pl.DataFrame) -> list[str]:
    """Return the end of the prompt in a few lines, and an empty one."""
    prompt = table["prompt"][0]
    if prompt is None:
        return []
    lines = wrap(f"prompt: {readable(prompt, 'monospace')}", WIDTH)
    if len(lines) > PROMPT_LINES:
        lines = [f"prompt: … {lines[-PROMPT_LINES]}"[:WIDTH], *lines[1 - PROMPT_LINES :]]
    return [*lines, ""]


def _notes(table: pl.DataFrame, words: Sequence[str], drawn: int) -> list[tuple[int, str]]:
    """Say what the teacher prefers to the tokens with the largest values, in their order."""
    rows = table.with_row_index("token").head(drawn).filter(
        pl.col("in_loss"), pl.col("value").is_not_null(), pl.col("teacher_prob").is_not_null(),
        pl.col("teacher_top_id") != pl.col("token_id"),
    )  # fmt: skip
    chosen = rows.sort(pl.col("value").abs(), "token", descending=[True, False]).head(MOST_NOTES)
    notes = []
    for number, row in enumerate(chosen.sort("token").iter_rows(named=True), start=1):
        top = row["teacher_top_text"]
        other = readable(f"[{row['teacher_top_id']}]" if top is None else top, "monospace")
        notes.append(
            (
                row["token"],
                f"{number} '{other}' {row['teacher_top_prob']:.3f}, "
                f"not '{words[row['token']]}' {row['teacher_prob']:.3f}",
            )
        )
    return notes


def _note_lines(notes: Sequence[tuple[int, str]]) -> list[str]:
    """Put the notes into lines, each as long as it can be."""
    lines = [""]
    for text in ("the teacher prefers, with its probabilities:", *(t for _, t in notes)):
        piece = text[:WIDTH]
        if lines[-1] and len(lines[-1]) + 3 + len(piece) > WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]}   {piece}" if lines[-1] else piece
    return lines if notes else []


def _around(ax: Axes, lines: Sequence[str], first: float, points: float) -> None:
    """Write lines of plain text before or after the tokens."""
    for place, line in enumerate(lines):
        ax.text(0, first + place, line, fontsize=points, family="monospace",
                va="center_baseline", color=CONTROL)  # fmt: skip


def _number(ax: Axes, tokens: Sequence[int], pieces: Sequence[Piece], points: float) -> None:
    """Write the numbers of the notes above the ends of their tokens."""
    last = {piece.token: piece for piece in pieces}
    for number, token in enumerate(tokens, start=1):
        piece = last[token]
        ax.text(piece.at + piece.width, piece.line - FULL, str(number), fontsize=0.6 * points,
                ha="center", va="center", color=THRESHOLD, weight="bold")  # fmt: skip


def _points(ax: Axes, lines: float) -> float:
    """Return the size of letters that fill the axes with lines."""
    width, height = _inches(ax)
    return 72 * min(width / (WIDTH + 1) / ADVANCE, height / lines / 1.5)


def _page(lines: float) -> Axes:
    """Make a figure in which every character has the same place, whatever the legend needs."""
    width, height = LEFT + CHARACTER * WIDTH + RIGHT, TOP + LINE * lines + BOTTOM
    scale = on_page((width, height))[0] / width
    figure = plt.figure(figsize=(scale * width, scale * height), layout="none")
    left, bottom = LEFT / width, BOTTOM / height
    return figure.add_axes((left, bottom, 1 - left - RIGHT / width, LINE * lines / height))


def _shades(known: Sequence[float]) -> ScalarMappable:
    """Choose colours: from white to red, or from blue to red where both signs occur.

    Both scales are steeper near 0: few tokens hold most of a loss, and the others would look alike.
    """
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale: Normalize
    if low < 0 < high:
        most = max(-low, high)
        scale, colours = AsinhNorm(most / 10, vmin=-most, vmax=most), _part("RdBu_r", 0.1, 0.9)
    elif low < 0:
        scale, colours = Normalize(low, 0), _part("YlOrRd_r", 0.2, 1)
    else:
        scale, colours = PowerNorm(0.5, vmin=0, vmax=high or 1), _part("YlOrRd", 0, 0.8)
    shades = ScalarMappable(scale, colours)
    shades.set_array(known)
    return shades


def _part(name: str, start: float, end: float) -> Colormap:
    """Leave out the dark end of a colour map, on which text cannot be read."""
    whole = plt.get_cmap(name)
    steps = [whole(start + (end - start) * i / 63) for i in range(64)]
    return LinearSegmentedColormap.from_list(f"{name}_part", steps)


def _cells(
    ax: Axes, values: Sequence[float | None], pieces: Sequence[Piece], shades: ScalarMappable
) -> None:
    shown = [(piece, value) for piece in pieces if (value := values[piece.token]) is not None]
    boxes = [_box(piece, -FULL, FULL) for piece, _ in shown]
    cells = PolyCollection(boxes, cmap=shades.cmap, norm=shades.norm, linewidths=0, label="_cells")
    cells.set_array([value for _, value in shown])
    ax.add_collection(cells, autolim=False)


def _words(
    ax: Axes,
    values: Sequence[float | None],
    pieces: Sequence[Piece],
    shades: ScalarMappable,
    in_loss: Sequence[bool],
    points: float,
) -> None:
    colours = shades.to_rgba(pl.Series([value or 0.0 for value in values]).to_numpy())
    for piece in pieces:
        red, green, blue, _ = colours[piece.token]
        dark = values[piece.token] is not None and 0.3 * red + 0.6 * green + 0.1 * blue < 0.45
        shade = "white" if dark else "black" if in_loss[piece.token] else OUTSIDE
        ax.text(piece.at, piece.line, piece.text, fontsize=points, family="monospace",
                va="center_baseline", color=shade)  # fmt: skip


def _marks(ax: Axes, table: pl.DataFrame, pieces: Sequence[Piece]) -> dict[str, str]:
    """Draw the marks; return what they mean and their colours."""
    shown: dict[str, str] = {}

    def mark(label: str, shade: str, collection: type, places: list[Corners], size: float) -> None:
        if places:
            marks = collection(places, color=shade, linewidths=size, label=label)
            ax.add_collection(marks, autolim=False)
            shown[label] = shade

    segment, released = table["segment"].to_list(), table["is_released"].to_list()
    first = {piece.token: piece for piece in reversed(pieces)}
    borders = [_edge(first[i]) for i in sorted(first) if i and segment[i] != segment[i - 1]]
    mark("segment border", CONTROL, LineCollection, borders, 1)
    rock, phase = table["is_rock"].to_list(), table["phase"].to_list()
    under = [_box(piece, FULL - HALF, FULL + HALF) for piece in pieces if rock[piece.token]]
    mark("token of a rock type", colour(0), PolyCollection, under, 0)
    for name, (shade, label) in PHASES.items():
        inside = [piece for piece in pieces if phase[piece.token] == name]
        over = [_box(piece, -FULL - HALF, -FULL + HALF) for piece in inside]
        mark(label, colour(shade), PolyCollection, over, 0)
    cut = [_edge(first[i]) for i in sorted(first) if released[i]][:1]
    mark("release point", THRESHOLD, LineCollection, cut, 3)
    return shown | ({} if table["in_loss"].all() else {"not in the loss": OUTSIDE})


def _box(piece: Piece, top: float, bottom: float) -> Corners:
    left, right = piece.at, piece.at + piece.width
    above, below = piece.line + top, piece.line + bottom
    return [(left, above), (right, above), (right, below), (left, below)]


def _edge(piece: Piece) -> Corners:
    return [(piece.at, piece.line - FULL - HALF), (piece.at, piece.line + FULL + HALF)]


def _legend(ax: Axes, shown: dict[str, str]) -> None:
    handles = [
        Line2D([], [], color=shade, linewidth=3, label=label) for label, shade in shown.items()
    ]
    if handles:
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0), ncols=len(handles),
                  borderaxespad=0.4, columnspacing=1.2, handlelength=1.0, fontsize=8)  # fmt: skip


def _title(ax: Axes, table: pl.DataFrame, drawn: int) -> None:
    name = readable(table["rollout_id"][0] or "")
    name = name if len(name) <= TITLE_CHARACTERS else f"…{name[1 - TITLE_CHARACTERS :]}"
    name = f" ({name})" if table["rollout_id"][0] else ""
    outcome = {True: ", correct", False: ", wrong", None: ""}[table["correct"][0]]
    title = f"Rollout {table['rollout'][0]}{name}, {table['checkpoint'][0]}{outcome}"
    counts = f"{table.height:,} tokens, {table['in_loss'].sum():,} in the loss"
    counts += "" if drawn == table.height else f"; the first {drawn:,} are drawn"
    words = ", ".join(_absent(table))
    lines = [title, f"{counts}; {words}" if words else counts]
    ax.set_title("\n".join(lines), y=1, pad=9, parse_math=False, fontsize=8)


def _absent(table: pl.DataFrame) -> list[str]:
    """Say which marks are not there because nothing was found, or because nothing is known."""
    known = {name: table[name].drop_nulls().unique() for name in ("is_released", "phase")}
    release = "no release point" if known["is_released"].len() else "release point unknown"
    stretch = "no low-KL stretch" if known["phase"].len() else "low-KL stretches unknown"
    return [
        *(["rocks unknown"] if table["is_rock"].is_null().all() else []),
        *([] if True in known["is_released"] else [release]),
        *([] if "agreement" in known["phase"] else [stretch]),
    ]


def _scale(ax: Axes, table: pl.DataFrame, shades: ScalarMappable) -> None:
    """Put the colour scale above the text, on the right."""
    height = _inches(ax)[1]
    inset = ax.inset_axes((0.7, 1 + 0.14 / height, 0.29, 0.11 / height))
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(shades, cax=inset, orientation="horizontal", ticklocation="top")
    low, high = (float(end) for end in shades.get_clim())
    ticks = [low, (low + high) / 2, high]
    if low < 0 < high:
        ticks = [low, low / 10, 0, high / 10, high]
    elif low == 0:
        ticks = [0, high / 4, high]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks], minor=False)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=7, length=2, pad=1)
    bar.set_label(f"{table['column'][0]} ({table['unit'][0]})", fontsize=8, labelpad=3)


def _inches(ax: Axes) -> tuple[float, float]:
    figure = ax.get_figure(root=True)
    assert figure is not None
    box = ax.get_window_extent()
    return box.width / figure.dpi, box.height / figure.dpi
