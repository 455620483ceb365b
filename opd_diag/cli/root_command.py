"""The command `opd-diag` itself: what it needs of its process, and how errors become messages."""

import errno
import os
import runpy
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from opd_diag.errors import OpdDiagError, OptionError, StorageError, first_line
from opd_diag.text.escaping import for_terminal

# The order in which they are used, which is that of the help.
COMMANDS = ("check", "score", "info", "analyze", "plot", "report", "export", "intervene")
# What an interrupted command leaves; every file is written whole or not at all.
INTERRUPTED = {
    "score": "complete parts stay in the run; the same command goes on from there",
    "analyze": "tables that were written stay; the others are as they were before",
    "plot": "figures that were written stay",
    "intervene": "responses that were written stay; the same command goes on from there",
}
# Libraries end the process, past any handling, if less address space is left.
LEAST_ADDRESS_SPACE = 2 << 30
_NO_MEMORY = (
    "map segment",
    "allocate memory",
    "cannot allocate",
    "out of memory",
    "can't start new thread",
    "could not spawn threads",
    "static TLS",
    "Resource temporarily unavailable",
)


class UnusableEnvironmentError(StorageError):
    """The process lacks something that every command needs."""


class RootCommand(TyperGroup):
    """A group that prints an OpdDiagError as its message and exits with 1, or 2 for bad usage.

    Typer carries its own copy of click, so raising a click exception would print nothing.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command; our errors and Ctrl-C end it with a message on stderr."""
        try:
            check_environment()
            return super().invoke(ctx)
        except OpdDiagError as error:
            typer.echo(f"error: {for_terminal(str(error), lines=True)}", err=True)
            raise typer.Exit(2 if isinstance(error, OptionError) else 1) from None
        except KeyboardInterrupt:
            left = INTERRUPTED.get(ctx.invoked_subcommand, "files that were written stay")
            typer.echo(f"interrupted: {left}", err=True)
            raise typer.Exit(130) from None
        except BaseException as error:  # an error of a Rust library is no Exception
            _escape_usage(error)
            if not lacks_memory(error):
                raise
            reason = for_terminal(first_line(error))
            message = f"memory: too little for a library ({reason}); expected more"
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(1) from None

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the command line; what is wrong with it is said in letters that print."""
        try:
            return super().make_context(*arguments, **options)
        except Exception as error:
            _escape_usage(error)
            raise

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of use, others at the end."""
        return sorted(
            super().list_commands(ctx),
            key=lambda name: COMMANDS.index(name) if name in COMMANDS else len(COMMANDS),
        )


def _escape_usage(error: BaseException) -> None:
    """Escape the message of a usage error, which repeats the command line; others stay."""
    if isinstance(error, typer.BadParameter.__bases__):
        error.message = for_terminal(error.message, lines=True)  # type: ignore[attr-defined]


def check_environment() -> None:
    """Refuse to begin in a folder that is gone, or with too little address space.

    Raises:
        UnusableEnvironmentError: If a command could not work.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UnusableEnvironmentError(
            "working directory: deleted; expected one that exists (change to another folder)"
        ) from None
    limit = _address_space()
    if limit is not None and limit < LEAST_ADDRESS_SPACE:
        raise UnusableEnvironmentError(
            f"memory: this process may address {limit / 2**20:,.0f} MiB (ulimit -v), too little to "
            f"load libraries; expected at least {LEAST_ADDRESS_SPACE >> 20:,}"
        )


def versions() -> list[str]:
    """Name the versions of the package and of what it stands on, without importing any of it."""
    others = [f"{name} {version(name)}" for name in ("transformers", "polars")]
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    # The one file of torch that says what it was built for, and imports nothing.
    torch = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    built_for = f"for CUDA {torch['cuda']}" if torch["cuda"] else "without CUDA"
    return [
        f"opd-diag {version('opd-diag')}",
        ", ".join([f"torch {torch['__version__']} {built_for}", *others]),
    ]


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error means that a library found too little memory."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    # The reasons of native libraries are texts; those of Rust are no Exception at all.
    causes = [error, error.__cause__, error.__context__]
    return any(text in str(cause) for cause in causes if cause is not None for text in _NO_MEMORY)


def _address_space() -> int | None:
    """Return the limit on the address space of this process in bytes, or None without one."""
    try:
        import resource
    except ImportError:  # there is none on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


app = typer.Typer(
    cls=RootCommand,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Diagnose on-policy distillation of language models, offline, from saved rollouts.",
    epilog="Example: opd-diag score rollouts.jsonl --teacher TEACHER --student STUDENT --out run, "
    "then opd-diag analyze all run, then opd-diag plot run",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo("\n".join(versions()))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version, and those of torch and CUDA, and exit.",
        ),
    ] = False,
) -> None:
    pass
