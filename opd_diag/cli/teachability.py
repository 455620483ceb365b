"""opd-diag analyze teachability."""

from typing import Annotated, Literal

import typer

from opd_diag.cli import analyze
from opd_diag.cli.option_values import numbers


@analyze.analyses.command(
    "teachability",
    epilog="Example: opd-diag analyze teachability run --checkpoint step0 --checkpoint step300",
)
def teachability(
    run: analyze.RunFolder,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Checkpoint after training, or the ones before and after it; default: the last.",
            rich_help_panel=analyze.SELECTION,
        ),
    ] = None,
    policy: analyze.Policy = None,
    step: analyze.Step = None,
    group: analyze.Group = None,
    features_from: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Checkpoint of the features; default: the one before the gain starts, if any.",
            rich_help_panel=analyze.SELECTION,
        ),
    ] = None,
    gain_from: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Checkpoint from which gain is measured; default: the second of three or more.",
            rich_help_panel=analyze.SELECTION,
        ),
    ] = None,
    kl: Annotated[
        Literal["auto", "forward_kl", "reverse_kl"],
        typer.Option(help="Direction that leads: the trained one; auto: the one that fell more."),
    ] = "auto",
    divergence: Annotated[
        Literal["full", "union"],
        typer.Option(help="KL over the whole vocabulary, or over the union of both top 16."),
    ] = "full",
    scale: Annotated[
        Literal["paper", "rank"],
        typer.Option(help="Clipped between the 5th and 95th percentile, or percentile ranks."),
    ] = "paper",
    k: Annotated[int, typer.Option(metavar="K", help="K of the teacher's mass.")] = 16,
    within: Annotated[
        Literal["run", "prompt"], typer.Option(help="Where matched pairs are sought.")
    ] = "run",
    budgets: Annotated[
        str,
        typer.Option(
            metavar="SHARE,...",
            callback=numbers(float),
            help="Shares of tokens that selectors may choose.",
        ),
    ] = "0.01,0.03,0.05,0.1,0.2,0.5",
    budget_per: Annotated[
        Literal["run", "rollout"], typer.Option(help="What a budget is a share of.")
    ] = "run",
    trained_steps: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="FIRST LAST",
            help="Training steps of the two checkpoints; default: from the rollouts.",
        ),
    ] = None,
    noise_floor: Annotated[
        float | None,
        typer.Option(
            metavar="NAT", help="KL that cannot be told from 0; default: the run's own floor."
        ),
    ] = None,
    seed: analyze.Seed = 0,
    out: analyze.Out = None,
) -> None:
    """Measure which disagreement was learned at fixed contexts, and what would have found it."""
    analyze.run_analysis("teachability", **locals())
