"""opd-diag analyze: the group of the analyses, and all of them in turn."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

import opd_diag
from opd_diag.analyses.questions import QUESTIONS
from opd_diag.cli.printing import print_lines, print_written
from opd_diag.cli.root_command import app
from opd_diag.errors import OpdDiagError, TableError
from opd_diag.tables.teacher_sources import source_line
from opd_diag.text.escaping import for_terminal

if TYPE_CHECKING:
    import polars as pl

    from opd_diag.tables.run import Run

analyses = typer.Typer(
    no_args_is_help=True,
    help="Answer one question about a scored run, or all of them.",
    epilog="Example: opd-diag analyze all run",
)
app.add_typer(analyses, name="analyze")

SELECTION = "Checkpoints and rollouts"
OUTPUT = "Seed and output"
EVERY = 30.0  # seconds between lines where stderr is not a terminal

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Checkpoint = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Checkpoint to analyse; repeat for more; default: all.",
        rich_help_panel=SELECTION,
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Only rollouts of this policy.", rich_help_panel=SELECTION),
]
Step = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Only rollouts of this training step.", rich_help_panel=SELECTION
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Only rollouts of this group, such as a domain.",
        rich_help_panel=SELECTION,
    ),
]
Seed = Annotated[
    int, typer.Option(metavar="N", help="Seed of every random draw.", rich_help_panel=OUTPUT)
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where the result tables go; default: RUN/results.",
        rich_help_panel=OUTPUT,
    ),
]


def _known_questions(keys: list[str] | None) -> list[str] | None:
    if unknown := sorted(set(keys or ()) - set(QUESTIONS)):
        raise typer.BadParameter(
            f"{', '.join(unknown)}; expected a question: {', '.join(QUESTIONS)}"
        )
    return keys


FailOn = Annotated[
    list[str] | None,
    typer.Option(
        metavar="QUESTION",
        callback=_known_questions,
        help="Exit with 3 if the answer to this question is yes; repeat for more. Questions: "
        f"{', '.join(QUESTIONS)}.",
        rich_help_panel=OUTPUT,
    ),
]

# Teachability selects by what the others have found, so it comes last.
ORDER = (
    "score_summary",
    "loss_audit",
    "release_points",
    "rock_tokens",
    "agreement_traps",
    "teachability",
)


class Analyzed(NamedTuple):
    """What an analysis has to say, and what it wrote."""

    lines: list[str]
    written: list[Path]


def run_analysis(name: str, run: Path, out: Path | None, **options: Any) -> None:
    """Call the library function, write its tables, print its findings and its summary.

    Args:
        name: Name of the function and of its module.
        run: Folder of a run.
        out: Folder of the results, or None for the run's own.
        **options: What the function is called with.
    """
    opened = opd_diag.open_run(run)
    analyzed = _analyze(name, opened, out, options)
    findings, path = save_findings(opened, out)
    print_findings(findings, name)
    print_lines(analyzed.lines)
    print_written([*analyzed.written, path], "table")


@contextmanager
def working_on(task: str, *, every: float = EVERY) -> Iterator[None]:
    """Show that a task runs, and for how long.

    A terminal has a line that goes away when the task ends. Elsewhere, as in the log of a batch
    job, a line is written every 30 seconds; a task that takes less says nothing.

    Args:
        task: What is being done.
        every: Seconds between lines.
    """
    if sys.stderr.isatty():
        with _clock(task):
            yield
        return
    done = threading.Event()

    def write_lines() -> None:
        start = time.monotonic()
        while not done.wait(every):
            typer.echo(f"{task}: running for {time.monotonic() - start:.0f} s", err=True)

    thread = threading.Thread(target=write_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _clock(task: str) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(task, total=None)
        yield


def _analyze(name: str, run: "Run", out: Path | None, options: dict[str, Any]) -> Analyzed:
    with working_on(name.replace("_", "-")):
        left = source_line(run.teacher_source, name)
        try:
            result = getattr(opd_diag, name)(run, **options)
        except TableError as error:
            raise TableError(f"{error} ({left})" if left else str(error)) from error
    written = run.save(result._asdict(), arguments=options, folder=out)
    lines = import_module(f"opd_diag.analyses.{name}").summary_lines(result)
    if left:
        lines = [left, *lines]
    if retokenised := int((~run.rollouts["token_exact"]).sum()):
        lines = [
            f"{retokenised:,} of {run.rollouts.height:,} rollouts were tokenised again from "
            "text: tokens may differ from those that were generated.",
            *lines,
        ]
    return Analyzed(lines, written)


def save_findings(run: "Run", out: Path | None) -> "tuple[pl.DataFrame, Path]":
    """Answer the questions from the results in a folder, and write the table beside them."""
    table = opd_diag.findings(run, folder=out)
    (path,) = run.save({"findings": table}, arguments={}, folder=out)
    return table, path


def print_findings(findings: "pl.DataFrame", analysis: str | None = None) -> None:
    """Print the answers to the questions of one analysis, or of all; None: all."""
    from opd_diag.analyses.findings import summary_lines

    if lines := summary_lines(findings, analysis):
        print_lines([*lines, ""])


def fail_on_yes(findings: "pl.DataFrame", questions: Sequence[str]) -> None:
    """Exit with 3 if the answer to one of the questions is yes, and say which.

    A question that was not asked does not fail; it is named.
    """
    failed = False
    for question in questions:
        answers = findings.filter(question=question)["answer"].to_list()
        if "yes" in answers:
            failed = True
            typer.echo(f"{question}: yes", err=True)
        elif set(answers) <= {"not asked"}:
            typer.echo(f"{question}: not asked", err=True)
    if failed:
        raise typer.Exit(3)


@analyses.command("all", epilog="Example: opd-diag analyze all run --fail-on low-kl-stretches")
def analyze_all(
    run: RunFolder,
    checkpoint: Checkpoint = None,
    policy: Policy = None,
    step: Step = None,
    group: Group = None,
    fail_on: FailOn = None,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Run every analysis with its defaults; one that fails does not stop the others.

    Prints the findings and where the student stands; each analysis alone prints more.
    """
    opened = opd_diag.open_run(run)
    selection = {"checkpoint": checkpoint, "policy": policy, "step": step, "group": group}
    options = selection | {"seed": seed}
    analyzed: dict[str, Analyzed] = {}
    failed = []
    for name in ORDER:
        try:
            analyzed[name] = _analyze(name, opened, out, options)
        except OpdDiagError as error:
            typer.echo(f"error: {for_terminal(str(error), lines=True)}", err=True)
            failed.append(name.replace("_", "-"))
    findings, path = save_findings(opened, out)
    print_findings(findings)
    if first := analyzed.get(ORDER[0]):
        print_lines([*first.lines, ""])
    print_written([path, *(path for one in analyzed.values() for path in one.written)], "table")
    print_lines([f"More of one analysis: opd-diag analyze NAME {run}"])
    if failed:
        typer.echo(f"failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
    fail_on_yes(findings, fail_on or ())
