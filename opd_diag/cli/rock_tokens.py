"""opd-diag analyze rock-tokens."""

from typing import Annotated, Literal

import typer

from opd_diag.cli import analyze


@analyze.commands.command("rock-tokens")
def rock_tokens(
    run: analyze.RunFolder,
    checkpoint: analyze.Checkpoint = None,
    policy: analyze.Policy = None,
    step: analyze.Step = None,
    second: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="A run of other rollouts, compared without pairing."),
    ] = None,
    second_checkpoint: Annotated[
        str | None, typer.Option(help="Its checkpoint; default: the last one.")
    ] = None,
    preset: Annotated[
        Literal["opd-diag", "paper"],
        typer.Option(help="paper: without the 5 most frequent types, ranks 101-200 as controls."),
    ] = "opd-diag",
    loss: Annotated[
        Literal["reverse_kl", "forward_kl", "sampled_log_ratio"],
        typer.Option(help="Loss that ranks the types."),
    ] = "reverse_kl",
    top: Annotated[int, typer.Option(min=1, help="Types in the list.")] = 100,
    min_count: Annotated[
        int, typer.Option(min=1, help="Fewest occurrences of a type that is ranked.")
    ] = 2,
    exclude_top_frequent: Annotated[
        int | None,
        typer.Option(min=0, help="Most frequent types left out; default: the preset's."),
    ] = None,
    detail: Annotated[
        int, typer.Option(min=1, help="Types that get intervals and the context stage.")
    ] = 500,
    tau: Annotated[
        Literal["own", "first"],
        typer.Option(help="Whose 80th percentile of the loss makes an occurrence persistent."),
    ] = "own",
    eta: Annotated[
        float, typer.Option(help="Share of similar contexts that makes one recur.")
    ] = 0.1,
    seed: analyze.Seed = 0,
    out: analyze.Out = None,
) -> None:
    """Find token types that stay far from the teacher, and ask if that is more than frequency."""
    analyze.run_analysis(
        "rock_tokens",
        run,
        out,
        checkpoint=checkpoint,
        policy=policy,
        step=step,
        second=second,
        second_checkpoint=second_checkpoint,
        preset=preset,
        loss=loss,
        top=top,
        min_count=min_count,
        exclude_top_frequent=exclude_top_frequent,
        detail=detail,
        tau=tau,
        eta=eta,
        seed=seed,
    )
