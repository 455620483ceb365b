"""Options of the commands that read rollout dumps, and the reading itself."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import opd_diag

if TYPE_CHECKING:
    from opd_diag.tables.rollouts import Rollouts

PANEL = "Reading rollouts"

Dumps = Annotated[
    list[str], typer.Argument(metavar="ROLLOUTS", help="Files, folders or globs of one format.")
]
FormatName = Annotated[
    Literal[
        "slime", "prime-rl", "nemo-rl", "vllm", "ta-opd", "lm-eval", "areal", "ms-swift", "trl",
        "verl", "kdflow", "generic",
    ]
    | None,
    typer.Option(
        help="Format of the dump; default: recognised by its keys.", rich_help_panel=PANEL
    ),
]  # fmt: skip
Eos = Annotated[
    Literal["auto", "append", "never"],
    typer.Option(
        help="Whether an end token follows a response that was text.", rich_help_panel=PANEL
    ),
]
Template = Annotated[
    Literal["auto", "chat", "raw"],
    typer.Option(help="How a prompt that is text is read.", rich_help_panel=PANEL),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Load dumps that can run code when they are loaded.",
        rich_help_panel=PANEL,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Read at most N rollouts.", rich_help_panel=PANEL),
]

READING = ("format", "eos", "template", "trust_pickle", "limit")


def read_dump(
    paths: Sequence[str], tokenizer: str, options: Mapping[str, Any]
) -> tuple["Rollouts", dict[str, Any]]:
    """Read a dump, and say on stderr what was read and what was left out.

    Args:
        paths: Files, folders or globs.
        tokenizer: Path of the tokenizer.
        options: All options of a command.

    Returns:
        The rollouts, and the options that are not about reading.
    """
    rollouts = opd_diag.read_rollouts(
        paths, tokenizer=tokenizer, progress=True, **{name: options[name] for name in READING}
    )
    report = rollouts.report
    typer.echo(
        f"read {report['rollouts']:,} rollouts of {report['prompts']:,} prompts, "
        f"{report['response_tokens']:,} response tokens; format {report['format']} "
        f"({report['why']})",
        err=True,
    )
    for name in ("empty_responses", "unknown_keys", "skipped", "retokenised"):
        if report[name]:
            typer.echo(f"{name.replace('_', ' ')}: {counts(report[name])}", err=True)
    return rollouts, {name: value for name, value in options.items() if name not in READING}


def counts(value: object) -> str:
    """Write a count, or counts by name, in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} ({count})" for key, count in value.items())
    return str(value)
