"""Workers on the machines of a Ray cluster, each an actor; all of them see the run's folder."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from opd_diag.errors import OpdDiagError, OptionError, first_line
from opd_diag.scoring.engines.pool import Event
from opd_diag.scoring.engines.worker import Worker, WorkerSpec, start_worker


class Cluster(NamedTuple):
    """How many workers a Ray cluster gives to a run, and the GPUs and CPUs of each."""

    workers: int
    gpus: int
    cpus: int

    @property
    def device(self) -> str:
        """Device of a worker's models: Ray shows it its own GPUs only."""
        return "cuda" if self.gpus else "cpu"


def connect(workers: int | None = None) -> Cluster:
    """Connect to the cluster of `RAY_ADDRESS`, or start one on this machine.

    The connection lasts as long as this process; one that is there already is used.

    Args:
        workers: Number of workers; by default one for each GPU, or one for each machine where
            there is none.

    Raises:
        OptionError: If Ray is not installed, the cluster does not answer, or it is too small.
    """
    try:
        import ray
    except ImportError:
        raise OptionError(
            "engine: ray is not installed; expected it (`pip install 'opd-diag[ray]'`)"
        ) from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        where = {"address": "auto"} if address else {"address": "local", "include_dashboard": False}
        try:
            ray.init(**where, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise OptionError(
                f"engine: no Ray cluster at {address or 'this machine'} ({first_line(error)}); "
                "expected RAY_ADDRESS to name one that runs"
            ) from error
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    on_gpu = any(gpus)
    count = workers or (sum(gpus) if on_gpu else sum(n > 0 for n in cpus))
    share = share_of(gpus if on_gpu else cpus, count)
    if not share:
        kind, most = ("GPUs", sum(gpus)) if on_gpu else ("CPUs", sum(cpus))
        raise OptionError(f"workers: {count}; expected at most {most}, the {kind} of the cluster")
    return Cluster(count, gpus=share, cpus=1) if on_gpu else Cluster(count, gpus=0, cpus=share)


def share_of(amounts: Sequence[int], count: int) -> int:
    """Return how many of what each machine has `count` workers can each have on one; 0 if none."""
    shares = range(max(amounts, default=0), 0, -1)
    return next((n for n in shares if sum(amount // n for amount in amounts) >= count), 0)


class _Actor:
    """A `Worker`, and what it reports while it works."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._worker: Worker | None = None
        self._reported: list[tuple[str, Any]] = []

    def call(self, method: str, arguments: Sequence[Any]) -> list[tuple[str, Any]]:
        try:
            if self._worker is None:
                self._worker = start_worker(self._spec, lambda *news: self._reported.append(news))
            end = ("done", getattr(self._worker, method)(*arguments))
        except OpdDiagError as error:
            end = ("refused", error)
        reported, self._reported = [*self._reported, end], []
        return reported


@dataclass(frozen=True)
class Actors:
    """Workers as Ray actors; see `Pool`. Calls under way are kept with the worker of each."""

    names: Sequence[str]
    actors: Sequence[Any]
    calls: dict[Any, int] = field(default_factory=dict)

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        """Begin a call of a method of `Worker`."""
        self.calls[self.actors[worker].call.remote(method, arguments)] = worker

    def wait(self, handle: Callable[[Event], None]) -> None:
        """Wait until a call has ended, and hand on all that is known of it.

        Raises:
            OpdDiagError: What a worker raised.
        """
        import ray

        (ready, *_), _ = ray.wait(list(self.calls), num_returns=1)
        worker = self.calls.pop(ready)
        try:
            events = ray.get(ready)
        except ray.exceptions.RayActorError:
            handle(Event(worker, "lost", "was lost"))
            return
        if events[-1][0] == "refused":
            raise events[-1][1]
        for kind, value in events:
            handle(Event(worker, kind, value))


@contextmanager
def ray_workers(spec: WorkerSpec, cluster: Cluster, count: int) -> Iterator[Actors]:
    """Start workers; they end with the block.

    Args:
        spec: What they are told.
        cluster: How many there are, and what each gets.
        count: At most this many.
    """
    import ray

    count = min(count, cluster.workers)
    kind = ray.remote(num_gpus=cluster.gpus, num_cpus=cluster.cpus)(_Actor)
    models = spec.models._replace(
        teacher=_absolute(spec.models.teacher),
        others={name: _absolute(path) for name, path in spec.models.others.items()},
        students={name: _absolute(path) for name, path in spec.models.students.items()},
    )
    shared_spec = ray.put(spec._replace(models=models))
    actors = [kind.remote(shared_spec) for _ in range(count)]
    try:
        yield Actors([f"ray worker {n + 1}" for n in range(count)], actors)
    finally:
        for actor in actors:
            ray.kill(actor)


def _absolute(model: str) -> str:
    """Return a folder from the root, as workers start elsewhere; a hub id as it is."""
    return str(Path(model).resolve()) if Path(model).exists() else model
