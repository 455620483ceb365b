"""opd-diag analyze: the group of the analyses, and all of them in turn."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import opd_diag
from opd_diag.cli.printing import print_heading, print_lines, print_written
from opd_diag.cli.root_command import app
from opd_diag.errors import OpdDiagError

if TYPE_CHECKING:
    from opd_diag.tables.run import Run

analyses = typer.Typer(
    no_args_is_help=True,
    help="Answer one question about a scored run, or all of them.",
    epilog="Example: opd-diag analyze all run",
)
app.add_typer(analyses, name="analyze")

SELECTION = "Checkpoints and rollouts"
OUTPUT = "Seed and output"

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Checkpoint = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Checkpoint to analyse; repeat for more; default: all.",
        rich_help_panel=SELECTION,
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Only rollouts of this policy.", rich_help_panel=SELECTION),
]
Step = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Only rollouts of this training step.", rich_help_panel=SELECTION
    ),
]
Seed = Annotated[
    int, typer.Option(metavar="N", help="Seed of every random draw.", rich_help_panel=OUTPUT)
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where the result tables go; default: RUN/results.",
        rich_help_panel=OUTPUT,
    ),
]

# Teachability selects by what the others have found, so it comes last.
ORDER = ("release_points", "rock_tokens", "agreement_traps", "teachability")


def run_analysis(name: str, run: "Run | Path", out: Path | None, **options: Any) -> None:
    """Call the library function, write its tables, print its summary.

    Args:
        name: Name of the function and of its module.
        run: A run, or its folder.
        out: Folder of the results, or None for the run's own.
        **options: What the function is called with.
    """
    opened = opd_diag.open_run(run) if isinstance(run, Path) else run
    result = getattr(opd_diag, name)(opened, **options)
    written = opened.save(result._asdict(), arguments=options, folder=out)
    if retokenised := int((~opened.rollouts["token_exact"]).sum()):
        print_lines(
            [
                f"{retokenised:,} of {opened.rollouts.height:,} rollouts were tokenised again from "
                "text: tokens may differ from those that were generated."
            ]
        )
    print_lines(import_module(f"opd_diag.analyses.{name}").summary_lines(result))
    print_written(written, "table")


@analyses.command("all", epilog="Example: opd-diag analyze all run --seed 1")
def analyze_all(
    run: RunFolder,
    checkpoint: Checkpoint = None,
    policy: Policy = None,
    step: Step = None,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Run every analysis with its defaults; one that fails does not stop the others."""
    options = locals() | {"run": opd_diag.open_run(run)}
    failed = []
    for name in ORDER:
        print_heading(name.replace("_", "-"))
        try:
            run_analysis(name, **options)
        except OpdDiagError as error:
            typer.echo(f"error: {error}", err=True)
            failed.append(name.replace("_", "-"))
    if failed:
        typer.echo(f"failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
