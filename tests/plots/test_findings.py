import polars as pl
import pytest

from opd_diag import plots
from opd_diag.plots.style import why_blank
from opd_diag.tables.columns.findings import FINDINGS
from opd_diag.tables.schema import empty_table


def rows(*given):
    """A table of some rows; what is not named is null."""
    full = empty_table(FINDINGS)
    base = {"checkpoint": "a", "unit": "nat", "text": "Is it so?"}
    frames = [pl.DataFrame([base | row]) for row in given]
    made = pl.concat([full, *frames], how="diagonal_relaxed")
    return made.cast(full.schema)


NUMBERS = {"estimate": 0.5, "estimate_low": 0.4, "estimate_high": 0.6, "control": 0.3}
DIFFERENCE = {"difference": 0.2, "difference_low": 0.1, "difference_high": 0.3, "margin": 0.1}


@pytest.fixture
def table():
    return rows(
        {"question": "rocks-stay", "answer": "yes", **NUMBERS, **DIFFERENCE},
        {"question": "margin-falls", "answer": "no", "checkpoint": "a", **NUMBERS, **DIFFERENCE},
        {
            "question": "margin-falls",
            "answer": "undecided",
            "checkpoint": "b",
            **NUMBERS,
            **DIFFERENCE | {"difference": -0.05, "difference_low": -0.4, "difference_high": 80.0},
        },
        {"question": "margin-drops", "answer": "not asked"},
        {"question": "cut-drops-poor", "answer": "undecided", **NUMBERS},
    )


def test_differences_stand_in_margins_one_row_a_question(table):
    ax = plots.findings(table)
    places = {
        line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"
    }
    assert places == pytest.approx({0: 2.0, 1: -0.5})
    ends = [segment[:, 0].tolist() for c in ax.collections for segment in c.get_segments()]
    assert ends[0] == pytest.approx([1.0, 3.0])
    assert ends[1] == pytest.approx([-4.0, 300.0])  # cut at the edge
    assert len(ax.get_yticks()) == 4
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"yes", "undecided"}


def test_the_numbers_stand_beside_and_what_was_not_asked_is_said(table):
    said = [text.get_text() for text in plots.findings(table).texts]
    assert said[0] == "0.5 [0.4, 0.6] against 0.3 nat (a)"
    assert said[1].endswith("(b)")
    assert said[2] == "not asked"
    assert said[3].startswith("undecided: 0.5")


def test_a_table_without_rows_says_so():
    ax = plots.findings(rows())
    assert why_blank(ax.get_figure()) == "no question"
