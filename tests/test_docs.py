"""README holds every command and docs/tables.md every column, as they are now."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

import opd_diag
from opd_diag import datasets
from opd_diag.cli import app
from opd_diag.tables.columns import RESULTS
from opd_diag.tables.describe import all_tables

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
TABLES = DOCS / "tables.md"


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


def test_the_reference_holds_every_public_function() -> None:
    shown = re.findall(r"^::: opd_diag\.([\w.]+)$", (DOCS / "reference.md").read_text(), re.M)
    errors = {name for name in opd_diag.__all__ if name.endswith("Error")}
    whole = {name for name in opd_diag.__all__ if "." not in name} - errors
    assert whole - {"datasets", "plots", "stats"} <= set(shown)
    assert {f"datasets.{name}" for name in datasets.__all__ if name.endswith("_run")} <= set(shown)


def test_the_site_shows_every_page_and_notebook() -> None:
    shown = (README.parent / "mkdocs.yml").read_text()
    for path in [*DOCS.glob("*.md"), *(README.parent / "notebooks").glob("*.ipynb")]:
        assert f"{path.name}\n" in shown


def test_the_ten_lines_of_an_own_analysis_run(tmp_path, capsys) -> None:
    run = datasets.save_run(datasets.ugly_run(seed=1), tmp_path / "run")
    code = re.search(r"```python\n(.*?)```", (DOCS / "own_analysis.md").read_text(), re.S)
    assert code is not None
    exec(code[1].replace('"run"', repr(str(run.path))), {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == ["early", "late"]
    for line in printed:
        low, high = map(float, re.findall(r"[\d.]+", line.split("[")[1])[:2])
        assert low < float(line.split()[1]) < high
