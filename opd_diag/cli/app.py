"""The command group, and the one place that turns our errors into messages."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from opd_diag.errors import OpdDiagError, OptionError


class OneLineErrors(TyperGroup):
    """A group that prints an OpdDiagError as its message and exits with 1, or 2 for bad usage.

    Typer carries its own copy of click, so raising a click exception would print nothing.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and turn our errors into a message on stderr."""
        try:
            return super().invoke(ctx)
        except OpdDiagError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, OptionError) else 1) from None


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Diagnose on-policy distillation of language models, offline, from saved rollouts.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from opd_diag import __version__

        typer.echo(f"opd-diag {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass
