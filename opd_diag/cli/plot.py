"""opd-diag plot: draw the figures that a run's results allow, or the text of one rollout."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from opd_diag.cli import show
from opd_diag.cli.app import app


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Analyses (all figures of each), figures, overview (one page) or rollout (the "
            "text of one, with --id); default: all but rollout.",
        ),
    ] = None,
    id: Annotated[  # noqa: A002
        str | None, typer.Option(help="For rollout: its rollout_id or row number.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            help="For rollout: what colours the tokens, such as margin, grad_logits, gain; "
            "default: reverse_kl."
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="For rollout: checkpoint; default: the first, or the last for gain."),
    ] = None,
    format: Annotated[  # noqa: A002
        Literal["png", "svg", "pdf"], typer.Option(help="Format of the files.")
    ] = "png",
    size: Annotated[
        Literal["screen", "one-column", "two-columns"],
        typer.Option(help="Width of the figures: a screen's, or one or two columns of a paper."),
    ] = "screen",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the files; default: RUN/plots.")
    ] = None,
) -> None:
    """Draw the figures that a run's results allow, and name those that it does not."""
    from opd_diag.plots.figures import plot as library_plot

    drawn = library_plot(
        run,
        names or (),
        id=id,
        column=column,
        checkpoint=checkpoint,
        format=format,
        size=size,
        out=out,
    )
    show.paths(drawn.paths)
    show.lines(f"not drawn: {name} ({reason})" for name, reason in drawn.missing.items())
