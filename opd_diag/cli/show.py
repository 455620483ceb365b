"""What a command prints: tables and lines for a person, on stdout."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import typer


def lines(text: Iterable[str]) -> None:
    """Print lines as they are."""
    for line in text:
        typer.echo(line)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, its numbers on the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Cells are Text: brackets in a token or a path are no markup.
    grid = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    rows = [list(row) for row in rows]
    for place, name in enumerate(header):
        numeric = all(isinstance(row[place], int | float | None) for row in rows)
        grid.add_column(Text(name), justify="right" if numeric else "left")
    for row in rows:
        grid.add_row(*(Text(cell(value)) for value in row))
    console = Console()
    # A pipe has no width: let a line be as long as its row.
    console.print(grid, soft_wrap=not console.is_terminal)


def cell(value: object) -> str:
    """Write one value for a person: grouped thousands, four significant digits, a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def paths(written: Iterable[Path]) -> None:
    """Print the paths of the files written."""
    for path in written:
        typer.echo(f"wrote {path}")
