"""opd-diag analyze: the group of the analyses, and all of them in turn."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from opd_diag.cli import show
from opd_diag.cli.app import app
from opd_diag.errors import OpdDiagError

commands = typer.Typer(no_args_is_help=True, help="Ask one question of a scored run, or all.")
app.add_typer(commands, name="analyze")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Checkpoint = Annotated[
    list[str] | None, typer.Option(help="Checkpoint to look at; repeat for more; default: all.")
]
Policy = Annotated[str | None, typer.Option(help="Only rollouts of this policy.")]
Step = Annotated[int | None, typer.Option(help="Only rollouts of this training step.")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the results; default: RUN/results.")]

# Teachability selects by what the others have found, so it comes last.
ORDER = ("release_points", "rock_tokens", "agreement_traps", "teachability")


def run_analysis(name: str, run: Path, out: Path | None, **arguments: Any) -> None:
    """Open the run, call the library function, write its tables, print the summary.

    Args:
        name: Name of the function and of its module.
        run: Folder of the run.
        out: Folder of the results, or None for the run's own.
        **arguments: What the function is called with.
    """
    from opd_diag.tables.run import open_run

    module = import_module(f"opd_diag.analyses.{name}")
    opened = open_run(run)
    result = getattr(module, name)(opened, **arguments)
    written = opened.save(result._asdict(), arguments=arguments, folder=out)
    if retokenised := int((~opened.rollouts["token_exact"]).sum()):
        show.lines(
            [
                f"{retokenised:,} of {opened.rollouts.height:,} rollouts were tokenised again from "
                "text: tokens may differ from those that were generated."
            ]
        )
    show.lines(module.summary_lines(result))
    show.paths(written)


@commands.command("all")
def analyze_all(
    run: RunFolder,
    checkpoint: Checkpoint = None,
    policy: Policy = None,
    step: Step = None,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Run the four analyses with their defaults; one that fails does not stop the others."""
    failed = []
    for name in ORDER:
        show.heading(name.replace("_", "-"))
        try:
            run_analysis(name, run, out, checkpoint=checkpoint, policy=policy, step=step, seed=seed)
        except OpdDiagError as error:
            typer.echo(f"error: {error}", err=True)
            failed.append(name.replace("_", "-"))
    if failed:
        typer.echo(f"failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
