"""One name, four places: every command is a library function with the same defaults."""

import inspect
from collections.abc import Callable
from typing import Any, get_args

import pytest
from typer.main import get_command

import opd_diag
from opd_diag.cli import app
from opd_diag.cli import read as cli_read
from opd_diag.cli.analyze import ORDER
from opd_diag.rollouts.formats import FORMATS
from opd_diag.tables.columns import ANALYSES as COLUMNS_OF_ANALYSES
from opd_diag.tables.columns import RESULTS

# What only one side has: paths and printing here, frames in memory and callbacks there.
ONLY_COMMAND = {"run", "out", "as_json", "rollouts"}
ONLY_FUNCTION = {"run", "rollouts", "k_grid", "out", "progress", "paths", "tokenizer"}


def callbacks() -> dict[str, Callable[..., Any]]:
    found = {}
    for name, command in get_command(app).commands.items():
        inner = getattr(command, "commands", {name: command})
        found |= {key: value.callback for key, value in inner.items()}
    return {name: inspect.unwrap(function) for name, function in found.items()}


COMMANDS = callbacks()
ANALYSES = [name for name in COMMANDS if name not in ("score", "plot", "info", "check", "all")]


def options(function: Callable[..., Any], without: set[str]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: listed(p.default) for p in parameters if p.name not in without}


def listed(default: Any) -> Any:
    """A list of numbers is a text with commas in a command, and a tuple in a function."""
    if isinstance(default, str) and "," in default:
        return tuple(map(float, default.split(",")))
    return default


@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_has_the_options_and_defaults_of_its_function(name: str) -> None:
    function = getattr(opd_diag, name.replace("-", "_"))
    command = options(COMMANDS[name], ONLY_COMMAND)
    assert command == options(function, ONLY_FUNCTION)


@pytest.mark.parametrize("name", ANALYSES)
def test_the_first_table_is_named_after_the_command(name: str) -> None:
    table = name.replace("-", "_")
    assert table in RESULTS
    function = getattr(opd_diag, table)
    fields = list(inspect.signature(function, eval_str=True).return_annotation._fields)
    assert fields[0] == table
    assert set(fields) <= set(RESULTS)


def test_score_has_the_options_of_reading_and_scoring() -> None:
    command = options(COMMANDS["score"], ONLY_COMMAND)
    expected = options(opd_diag.read_rollouts, ONLY_FUNCTION)
    expected |= options(opd_diag.score, {"rollouts", "out", "progress"})
    assert command == expected


def test_check_has_the_options_of_reading_and_checking() -> None:
    command = options(COMMANDS["check"], ONLY_COMMAND - {"out"})
    expected = options(opd_diag.read_rollouts, ONLY_FUNCTION)
    expected |= options(opd_diag.check, {"rollouts"})
    assert command == expected


def test_every_analysis_is_a_command_and_all_runs_each() -> None:
    assert sorted(ANALYSES) == sorted(name.replace("_", "-") for name in COLUMNS_OF_ANALYSES)
    assert sorted(ORDER) == sorted(COLUMNS_OF_ANALYSES)


def test_formats_are_those_of_the_readers() -> None:
    literal, _ = get_args(get_args(cli_read.FormatName)[0])
    assert sorted(get_args(literal)) == sorted(form.name for form in FORMATS)


@pytest.mark.parametrize("name", [n for n in opd_diag.__all__ if n not in ("datasets", "stats")])
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(opd_diag, name) is not None
    assert name in dir(opd_diag)
