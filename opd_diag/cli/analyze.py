"""opd-diag analyze: one command for each analysis."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from opd_diag.cli import show
from opd_diag.cli.app import app

commands = typer.Typer(no_args_is_help=True, help="Ask one question of a scored run.")
app.add_typer(commands, name="analyze")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Checkpoint = Annotated[
    list[str] | None, typer.Option(help="Checkpoint to look at; repeat for more; default: all.")
]
Policy = Annotated[str | None, typer.Option(help="Only rollouts of this policy.")]
Step = Annotated[int | None, typer.Option(help="Only rollouts of this training step.")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the results; default: RUN/results.")]


def run_analysis(
    analysis: Callable[..., Any],
    summary: Callable[[Any], list[str]],
    run: Path,
    out: Path | None,
    arguments: Mapping[str, Any],
) -> None:
    """Open the run, call the library function, write its tables, print the summary."""
    from opd_diag.tables.run import open_run

    opened = open_run(run)
    result = analysis(opened, **arguments)
    written = opened.save(result._asdict(), arguments=arguments, folder=out)
    show.lines(summary(result))
    show.paths(written)
