"""opd-diag report: write one page with the findings, figures and tokens of a run."""

from pathlib import Path
from typing import Annotated

import typer

import opd_diag
from opd_diag.cli.printing import print_lines
from opd_diag.cli.root_command import app


@app.command(epilog="Example: opd-diag report run --out run.html")
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[OTHER]", help="A second run to set beside it."),
    ] = None,
    rollouts: Annotated[
        int, typer.Option(metavar="N", help="Most rollouts whose tokens are shown.")
    ] = 40,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; default: RUN/report.html.")
    ] = None,
) -> None:
    """Write one self-contained page to open and send: findings, figures and tokens."""
    written = opd_diag.report(**locals())
    print_lines([f"wrote {written.path} ({written.size / 1e6:.1f} MB)"])
