"""Scoring in a process that is killed at a random moment of its own processor time.

One process loads the libraries and forks a child for each call, so that a kill costs no import.
Moments are counted in the child's processor time: a busy machine does not move them.
"""

import contextlib
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SIGNALS = (signal.SIGKILL, signal.SIGTERM)

# Only what is imported happens before the fork: no thread pool has started yet.
SERVER = """
import os, pickle, sys, traceback
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM
from opd_diag.analyses.release_points import release_points
from opd_diag.interventions import knock_out
from opd_diag.scoring.score import score
from opd_diag.tables.run import open_run

def analyze(folder):
    run = open_run(folder)
    run.save(release_points(run)._asdict(), arguments={})

calls = {
    "score": lambda rollouts, options: score(rollouts, **options),
    "analyze": analyze,
    "knock_out": lambda run, options: knock_out(run, **options),
}
torch.set_num_threads(1)
for line in sys.stdin:
    child = os.fork()
    if not child:
        code = 1
        try:
            log = open(line.strip() + ".log", "w")
            os.dup2(log.fileno(), 2)
            name, *arguments = pickle.load(open(line.strip(), "rb"))
            calls[name](*arguments)
            code = 0
        except BaseException:
            traceback.print_exc(file=log)
            log.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Ended(NamedTuple):
    """How a call ended.

    Attributes:
        killed: Whether it died of the signal.
        seconds: Processor time that it was seen to have used.
    """

    killed: bool
    seconds: float


class Server:
    """Runs calls in children that can be killed.

    Args:
        folder: Where calls are handed over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls = 0
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, *call: Any) -> int:
        """Begin a call, and return the id of its process."""
        self._calls += 1
        self._call = self._folder / f"call{self._calls}"
        self._call.write_bytes(pickle.dumps(call))
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{self._call}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> bool:
        """Wait for the end of a call, and tell whether it died of a signal.

        Raises:
            RuntimeError: If it raised an error.
        """
        assert self._process.stdout
        code = os.waitstatus_to_exitcode(int(self._process.stdout.readline()))
        if code > 0:
            raise RuntimeError(self._call.with_name(f"{self._call.name}.log").read_text())
        return code < 0

    def run(self, *call: Any, after: float | None = None, sent: int = signal.SIGKILL) -> Ended:
        """Run a call, and kill it after so many seconds of its processor time."""
        child = self.start(*call)
        seconds = 0.0
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            while after is None or seconds < after:
                seconds = processor_time(child)
                time.sleep(0.002)
            os.kill(child, sent)
        return Ended(self.wait(), seconds)

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def processor_time(process: int) -> float:
    """Return the seconds that the first thread of a process has run.

    Raises:
        FileNotFoundError: If there is no such process any more.
    """
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
    except ProcessLookupError:
        raise FileNotFoundError(process) from None


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Run a server for the time of a block."""
    running = Server(folder)
    try:
        yield running
    finally:
        running.close()


class Kills(NamedTuple):
    """What kills did.

    Attributes:
        sent: Kills by name of the signal.
        finished: Runs that ended; each was compared.
    """

    sent: dict[str, int]
    finished: int


def kill_and_go_on(
    running: Server,
    call: Callable[[Path], tuple[Any, ...]],
    folder: Callable[[int], Path],
    compare: Callable[[Path], None],
    *,
    kills: int,
    seed: int,
) -> Kills:
    """Kill a call at random moments and begin it again, until so many kills have struck.

    Args:
        running: Where calls run.
        call: The call that works on a folder.
        folder: The folder of a run, by its number; a new one is begun when a run has ended.
        compare: Raises AssertionError if a run that ended is not as it should be.
        kills: Number of kills.
        seed: Seed of moments and signals.
    """
    rng = random.Random(seed)
    whole = running.run(*call(folder(0))).seconds
    compare(folder(0))
    sent = {one.name: 0 for one in SIGNALS}
    number = 1
    finished = 1
    while sum(sent.values()) < kills:
        sign, moment = rng.choice(SIGNALS), rng.uniform(0, whole)
        if running.run(*call(folder(number)), after=moment, sent=sign).killed:
            sent[sign.name] += 1
        else:
            compare(folder(number))
            finished += 1
            number += 1
    running.run(*call(folder(number)))
    compare(folder(number))
    return Kills(sent, finished + 1)
