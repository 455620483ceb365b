"""Workers on the devices of one machine: each in a process of its own, or one in this process."""

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from opd_diag.errors import OpdDiagError
from opd_diag.scoring.engines.pool import Event
from opd_diag.scoring.engines.worker import Worker, WorkerSpec, start_worker
from opd_diag.scoring.sequences import Inputs

_PROGRAM = "from opd_diag.scoring.engines.processes import main; main()"


class ThisProcess:
    """One worker in this process; see `Pool`.

    Args:
        spec: The run.
        inputs: Rollouts and vocabulary.
    """

    names = ("",)

    def __init__(self, spec: WorkerSpec, inputs: Inputs) -> None:
        self._handle: Callable[[Event], None] = lambda event: None
        self._worker = Worker(spec, inputs, self._report)
        self._begun: tuple[str, tuple[Any, ...]] = ("", ())

    def _report(self, kind: str, value: Any) -> None:
        self._handle(Event(0, kind, value))

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        """Remember a call of a method of `Worker`: it runs while it is waited for."""
        self._begun = method, arguments

    def wait(self, handle: Callable[[Event], None]) -> None:
        """Do what was begun, and hand on what is reported meanwhile.

        Raises:
            OpdDiagError: What the worker raised.
        """
        method, arguments = self._begun
        self._handle = handle
        handle(Event(0, "done", getattr(self._worker, method)(*arguments)))


@dataclass(frozen=True)
class Processes:
    """Workers as processes; see `Pool`.

    Attributes:
        names: Their devices.
        processes: The processes.
        pipes: What connects them with this one.
    """

    names: Sequence[str]
    processes: "list[subprocess.Popen[bytes]]"
    pipes: "list[Connection[Any, Any]]"

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        """Begin a call of a method of `Worker`."""
        self.send(worker, (method, arguments))

    def send(self, worker: int, message: object) -> None:
        """Send a message to a worker."""
        with suppress(OSError):  # it died; `wait` tells
            self.pipes[worker].send(message)

    def wait(self, handle: Callable[[Event], None]) -> None:
        """Wait until there is news of a worker, and hand it on.

        Raises:
            OpdDiagError: What a worker raised.
            RuntimeError: If a worker failed in another way, with its traceback.
        """
        open_pipes = {pipe: n for n, pipe in enumerate(self.pipes) if not pipe.closed}
        for pipe in wait(list(open_pipes)):
            if isinstance(pipe, Connection):
                handle(self._receive(open_pipes[pipe]))

    def _receive(self, worker: int) -> Event:
        try:
            kind, value = self.pipes[worker].recv()
        except (EOFError, OSError):
            self.pipes[worker].close()
            return Event(worker, "lost", _death(self.processes[worker].wait()))
        if kind == "refused":
            raise value
        if kind == "failed":
            raise RuntimeError(f"the process for {self.names[worker]} failed:\n{value}")
        return Event(worker, kind, value)


def _death(code: int) -> str:
    if code < 0:
        return f"was killed ({signal.Signals(-code).name})"
    return f"ended with code {code}"


@contextmanager
def processes(devices: Sequence[str], spec: WorkerSpec, count: int) -> Iterator[Processes]:
    """Start one worker for each device; none outlives the block, or this process.

    Args:
        devices: The devices.
        spec: What they are told; the device is set here.
        count: At most this many.
    """
    devices = devices[:count]
    on_cpu = sum(torch.device(device).type == "cpu" for device in devices)
    threads = max(1, torch.get_num_threads() // max(1, on_cpu))
    pool = Processes(_names(devices), [], [])
    try:
        for _ in devices:
            ours, theirs = Pipe()
            pool.pipes.append(ours)
            pool.processes.append(_start(theirs))
            theirs.close()
        for worker, device in enumerate(devices):
            models = spec.models._replace(
                teacher_loading=replace(
                    spec.models.teacher_loading, device=device, head_device=device
                ),
                student_loading=replace(spec.models.student_loading, device=device),
            )
            pool.send(worker, spec._replace(models=models, threads=threads))
        yield pool
    finally:
        for process, pipe in zip(pool.processes, pool.pipes, strict=False):
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
            pipe.close()


def _names(devices: Sequence[str]) -> list[str]:
    """Name workers by their devices, numbered where a device has several."""
    return [
        device if devices.count(device) == 1 else f"{device} ({devices[: n + 1].count(device)})"
        for n, device in enumerate(devices)
    ]


def _start(pipe: "Connection[Any, Any]") -> "subprocess.Popen[bytes]":
    # A fresh interpreter that does not run the caller's script again, out of reach of its Ctrl-C.
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, str(pipe.fileno())],
        stdin=subprocess.PIPE,
        stdout=2,  # the results of a command are all that its own stdout holds
        env={**os.environ, "PYTHONPATH": paths},
        pass_fds=[pipe.fileno()],
        start_new_session=True,
    )


def main() -> None:
    """Work for the process at the other end of the pipe whose number is the first argument."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    try:
        worker = start_worker(pipe.recv(), lambda kind, value: pipe.send((kind, value)))
        while True:
            method, arguments = pipe.recv()
            pipe.send(("done", getattr(worker, method)(*arguments)))
    except EOFError:
        return
    except OpdDiagError as error:
        pipe.send(("refused", error))
    except Exception:
        pipe.send(("failed", traceback.format_exc()))


def _die_with_parent() -> None:
    # Nothing is ever written here: reading ends when the parent does.
    os.read(0, 1)
    os._exit(1)
