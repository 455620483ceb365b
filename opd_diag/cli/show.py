"""What the commands share: tables and lines for a person on stdout, and lists of numbers."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import typer

Number = TypeVar("Number", int, float)
WIDE = 240


def heading(text: str) -> None:
    """Print the name of a section, after an empty line."""
    typer.echo(f"\n{typer.style(text, bold=True)}")


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
    if not console.is_terminal:
        console = Console(width=WIDE)  # a pipe has no width of its own
    console.print(grid)


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


def numbers(option: str, text: str, kind: Callable[[str], Number]) -> list[Number]:
    """Read numbers with commas between them.

    Raises:
        typer.BadParameter: If one is no number.
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{option}: {text!r}; expected numbers with commas between them"
        ) from None


def positive(value: float) -> float:
    """Return a number that is above 0.

    Raises:
        typer.BadParameter: If it is not.
    """
    if not value > 0:
        raise typer.BadParameter(f"{value}; expected a positive number")
    return value
