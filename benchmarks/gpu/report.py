"""Steps with a budget of time: one that fails or no longer fits is a row with its reason."""

import contextlib
import gc
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from opd_diag.errors import first_line
from opd_diag.tables.files import atomic_path

Row = Mapping[str, Any]
OK, FAILED, SKIPPED = "done", "failed", "skipped"


class Setting(NamedTuple):
    """Where everything runs, and how large it is.

    Attributes:
        device: Name of a torch device.
        tiny: Whether the smallest sizes are taken, to try everything on a CPU.
        folder: Where runs are written.
        sample: Folder of the sample data.
    """

    device: str
    tiny: bool
    folder: Path
    sample: Path

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")


class Step(NamedTuple):
    """One thing to be done.

    Attributes:
        name: What it is called.
        what: What its rows say.
        seconds: How long it takes on an H200, about; it is not begun where less is left.
        rows: Yields its rows; where a row has `ok`, false means that a check failed.
    """

    name: str
    what: str
    seconds: float
    rows: Callable[[Setting], Iterator[Row]]


class UnavailableError(Exception):
    """What a step needs is not there: no failure."""


class Done(NamedTuple):
    """What became of a step.

    Attributes:
        step: The step.
        state: `done`, `failed` or `skipped`.
        reason: Why it failed or was skipped.
        seconds: How long it took.
        rows: Its rows, as far as it came.
    """

    step: Step
    state: str
    reason: str
    seconds: float
    rows: list[Row]


def run_steps(
    steps: Sequence[Step], setting: Setting, budget: float, wrote: Callable[[list[Done]], None]
) -> list[Done]:
    """Run steps one after another.

    Args:
        steps: In the order of their weight.
        setting: Where they run.
        budget: Seconds for all together.
        wrote: Told what is done after every step, so that nothing is lost where a machine goes.
    """
    begin = time.monotonic()
    done: list[Done] = []
    for step in steps:
        left = budget - (time.monotonic() - begin)
        if left < step.seconds and not setting.tiny:
            reason = f"{left:.0f} s left, and it takes about {step.seconds:.0f} s"
            done.append(Done(step, SKIPPED, reason, 0.0, []))
        else:
            done.append(_run(step, setting, left))
        last = done[-1]
        print(f"{step.name}: {last.state} {last.reason} ({last.seconds:.1f} s)", flush=True)
        wrote(done)
    return done


def _run(step: Step, setting: Setting, left: float) -> Done:
    begin, rows = time.monotonic(), []
    state, reason = OK, ""
    try:
        with _at_most(left):
            for row in step.rows(setting):
                rows.append(row)
                print(f"  {step.name}: {dict(row)}", flush=True)
    except UnavailableError as error:
        state, reason = SKIPPED, str(error)
    except Exception as error:  # one failure is a row and not the end
        state, reason = FAILED, f"{type(error).__name__}: {first_line(error)}"
    if setting.on_gpu:
        _release()
    if state == OK and not all(row.get("ok", True) for row in rows):
        state, reason = FAILED, "a check failed"
    return Done(step, state, reason, time.monotonic() - begin, rows)


def _release() -> None:
    """Give back what a step held of a GPU, so that the next has all of it."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in a block that takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1.0))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def guarded(what: Row, measure: Callable[[], Row]) -> Row:
    """Return `what` with what is measured, or with the reason why it is not."""
    try:
        return {**what, **measure(), "note": ""}
    except ImportError as error:
        return {**what, "note": f"not there ({first_line(error)})"}
    except TimeoutError:
        raise
    except Exception as error:
        return {**what, "note": f"failed ({type(error).__name__}: {first_line(error)})"[:300]}


def write_report(path: Path, head: str, machine: Row, done: Sequence[Done]) -> None:
    """Write one Markdown file and one JSON file beside it.

    Args:
        path: The Markdown file.
        head: Its first lines.
        machine: What it was measured on.
        done: The steps so far.
    """
    lines = [head, *(f"- {name}: {value}" for name, value in machine.items()), ""]
    lines += ["| step | state | seconds | reason |", "|---|---|---|---|"]
    lines += [
        f"| {one.step.name} | {one.state} | {one.seconds:.1f} | {_cell(one.reason)} |"
        for one in done
    ]
    for one in done:
        if one.rows:
            lines += ["", f"## {one.step.name}", "", one.step.what, "", *_table(one.rows)]
    values = {
        "machine": dict(machine),
        "steps": [
            {
                "name": one.step.name,
                "state": one.state,
                "reason": one.reason,
                "seconds": round(one.seconds, 2),
                "rows": [dict(row) for row in one.rows],
            }
            for one in done
        ],
    }
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")


def _table(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return lines + [f"| {' | '.join(_cell(row.get(n)) for n in names)} |" for row in rows]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
