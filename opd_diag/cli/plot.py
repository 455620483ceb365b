"""opd-diag plot: draw the figures that a run's results allow, or the text of one rollout."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import opd_diag
from opd_diag.cli.printing import print_lines, print_written
from opd_diag.cli.root_command import app

ROLLOUT = "With the name rollout"
FILES = "Files"


@app.command(epilog="Example: opd-diag plot run release-points overview --format pdf")
def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]",
            help="Analyses and interventions (all figures of each), figures, overview (one page), "
            "rollout (the text of one, with --id) or all; default: a few of each analysis.",
        ),
    ] = None,
    id: Annotated[  # noqa: A002
        str | None,
        typer.Option(help="Its rollout_id or row number.", rich_help_panel=ROLLOUT),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What colours the tokens, such as margin, grad_logits, gain; default: reverse_kl.",
            rich_help_panel=ROLLOUT,
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Checkpoint; default: the first, or the last for gain.",
            rich_help_panel=ROLLOUT,
        ),
    ] = None,
    format: Annotated[  # noqa: A002
        Literal["png", "svg", "pdf"],
        typer.Option(help="Format of the files.", rich_help_panel=FILES),
    ] = "png",
    size: Annotated[
        Literal["screen", "one-column", "two-columns"],
        typer.Option(
            help="Width of the figures: a screen's, or one or two columns of a paper.",
            rich_help_panel=FILES,
        ),
    ] = "screen",
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where `analyze --out` put the result tables; default: RUN/results.",
            rich_help_panel=FILES,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where the files go; default: RUN/plots.", rich_help_panel=FILES
        ),
    ] = None,
) -> None:
    """Draw the figures that a run's results allow, and name those that it does not."""
    options = locals()
    drawn = opd_diag.plot(**options | {"names": names or ()})
    print_written(drawn.paths, "figure")
    missing: dict[str, list[str]] = {}
    for name, reason in drawn.missing.items():
        missing.setdefault(reason, []).append(name)
    print_lines(f"not drawn: {', '.join(names)}: {reason}" for reason, names in missing.items())
