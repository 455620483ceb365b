"""opd-diag plot: draw the figures that a run's results allow."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from opd_diag.cli import show
from opd_diag.cli.app import app


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Analyses (all figures of each) or figures; default: all."
        ),
    ] = None,
    format: Annotated[  # noqa: A002
        Literal["png", "svg", "pdf"], typer.Option(help="Format of the files.")
    ] = "png",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the files; default: RUN/plots.")
    ] = None,
) -> None:
    """Draw the figures that a run's results allow, and name those that it does not."""
    from opd_diag.plots.figures import plot as library_plot

    drawn = library_plot(run, names or (), format=format, out=out)
    show.paths(drawn.paths)
    show.lines(f"not drawn: {name} ({reason})" for name, reason in drawn.missing.items())
