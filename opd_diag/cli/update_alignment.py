"""opd-diag analyze update-alignment."""

from typing import Annotated

import typer

import opd_diag
from opd_diag.cli import analyze
from opd_diag.cli.option_values import name_students
from opd_diag.cli.printing import print_lines, print_written

MODELS = "Models"


@analyze.analyses.command(
    "update-alignment",
    epilog="Example: opd-diag analyze update-alignment run --rollouts 48",
)
def update_alignment(
    run: analyze.RunFolder,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Teacher; default: as scored.", rich_help_panel=MODELS),
    ] = None,
    students: Annotated[
        list[str] | None,
        typer.Option(
            "--student",
            metavar="NAME=PATH",
            help="Checkpoint that has moved; repeat for more; default: as scored.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    group: analyze.Group = None,
    rollouts: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Rollouts to differentiate; default: ten minutes' worth."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="First tokens of a response to differentiate; memory grows with their square; "
            "default: all.",
        ),
    ] = None,
    without_random: Annotated[
        bool,
        typer.Option(
            "--without-random",
            help="Leave out the 20 random directions, which take 20 times the work.",
        ),
    ] = False,
    subspace: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Project gradients on N leading directions; 0: do not."
        ),
    ] = 0,
    matrices: Annotated[
        str,
        typer.Option(metavar="GLOB", help="Matrices of --subspace, such as '*.o_proj.weight'."),
    ] = "*",
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run code that comes with a model.",
            rich_help_panel=MODELS,
        ),
    ] = False,
    seed: analyze.Seed = 0,
    out: analyze.Out = None,
) -> None:
    """Find which tokens an update of the student served, by derivatives along it."""
    options = locals() | {"students": name_students(students) if students else None}
    del options["out"]
    from opd_diag.updates import summary_lines

    opened = opd_diag.open_run(options.pop("run"))
    result = opd_diag.update_alignment(opened, **options)
    written = opened.save(result, folder=out)
    print_lines(summary_lines(result))
    print_written(written, "table")
