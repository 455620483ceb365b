"""Print for a person on stdout: lines, tables, and the paths of written files."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import typer

from opd_diag.text.escaping import for_terminal

PIPE_WIDTH = 240  # characters; a pipe has no width of its own


def echo(line: str, *, err: bool = False) -> None:
    """Print one line, whatever texts of others are in it."""
    typer.echo(for_terminal(line), err=err)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        echo(line)


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, its numbers on the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Cells are Text: brackets in a token or a path are not markup.
    grid = Table(
        title=Text(for_terminal(title), style="bold"), title_justify="left", box=box.SIMPLE_HEAD
    )
    rows = [list(row) for row in rows]
    for place, name in enumerate(header):
        numeric = all(isinstance(row[place], int | float | None) for row in rows)
        grid.add_column(Text(name), justify="right" if numeric else "left")
    for row in rows:
        grid.add_row(*(Text(_cell(value)) for value in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    console.print(grid)


def _cell(value: object) -> str:
    """Write one value: grouped thousands, four significant digits, a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return for_terminal(str(value))


def print_written(paths: Sequence[Path], noun: str) -> None:
    """Print what was written in one line: a file by its path, several by their folders.

    Args:
        paths: The files.
        noun: What one of them is, such as `table`.
    """
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    for folder, inside in folders.items():
        if len(inside) == 1:
            echo(f"wrote {inside[0]}")
        else:
            echo(f"wrote {len(inside)} {noun}s to {folder}")
