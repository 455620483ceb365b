"""Say on stderr what is being worked on: a clock in a terminal, else a line every 30 seconds."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

EVERY = 30.0  # seconds between lines where stderr is not a terminal


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
