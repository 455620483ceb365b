"""Options of the commands that read a dump, and the reading itself."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from opd_diag.tables.rollouts import Rollouts

Dumps = Annotated[
    list[str], typer.Argument(metavar="ROLLOUTS...", help="Files, folders or globs of one format.")
]
FormatName = Annotated[
    Literal[
        "slime", "prime-rl", "nemo-rl", "vllm", "ta-opd", "lm-eval", "areal", "ms-swift", "trl",
        "verl", "kdflow", "generic",
    ]
    | None,
    typer.Option(help="Format of the dump; default: told from its keys."),
]  # fmt: skip
Eos = Annotated[
    Literal["auto", "append", "never"],
    typer.Option(help="Whether an end token follows a response that was text."),
]
Template = Annotated[
    Literal["auto", "chat", "raw"], typer.Option(help="How a prompt that is text is read.")
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Load dumps that run code when they are loaded.")
]


def rollouts(
    paths: Sequence[str],
    tokenizer: str,
    *,
    format: str | None,  # noqa: A002
    eos: str,
    template: str,
    trust_pickle: bool,
    limit: int | None,
) -> "Rollouts":
    """Read a dump, and tell on stderr what was found and what was left out."""
    from opd_diag.rollouts import read_rollouts

    found = read_rollouts(
        paths,
        tokenizer=tokenizer,
        format=format,
        eos=eos,
        template=template,
        trust_pickle=trust_pickle,
        limit=limit,
        progress=True,
    )
    report = found.report
    typer.echo(
        f"read {report['rollouts']:,} rollouts of {report['prompts']:,} prompts, "
        f"{report['response_tokens']:,} response tokens; format {report['format']} "
        f"({report['why']})",
        err=True,
    )
    for name in ("empty_responses", "unknown_keys", "skipped", "retokenised"):
        if report[name]:
            typer.echo(f"{name.replace('_', ' ')}: {counted(report[name])}", err=True)
    return found


def counted(value: object) -> str:
    """Write a count, or counts by name, in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} ({count})" for key, count in value.items())
    return str(value)
