"""A short form of `benchmarks.validate_findings`: the answers to runs in which nothing is there."""

import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import binom

from benchmarks.planted_effects import PLANTED
from opd_diag.analyses.questions import QUESTIONS

ROOT = Path(__file__).parents[3]
SEEDS = 8
KINDS = ("all", "falling")


@pytest.fixture(scope="module")
def printed() -> str:
    """What the study prints for a few runs of two nulls, and one run with each effect."""
    command = [sys.executable, "-m", "benchmarks.validate_findings", "--power-seeds", "1"]
    options = ["--seeds", str(SEEDS), "--kinds", *KINDS]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def rows(printed: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading."""
    lines = printed.split(heading, 1)[1].splitlines()
    table = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return table[2:]


def test_few_runs_in_which_nothing_is_there_are_answered_with_yes(printed):
    table = rows(printed, "### Nothing is there")
    assert [row[0] for row in table] == list(KINDS)
    false = sum(round(float(row[1].split("±")[0]) / 100 * SEEDS) for row in table)
    # A tenth of the runs may err: as many as this or more, once in a thousand suites.
    assert false <= binom.isf(0.001, SEEDS * len(KINDS), 0.1)


def test_every_question_is_asked_of_a_planted_effect_and_most_are_found(printed):
    table = rows(printed, "### Planted effects")
    asked = [key for key in QUESTIONS if key in PLANTED]
    # Those of benchmarks/validate_losses.py and validate_interventions.py.
    assert set(QUESTIONS) - set(asked) == {"loss-off", "rocks-needed", "cut-is-lost"}
    assert [row[0] for row in table] == asked
    alone = [float(row[3].split("±")[0]) for row in table]
    # Each is found in nine of ten runs or more, but for those that ask two things at once.
    assert sum(alone) >= 100 * (len(alone) - 4)
