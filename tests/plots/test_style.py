"""One look, in three sizes, and text and files that work wherever they are opened."""

import math
import re
import struct

import matplotlib.pyplot as plt
import pytest

from opd_diag.errors import OptionError, StorageError
from opd_diag.plots.saving import save_figure
from opd_diag.plots.style import (
    band,
    bars,
    counted,
    drawable,
    legend_below,
    nothing,
    panel,
    plain_powers,
    readable,
    style,
)


def test_the_look_ends_with_its_block():
    before = dict(plt.rcParams)
    with style("one-column"):
        assert plt.rcParams["font.size"] == 7
        with style():
            assert plt.rcParams["font.size"] == 7
        with style("screen"):
            assert plt.rcParams["font.size"] == 10
    assert dict(plt.rcParams) == before
    panel(None)
    assert dict(plt.rcParams) == before


def test_an_unknown_size_is_refused():
    with (
        pytest.raises(OptionError, match=r"size: 'poster'; expected screen, one-column"),
        style("poster"),
    ):
        pass


@pytest.mark.parametrize(
    ("size", "narrow", "wide"),
    [("screen", 6.4, 9.6), ("one-column", 3.4, 7.0), ("two-columns", 7.0, 7.0)],
)
def test_figures_have_the_width_of_their_place(size, narrow, wide):
    with style(size):
        widths = [panel(None, size=s).figure.get_size_inches()[0] for s in ((6.4, 4), (9.6, 4))]
    assert widths == pytest.approx([narrow, wide])


def test_a_band_shows_value_and_interval_and_leaves_gaps():
    _, ax = plt.subplots()
    band(ax, [0, 1, 2], [1, None, 3], [0, None, 2], [2, None, 5], colour="red", label="x")
    assert ax.lines[0].get_ydata()[[0, 2]].tolist() == [1, 3]
    assert math.isnan(ax.lines[0].get_ydata()[1])
    drawn = {y for path in ax.collections[0].get_paths() for y in path.vertices[:, 1]}
    assert {0, 2, 5} <= drawn
    assert ax.lines[0].get_marker() == ""


def test_a_lone_point_of_a_band_can_be_seen():
    _, ax = plt.subplots()
    band(ax, [0.5], [1.0], [0.2], [2.0], colour="red")
    assert ax.lines[0].get_marker() == "o"
    (line,) = ax.collections[1].get_segments()
    assert line[:, 1].tolist() == [0.2, 2.0]


@pytest.mark.parametrize("horizontal", [False, True])
def test_bars_show_value_and_interval(horizontal):
    _, ax = plt.subplots()
    bars(ax, [0, 1], [5, None], [4, None], [7, None], colour="red", horizontal=horizontal)
    value = ax.lines[0].get_xdata() if horizontal else ax.lines[0].get_ydata()
    assert value[0] == 5
    assert math.isnan(value[1])
    segment = ax.collections[0].get_segments()[0]
    assert sorted(segment[:, 0 if horizontal else 1]) == [4, 7]


def test_an_empty_panel_says_why():
    _, ax = plt.subplots()
    nothing(ax, "it costs $5, not $6, and " + "very " * 30)
    (text,) = ax.texts
    assert text.get_text().startswith("it costs $5, not $6")
    assert max(map(len, text.get_text().split("\n"))) <= 56
    assert not text.get_parse_math()
    assert not ax.axison


def test_text_is_written_with_what_the_font_has():
    assert readable("a\n\tb\r\n") == "a⏎⇥b⏎"
    assert readable("") == "·"
    assert readable("中é") == r"\u4e2dé"
    assert readable("\U0001f469\x07", "monospace") == r"\U0001f469\x07"
    assert drawable("中\nb") == "\\u4e2d\nb"


def test_text_without_a_glyph_is_saved_without_a_warning(tmp_path):
    _, ax = plt.subplots()
    ax.set_title("checkpoint 中")
    ax.set_xticks([0, 1], ["привет", "中文"])
    ax.plot([0, 1], label="\U0001f469")
    ax.legend()
    save_figure(ax.figure, tmp_path / "x.png")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["привет", r"\u4e2d\u6587"]


def test_a_png_has_200_dots_per_inch_unless_told(tmp_path):
    widths = []
    for dpi in (None, 110):
        path = save_figure(panel(None).figure, tmp_path / "x.png", dpi=dpi)
        widths.append(struct.unpack(">I", path.read_bytes()[16:20])[0])
    assert widths == [1280, 704]


def test_pdf_and_svg_hold_their_fonts(tmp_path):
    with style():
        ax = panel(None)
        ax.set_title("find me")
    pdf = save_figure(ax.figure, tmp_path / "x.pdf").read_bytes()
    assert b"/FontFile2" in pdf  # a TrueType font inside the file
    assert b"/Type3" not in pdf
    svg = save_figure(ax.figure, tmp_path / "x.svg").read_text()
    assert "<text" not in svg  # which would need the font where it is opened
    assert re.search(r'<path id="DejaVuSans-', svg)


@pytest.mark.parametrize(
    ("title", "lines"),
    [
        (
            "Teacher's margin among the student's top K: step0 (band: 95 %, 96 prompts)",
            ["Teacher's margin among the student's top K: step0", "(band: 95 %, 96 prompts)"],
        ),
        (f"{'word ' * 15} 95 % of it", None),
    ],
)
def test_a_long_title_is_broken_where_it_reads_well(title, lines, tmp_path):
    with style():
        ax = panel(None)
        ax.set_title(title)
        save_figure(ax.figure, tmp_path / "x.png")
    broken = ax.get_title(loc="left").split("\n")
    assert len(broken) > 1
    assert lines in (None, broken)
    assert not any(line.startswith("%") for line in broken)


@pytest.mark.parametrize("size", ["screen", "one-column"])
def test_long_names_stay_on_the_page(size, tmp_path):
    name = "outputs_model-1.7b-lr1e-6-run17-checkpoint-000300, and all of its long name"
    with style(size):
        ax = panel(None)
        ax.set_title(f"Title of {name}")
        ax.set_xlabel(f"label of {name}")
        ax.set_ylabel(f"label of {name}")
        ax.plot([0, 1], label=name)
        ax.legend()
        save_figure(ax.figure, tmp_path / "x.png")
    figure = ax.figure
    figure.set_dpi(200)  # the file's
    figure.draw_without_rendering()
    box = figure.bbox
    for text in (ax.get_children()[-3:], [ax.xaxis.label, ax.yaxis.label], ax.get_legend().texts):
        for one in text:
            if hasattr(one, "get_text") and one.get_text():
                place = one.get_window_extent()
                assert box.x0 - 1 <= place.x0 < place.x1 <= box.x1 + 1
                assert box.y0 - 1 <= place.y0 < place.y1 <= box.y1 + 1
    assert "".join(ax.get_xlabel().split()) == f"label of {name}".replace(" ", "")


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        save_figure(panel(None).figure, tmp_path / "file" / "x.png")


@pytest.mark.parametrize("size", ["screen", "one-column"])
@pytest.mark.parametrize("entries", [1, 6])
@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_legend_below_hides_neither_label_nor_axes(size, entries, lines, tmp_path):
    """Whether the label has several lines from the start, or is broken when it is saved."""
    with style(size):
        ax = panel(None)
        for i in range(entries):
            ax.plot([0, 1], [0, i], label=f"the entry of number {i}")
        ax.set_xlabel("\n".join(["what is measured here (unit)"] * min(lines, 2)))
        legend_below(ax)
        figure = ax.figure
        if lines == 3:
            ax.set_xlabel("what is measured here, in very many words of a long label, " * 2)
            save_figure(figure, tmp_path / "x.png")
            assert "\n" in ax.get_xlabel()
        figure.draw_without_rendering()
    legend = ax.get_legend().get_window_extent()
    assert legend.y1 <= ax.xaxis.label.get_window_extent().y0
    assert legend.x1 <= figure.bbox.x1
    assert legend.y0 >= 0


def test_ticks_of_logarithmic_axes_are_plain_numbers():
    """Formulas are off, so that a $ in a name is a $: a tick must not be one either."""
    with style():
        ax = panel(None)
        ax.plot([1e-3, 10.0], [-0.1, 100.0])
        ax.set_xscale("log")
        ax.set_yscale("symlog", linthresh=0.01)
        plain_powers(ax)
        ax.figure.draw_without_rendering()
    for axis, some in ((ax.xaxis, "0.01"), (ax.yaxis, "-0.01")):
        labels = [label.get_text() for label in axis.get_ticklabels(which="both")]
        assert some in labels
        assert not [label for label in labels if "$" in label]


@pytest.mark.parametrize(
    ("n", "words"), [(0, "0 rollouts"), (1, "1 rollout"), (2_000, "2,000 rollouts")]
)
def test_numbers_agree_with_their_nouns(n, words):
    assert counted(n, "rollout") == words
