"""opd-diag analyze: one command for each analysis."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

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
    show.lines(module.summary_lines(result))
    show.paths(written)


@commands.command("release-points")
def release_points(
    run: RunFolder,
    checkpoint: Checkpoint = None,
    policy: Policy = None,
    step: Step = None,
    preset: Annotated[
        Literal["opd-diag", "paper"],
        typer.Option(help="opd-diag: 3 segments a side, 8 in all, gain above 6; paper: 1, 4, 0."),
    ] = "opd-diag",
    min_size: Annotated[
        int | None, typer.Option(min=1, help="Fewest segments a side; default: the preset's.")
    ] = None,
    min_segments: Annotated[
        int | None, typer.Option(min=2, help="Fewest segments; default: the preset's.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Gain in nat to exceed; default: the preset's.")
    ] = None,
    k: Annotated[int, typer.Option(help="K of the margin.")] = 4,
    segmenter: Annotated[
        str, typer.Option(metavar="NAME", help="punkt (as stored), newline or block:N.")
    ] = "punkt",
    token_weighted: Annotated[
        bool, typer.Option("--token-weighted", help="Weigh segments by their tokens.")
    ] = False,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Find where in a rollout supervision stops being discriminative, and whether that is real."""
    run_analysis(
        "release_points",
        run,
        out,
        checkpoint=checkpoint,
        policy=policy,
        step=step,
        preset=preset,
        min_size=min_size,
        min_segments=min_segments,
        threshold=threshold,
        k=k,
        segmenter=segmenter,
        token_weighted=token_weighted,
        seed=seed,
    )
