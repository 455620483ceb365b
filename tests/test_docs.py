"""README holds every command and docs/tables.md every column, as they are now."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from opd_diag.cli import app
from opd_diag.tables.columns import RESULTS
from opd_diag.tables.describe import all_tables

README = Path(__file__).parents[1] / "README.md"
TABLES = README.parent / "docs" / "tables.md"


def commands() -> list[str]:
    found = []
    for name, command in get_command(app).commands.items():
        below = getattr(command, "commands", None)
        found += [f"{name} {inner}" for inner in below] if below else [name]
    return found


@pytest.mark.parametrize("command", commands())
def test_readme_shows_every_command(command: str) -> None:
    assert f"opd-diag {command}" in README.read_text()


def test_the_page_of_tables_holds_every_column_as_it_is() -> None:
    """Mend a failure with `python -m opd_diag.tables.describe docs/tables.md`."""
    assert TABLES.read_text() == all_tables()
    for name, columns in RESULTS.items():
        section = TABLES.read_text().split(f"### {name}\n", 1)[1].split("\n#", 1)[0]
        assert section.count("\n| `") == len(columns)


def test_every_result_table_starts_with_its_checkpoint() -> None:
    for name, columns in RESULTS.items():
        assert columns[0].name == "checkpoint", name


def test_every_figure_that_readme_shows_exists() -> None:
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README.read_text()):
        assert (README.parent / path).is_file(), path


def test_every_path_that_readme_names_exists() -> None:
    for path in re.findall(
        r"`((?:benchmarks|sample_data|notebooks|tests)/[\w./-]*)`", README.read_text()
    ):
        assert (README.parent / path).exists(), path
