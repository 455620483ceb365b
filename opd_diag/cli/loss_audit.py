"""opd-diag analyze loss-audit."""

from typing import Annotated

import typer

from opd_diag.cli import analyze
from opd_diag.cli.option_values import numbers


@analyze.analyses.command(
    "loss-audit", epilog="Example: opd-diag analyze loss-audit run --loss k3_clamp_10"
)
def loss_audit(
    run: analyze.RunFolder,
    checkpoint: analyze.Checkpoint = None,
    policy: analyze.Policy = None,
    step: analyze.Step = None,
    group: analyze.Group = None,
    loss: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Loss that the trainer used: k1, k2 or k3 (with _clamp_C), or student_top_K or "
            "teacher_top_K (with _renormalised or _bucket).",
        ),
    ] = "k1",
    clamp: Annotated[
        str,
        typer.Option(
            metavar="C,C,...", callback=numbers(float), help="Where k1, k2 and k3 are cut (nat)."
        ),
    ] = "1,10",
    top_k: Annotated[
        str | None,
        typer.Option(
            metavar="K,K,...",
            callback=numbers(int),
            help="K of the likeliest tokens; default: all that the run has (4, 16, 64).",
        ),
    ] = None,
    seed: analyze.Seed = 0,
    out: analyze.Out = None,
) -> None:
    """Set the estimators that trainers use beside the exact KL: bias, variance, flipped signs."""
    analyze.run_analysis("loss_audit", **locals())
