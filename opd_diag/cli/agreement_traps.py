"""opd-diag analyze agreement-traps."""

from typing import Annotated, Literal

import typer

from opd_diag.cli import analyze

REPLAY = "With --mode replay"
CONTROLS = "Controls"


@analyze.analyses.command(
    "agreement-traps",
    epilog="Example: opd-diag analyze agreement-traps run --window 128 --threshold step0",
)
def agreement_traps(
    run: analyze.RunFolder,
    checkpoint: analyze.Checkpoint = None,
    policy: analyze.Policy = None,
    step: analyze.Step = None,
    group: analyze.Group = None,
    mode: Annotated[
        Literal["run", "replay"],
        typer.Option(help="Threshold from all other prompts, or from earlier rollouts as online."),
    ] = "run",
    window: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens in a window.")] = 64,
    eta: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the minima above the threshold.")
    ] = 0.3,
    consecutive: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Windows in a row below the threshold that trigger the rule."
        ),
    ] = 4,
    grace: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Skip windows that end within the first N tokens."),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="NAT|NAME",
            help="A number in nat, or a checkpoint whose threshold is used; default: its own.",
        ),
    ] = None,
    buffer: Annotated[
        int, typer.Option(min=1, metavar="N", help="Minima in the buffer.", rich_help_panel=REPLAY)
    ] = 4096,
    warmup_rollouts: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Minima before the rule is active.", rich_help_panel=REPLAY
        ),
    ] = 512,
    warmup_steps: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Steps before the rule is active.", rich_help_panel=REPLAY
        ),
    ] = 50,
    update: Annotated[
        Literal["step", "rollout"],
        typer.Option(
            help="The buffer grows after each step, or after each rollout.", rich_help_panel=REPLAY
        ),
    ] = "step",
    repeat_ngram: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Tokens of an n-gram that counts as a repetition."),
    ] = 32,
    control_rollouts: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Shuffle and compare at most N rollouts.",
            rich_help_panel=CONTROLS,
        ),
    ] = 2000,
    draws: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Shuffles, and draws of random cuts.", rich_help_panel=CONTROLS
        ),
    ] = 20,
    block: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Shuffle blocks of N tokens.", rich_help_panel=CONTROLS
        ),
    ] = 16,
    trace: Annotated[
        int | None,
        typer.Option(metavar="ROLLOUT", help="Rollout to trace; default: the longest stretch."),
    ] = None,
    seed: analyze.Seed = 0,
    out: analyze.Out = None,
) -> None:
    """Find persistent low KL, ask if it is agreement, and what a cut there would lose."""
    analyze.run_analysis("agreement_traps", **locals())
