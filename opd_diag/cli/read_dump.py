"""Options of the commands that read rollout dumps, and the reading itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import opd_diag
from opd_diag.cli.option_values import mapped_keys
from opd_diag.cli.printing import echo

if TYPE_CHECKING:
    from opd_diag.tables.rollouts import Rollouts

PANEL = "Reading rollouts"

Dumps = Annotated[
    list[str], typer.Argument(metavar="ROLLOUTS", help="Files, folders or globs of one format.")
]
FormatName = Annotated[
    Literal[
        "slime", "prime-rl", "nemo-rl", "vllm", "ta-opd", "lm-eval", "areal", "ms-swift", "trl",
        "verl", "verl-batch", "traces", "kdflow", "labels", "messages", "generic",
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
    typer.Option(
        help="How a prompt that is text is read: as one user turn (chat), as it stands (raw); "
        "auto looks for the chat template in it.",
        rich_help_panel=PANEL,
    ),
]
MappedKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="KEY=THEIRS",
        help="Read a generic key from one of the dump, such as response=completion; repeat for "
        "more.",
        rich_help_panel=PANEL,
    ),
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="The dump's key that tells the group of a rollout (domain, environment), such as "
        "metadata.domain.",
        rich_help_panel=PANEL,
    ),
]
TeacherSystem = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="System turn of the teacher's prompts, in place of the student's.",
        rich_help_panel=PANEL,
    ),
]
TeacherPrompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The teacher's prompts, by id or prompt_id.",
        rich_help_panel=PANEL,
    ),
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

READING = (
    *("format", "eos", "template", "map", "group_by", "teacher_system", "teacher_prompts"),
    *("trust_pickle", "limit"),
)
_TOLD = ("empty_responses", "unknown_keys", "skipped", "left_out", "retokenised")
_MOST_NAMED = 5


def read_dump(
    paths: Sequence[str], options: Mapping[str, Any]
) -> tuple["Rollouts", dict[str, Any]]:
    """Read a dump, and say on stderr what was read and what was left out.

    Args:
        paths: Files, folders or globs.
        options: All options of a command, `students` by name among them.

    Returns:
        The rollouts, and the options that are not about reading.

    Raises:
        typer.BadParameter: If `--map` is not of the form KEY=THEIRS.
        ModelMismatchError: If ids lie outside the vocabulary because the teacher's tokenizer is
            another than the student's.
    """
    tokenizer = options["tokenizer"] or next(iter(options["students"].values()))
    reading = {name: options[name] for name in READING}
    reading["map"] = mapped_keys(reading["map"])
    try:
        rollouts = opd_diag.read_rollouts(paths, tokenizer=tokenizer, progress=True, **reading)
    except opd_diag.RolloutError as error:
        teacher = options["teacher"]
        if not isinstance(teacher, str):
            teacher = next(iter(teacher.values()))
        _compare_tokenizers(error, teacher, tokenizer)
        raise
    _print_report(rollouts.report)
    return rollouts, {name: value for name, value in options.items() if name not in READING}


def _compare_tokenizers(error: Exception, teacher: str, student: str) -> None:
    """Raise what is behind ids outside the vocabulary, if it is a wrong model."""
    from opd_diag.text.tokenizers import compare_tokenizers, load_tokenizer
    from opd_diag.text.vocabulary import OutsideVocabularyError

    if isinstance(error, OutsideVocabularyError):
        compare_tokenizers(load_tokenizer(teacher), load_tokenizer(student))


def _print_report(report: Mapping[str, Any]) -> None:
    echo(
        f"read {report['rollouts']:,} rollouts of {report['prompts']:,} prompts, "
        f"{report['response_tokens']:,} response tokens; format {report['format']} "
        f"({report['why']})",
        err=True,
    )
    for name in _TOLD:
        if report[name]:
            echo(f"{name.replace('_', ' ')}: {counts(report[name])}", err=True)
    for line in notes(report):
        echo(line, err=True)


def notes(report: Mapping[str, Any]) -> list[str]:
    """Say what a reader of the results has to know of a dump, in sentences.

    Args:
        report: What reading has told; that of a generated run tells nothing.
    """
    from opd_diag.tables.rollouts import repeated_line

    lines = []
    without = report.get("retokenised", {}).get("prompts_without_markers", 0)
    if without:
        lines.append(
            f"warning: the chat markers are missing from {without:,} of "
            f"{report['retokenised']['prompts']:,} prompts, which are read as they stand"
        )
    lines += [
        f"warning: the last line of {path} is cut, and left out"
        for path in report.get("cut_files", ())
    ]
    if repeated := repeated_line(report):
        lines.append(f"warning: {repeated}")
    prompt_ids = report.get("prompt_ids", {})
    if prompt_ids.get("merged"):
        lines.append(
            f"prompt ids that stand for the tokens of an earlier one: {prompt_ids['merged']:,}; "
            "each prompt counts once"
        )
    if prompt_ids.get("shared"):
        lines.append(f"prompt ids that stand for several prompts: {prompt_ids['shared']:,}")
    if report.get("teacher_prompts"):
        lines.append(
            f"the teacher reads another prompt than the student in "
            f"{report['teacher_prompts']:,} of {report['rollouts']:,} rollouts"
        )
    tokens = report.get("response_tokens", 0)
    if report.get("loss_tokens", tokens) < tokens:
        lines.append(f"{report['loss_tokens']:,} of {tokens:,} response tokens are in the loss")
    spans = report.get("several_spans", {})
    if spans.get("rollouts"):
        lines.append(
            f"{spans['rollouts']:,} rollouts have several spans in the loss, up to "
            f"{spans['most']:,}"
        )
    if groups := report.get("groups"):
        lines.append(f"groups: {counts(groups)}")
    if report.get("not_trained"):
        lines.append(
            f"{report['not_trained']:,} of {report['rollouts']:,} rollouts were not trained on"
        )
    return lines


def counts(value: object) -> str:
    """Write a count, or counts that are not 0 by name, in a line."""
    if not isinstance(value, dict):
        return str(value)
    named = [f"{key.replace('_', ' ')} ({count})" for key, count in value.items() if count]
    more = len(named) - _MOST_NAMED
    if more <= _MOST_NAMED:
        return ", ".join(named)
    return f"{', '.join(named[:_MOST_NAMED])} and {more} more"
