"""Workers on the devices of one machine, each in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from opd_diag.errors import OpdDiagError
from opd_diag.scoring.crew import Event
from opd_diag.scoring.loading import Loading
from opd_diag.scoring.worker import Worker, WorkerSpec

_PROGRAM = "from opd_diag.scoring.workers import main; main()"


@dataclass(frozen=True)
class Processes:
    """Workers as processes; see `Pool`.

    Attributes:
        names: Their devices.
        processes: The processes.
        lines: What connects them with this one.
    """

    names: Sequence[str]
    processes: "list[subprocess.Popen[bytes]]"
    lines: "list[Connection[Any, Any]]"

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        """Begin a call of a method of `Worker`."""
        self.tell(worker, (method, arguments))

    def tell(self, worker: int, message: object) -> None:
        """Send a message to a worker."""
        with suppress(OSError):  # it died; `wait` hears of it
            self.lines[worker].send(message)

    def wait(self) -> list[Event]:
        """Wait until something is heard of a worker.

        Raises:
            OpdDiagError: What a worker raised.
            RuntimeError: If a worker failed in another way, with its traceback.
        """
        open_lines = {line: n for n, line in enumerate(self.lines) if not line.closed}
        return [
            self._hear(open_lines[line])
            for line in wait(list(open_lines))
            if isinstance(line, Connection)
        ]

    def _hear(self, worker: int) -> Event:
        try:
            kind, value = self.lines[worker].recv()
        except (EOFError, OSError):
            self.lines[worker].close()
            return Event(worker, "lost", _how(self.processes[worker].wait()))
        if kind == "refused":
            raise value
        if kind == "failed":
            raise RuntimeError(f"the process for {self.names[worker]} failed:\n{value}")
        return Event(worker, kind, value)


def _how(code: int) -> str:
    if code < 0:
        return f"was killed ({signal.Signals(-code).name})"
    return f"ended with code {code}"


@contextmanager
def processes(devices: Sequence[str], spec: WorkerSpec, count: int) -> Iterator[Processes]:
    """Start one worker for each device; none outlives the block, or this process.

    Args:
        devices: The devices.
        spec: What they are told; the device is set here.
        count: No more than so many.
    """
    devices = devices[:count]
    on_cpu = sum(torch.device(device).type == "cpu" for device in devices)
    threads = max(1, torch.get_num_threads() // max(1, on_cpu))
    pool = Processes(_names(devices), [], [])
    try:
        for _ in devices:
            ours, theirs = Pipe()
            pool.lines.append(ours)
            pool.processes.append(_start(theirs))
            theirs.close()
        for worker, device in enumerate(devices):
            options = {"device": device, "head_device": device}
            loading = Loading(
                {**spec.loading.teacher, **options}, {**spec.loading.student, "device": device}
            )
            pool.tell(worker, spec._replace(loading=loading, threads=threads))
        yield pool
    finally:
        for process, line in zip(pool.processes, pool.lines, strict=False):
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
            line.close()


def _names(devices: Sequence[str]) -> list[str]:
    """Name workers by their devices, numbered where a device has several."""
    return [
        device if devices.count(device) == 1 else f"{device} ({devices[: n + 1].count(device)})"
        for n, device in enumerate(devices)
    ]


def _start(line: "Connection[Any, Any]") -> "subprocess.Popen[bytes]":
    # A fresh interpreter that does not run the caller's script again, out of reach of its Ctrl-C.
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, str(line.fileno())],
        stdin=subprocess.PIPE,
        stdout=2,  # the results of a command are all that its own stdout holds
        env={**os.environ, "PYTHONPATH": paths},
        pass_fds=[line.fileno()],
        start_new_session=True,
    )


def main() -> None:
    """Work for the process at the other end of the line whose number is the first argument."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    line: Connection[Any, Any] = Connection(int(sys.argv[1]))
    try:
        worker = Worker(line.recv(), lambda kind, value: line.send((kind, value)))
        while True:
            method, arguments = line.recv()
            line.send(("done", getattr(worker, method)(*arguments)))
    except EOFError:
        return
    except OpdDiagError as error:
        line.send(("refused", error))
    except Exception:
        line.send(("failed", traceback.format_exc()))


def _die_with_parent() -> None:
    # Nothing is ever written here: reading ends when the parent does.
    os.read(0, 1)
    os._exit(1)
