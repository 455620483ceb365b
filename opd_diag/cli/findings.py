"""opd-diag analyze findings."""

from pathlib import Path
from typing import Annotated

import typer

import opd_diag
from opd_diag.cli import analyze
from opd_diag.cli.printing import print_written


@analyze.analyses.command(
    epilog="Example: opd-diag analyze findings run --fail-on low-kl-stretches"
)
def findings(
    run: analyze.RunFolder,
    fail_on: analyze.FailOn = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the results, read and written; default: RUN/results.",
            rich_help_panel=analyze.OUTPUT,
        ),
    ] = None,
) -> None:
    """Answer every question that the results of a run allow, with one error rate for all."""
    table, path = analyze.save_findings(opd_diag.open_run(run), out)
    analyze.print_findings(table)
    print_written([path], "table")
    analyze.fail_on_yes(table, fail_on or ())
