"""opd-diag analyze release-points."""

from typing import Annotated, Literal

import typer

from opd_diag.cli import analyze


@analyze.analyses.command(
    "release-points", epilog="Example: opd-diag analyze release-points run --preset paper"
)
def release_points(
    run: analyze.RunFolder,
    checkpoint: analyze.Checkpoint = None,
    policy: analyze.Policy = None,
    step: analyze.Step = None,
    group: analyze.Group = None,
    preset: Annotated[
        Literal["opd-diag", "paper"],
        typer.Option(
            help="opd-diag: 3 segments on each side, 8 in all, gain above 6; paper: 1, 4, 0."
        ),
    ] = "opd-diag",
    statistic: Annotated[
        Literal["bic", "cusum"],
        typer.Option(
            help="What is compared with the threshold: the gain in BIC, or the cumulative sum, "
            "which sees more small drops in the middle of a response."
        ),
    ] = "bic",
    min_size: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Fewest segments on each side; default: the preset's."
        ),
    ] = None,
    min_segments: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="N", help="Fewest segments of a rollout; default: the preset's."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="What a release point must exceed; default: the preset's, 1.6 for cusum.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="K of the margin; default: 4, or the smallest of a grid without 4."
        ),
    ] = None,
    segmenter: Annotated[
        str, typer.Option(metavar="NAME", help="punkt (as stored), newline or block:N.")
    ] = "punkt",
    token_weighted: Annotated[
        bool, typer.Option("--token-weighted", help="Weight segments by their tokens.")
    ] = False,
    seed: analyze.Seed = 0,
    out: analyze.Out = None,
) -> None:
    """Find where in a rollout supervision stops being discriminative, and whether that is real."""
    analyze.run_analysis("release_points", **locals())
