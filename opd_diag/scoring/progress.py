"""Progress on stderr: a bar with tokens per second and the time left, and plain messages."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from opd_diag.text.escaping import for_terminal

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

EVERY = 30.0  # seconds between lines where there is no bar

# Told while a part is scored: ("advance", tokens), ("say", line), ("resize", (part, tokens)) or
# ("wrote", checksums of files by path in the run).
Report = Callable[[str, Any], None]


class Progress(Protocol):
    """What `score` tells while it works."""

    def __enter__(self) -> "Progress":
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """End, also after an error."""

    def start(self, task: str, tokens: int) -> None:
        """Begin a task of so many tokens."""

    def advance(self, tokens: int) -> None:
        """Count tokens as done."""

    def say(self, message: str) -> None:
        """Show one line."""


class StderrProgress:
    """A bar where stderr is a terminal, elsewhere a line every 30 seconds; messages in any case."""

    _bar: "RichProgress"

    def __init__(self) -> None:
        self._task, self._tokens, self._done = "", 0, 0
        self._begin = self._told = 0.0

    def __enter__(self) -> "StderrProgress":
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class TokensPerSecond(ProgressColumn):
            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text("" if speed is None else f"{speed:,.0f} tokens/s")

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TokensPerSecond(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        if not self._bar.disable:  # some versions of rich end a bar that never was with a newline
            self._bar.stop()

    def start(self, task: str, tokens: int) -> None:
        """Begin a task of so many tokens."""
        for old in self._bar.task_ids:
            self._bar.remove_task(old)
        self._bar.add_task(for_terminal(task), total=tokens)
        self._task, self._tokens, self._done = task, tokens, 0
        self._begin = self._told = time.monotonic()

    def advance(self, tokens: int) -> None:
        """Count tokens as done."""
        self._bar.advance(self._bar.task_ids[-1], tokens)
        self._done += tokens
        now = time.monotonic()
        if self._bar.disable and now - self._told >= EVERY:
            self._told = now
            self.say(self._line(now - self._begin))

    def _line(self, seconds: float) -> str:
        """Say how far the task is: a job without a terminal, as under Slurm, has only its log."""
        speed = self._done / seconds
        # Of what is generated nobody knows the length before: there may be more than was expected.
        left = max(self._tokens - self._done, 0) / speed if speed > 0 else 0.0
        return (
            f"{self._task}: {self._done:,} of {self._tokens:,} tokens "
            f"({100 * self._done / max(self._tokens, 1):.0f} %), {speed:,.0f} tokens/s, "
            f"{left / 60:,.0f} min left"
        )

    def say(self, message: str) -> None:
        """Show one line."""
        self._bar.console.print(
            for_terminal(message), markup=False, highlight=False, soft_wrap=True
        )


class Counter:
    """Counts tokens once for each student, so that those of a failed attempt can be taken back."""

    def __init__(self, report: Report, students: int) -> None:
        self._report, self._students = report, students
        self._tokens = 0

    def add(self, tokens: int) -> None:
        """Count tokens as done."""
        self._tokens += tokens
        self._report("advance", tokens * self._students)

    def take_back(self) -> None:
        """Count none of them as done."""
        self.add(-self._tokens)
