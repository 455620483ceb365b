"""opd-diag analyze rock-tokens."""

from typing import Annotated, Literal

import typer

from opd_diag.cli import analyze


@analyze.analyses.command(
    "rock-tokens", epilog="Example: opd-diag analyze rock-tokens run --loss forward_kl --top 50"
)
def rock_tokens(
    run: analyze.RunFolder,
    checkpoint: analyze.Checkpoint = None,
    policy: analyze.Policy = None,
    step: analyze.Step = None,
    group: analyze.Group = None,
    second: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="A run of other rollouts, compared with the first checkpoint without pairing.",
            rich_help_panel=analyze.SELECTION,
        ),
    ] = None,
    second_checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Its checkpoint; default: the last one.",
            rich_help_panel=analyze.SELECTION,
        ),
    ] = None,
    preset: Annotated[
        Literal["opd-diag", "paper"],
        typer.Option(
            help="paper: without the 5 most frequent types, with ranks 101-200 as controls."
        ),
    ] = "opd-diag",
    loss: Annotated[
        Literal["reverse_kl", "forward_kl", "sampled_log_ratio"],
        typer.Option(help="Loss that ranks the types."),
    ] = "reverse_kl",
    rank_by: Annotated[
        Literal["last", "first", "joint"],
        typer.Option(
            help="Checkpoint whose loss ranks the types; joint: the smaller one of first and last."
        ),
    ] = "last",
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Types in the list.")] = 100,
    min_count: Annotated[
        int, typer.Option(min=1, metavar="N", help="Fewest occurrences of a type that is ranked.")
    ] = 2,
    exclude_top_frequent: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Most frequent types left out; default: the preset's."
        ),
    ] = None,
    detail: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Types with intervals and an analysis of contexts."),
    ] = 500,
    tau: Annotated[
        Literal["own", "first"],
        typer.Option(
            help="Checkpoint whose 80th percentile of the loss makes an occurrence persistent."
        ),
    ] = "own",
    eta: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Share of similar contexts from which one recurs."),
    ] = 0.1,
    seed: analyze.Seed = 0,
    out: analyze.Out = None,
) -> None:
    """Find token types that stay far from the teacher, and ask if that is more than frequency."""
    analyze.run_analysis("rock_tokens", **locals())
