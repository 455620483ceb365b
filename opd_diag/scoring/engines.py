"""Who scores a run: this process, one process for each device, or a Ray cluster."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

from opd_diag.scoring.crew import Pool, run_crew
from opd_diag.scoring.loading import load_jobs
from opd_diag.scoring.models import default_device
from opd_diag.scoring.ray_engine import connect, ray_workers
from opd_diag.scoring.worker import WorkerSpec
from opd_diag.scoring.workers import processes
from opd_diag.scoring.writer import RunWriter


class Engine(NamedTuple):
    """Who scores.

    Attributes:
        device: Device of the models, where the caller names none.
        pool: Starts at most so many workers, or None if this process scores.
    """

    device: str
    pool: Callable[[WorkerSpec, int], AbstractContextManager[Pool]] | None = None


def choose_engine(engine: str, devices: Sequence[str] | None, workers: int | None) -> Engine:
    """Return who scores.

    Args:
        engine: `local` or `ray`.
        devices: Devices of this machine that share the work.
        workers: Number of Ray's workers.

    Raises:
        OptionError: If there is no Ray, or its cluster is too small.
    """
    if engine == "ray":
        cluster = connect(workers)
        return Engine(cluster.device, lambda spec, count: ray_workers(spec, cluster, count))
    if devices is not None:
        return Engine(devices[0], partial(processes, devices))
    return Engine(default_device())


def run_engine(engine: Engine, writer: RunWriter, spec: WorkerSpec, seed: int) -> None:
    """Score what the students of a run lack, and finish them.

    Args:
        engine: Who scores.
        writer: The run, held by its lock.
        spec: The models and what is measured.
        seed: Seed of the sample for the noise floor.

    Raises:
        OpdDiagError: What scoring raises.
        ModelError: If workers died and some parts are left.
    """
    names = list(spec.students)
    if engine.pool is not None:
        missing = set().union(*(writer.missing(name) for name in names))
        with engine.pool(spec, max(1, len(missing))) as pool:
            run_crew(pool, writer, names, seed)
        return
    left = set(names)
    jobs = load_jobs(writer.inputs, spec.measures, spec.teacher, spec.students, spec.loading)
    for job in jobs:
        left -= set(job.students)
        writer.run(job, seed=seed, more=bool(left))
        del job  # its students leave memory before the next are loaded
