"""opd-diag analyze agreement-traps."""

from typing import Annotated, Literal

import typer

from opd_diag.cli import analyze


@analyze.commands.command("agreement-traps")
def agreement_traps(
    run: analyze.RunFolder,
    checkpoint: analyze.Checkpoint = None,
    policy: analyze.Policy = None,
    step: analyze.Step = None,
    mode: Annotated[
        Literal["run", "replay"],
        typer.Option(help="Threshold from all other prompts, or from earlier rollouts as online."),
    ] = "run",
    window: Annotated[int, typer.Option(min=1, help="Tokens in a window.")] = 64,
    eta: Annotated[float, typer.Option(help="Share of the minima above the threshold.")] = 0.3,
    consecutive: Annotated[
        int, typer.Option(min=1, help="Windows in a row below the threshold that fire the rule.")
    ] = 4,
    grace: Annotated[
        int | None,
        typer.Option(min=0, help="Windows that end before so many tokens are passed over."),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(help="A number in nat, or a checkpoint whose own is taken; default: its own."),
    ] = None,
    buffer: Annotated[int, typer.Option(min=1, help="replay: minima in the buffer.")] = 4096,
    warmup_rollouts: Annotated[
        int, typer.Option(min=0, help="replay: minima before the rule is active.")
    ] = 512,
    warmup_steps: Annotated[
        int, typer.Option(min=0, help="replay: steps before the rule is active.")
    ] = 50,
    update: Annotated[
        Literal["step", "rollout"],
        typer.Option(help="replay: the buffer grows after each step, or after each rollout."),
    ] = "step",
    repeat_ngram: Annotated[
        int, typer.Option(min=1, help="Tokens of an n-gram that count as a repetition.")
    ] = 32,
    control_rollouts: Annotated[
        int, typer.Option(min=1, help="Most rollouts that are shuffled and compared.")
    ] = 2000,
    draws: Annotated[int, typer.Option(min=1, help="Shuffles, and draws of random cuts.")] = 20,
    trace: Annotated[
        int | None, typer.Option(help="Rollout to trace; default: the longest stretch.")
    ] = None,
    seed: analyze.Seed = 0,
    out: analyze.Out = None,
) -> None:
    """Find persistent low KL, ask if it is agreement, and what a cut there would lose."""
    analyze.run_analysis(
        "agreement_traps",
        run,
        out,
        checkpoint=checkpoint,
        policy=policy,
        step=step,
        mode=mode,
        window=window,
        eta=eta,
        consecutive=consecutive,
        grace=grace,
        threshold=threshold,
        buffer=buffer,
        warmup_rollouts=warmup_rollouts,
        warmup_steps=warmup_steps,
        update=update,
        repeat_ngram=repeat_ngram,
        control_rollouts=control_rollouts,
        draws=draws,
        trace=trace,
        seed=seed,
    )
