"""Who scores a run: this process, one process for each device, or a Ray cluster."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from opd_diag.scoring.engines.pool import Pool
from opd_diag.scoring.engines.processes import ThisProcess, processes
from opd_diag.scoring.engines.ray import connect, ray_workers
from opd_diag.scoring.engines.worker import WorkerSpec
from opd_diag.scoring.models.loading import default_device
from opd_diag.scoring.sequences import Inputs


class Engine(NamedTuple):
    """Who scores.

    Attributes:
        device: Device of the models, where the caller names none.
        start: Starts a pool of at most so many workers, which ends with the block.
    """

    device: str
    start: Callable[[WorkerSpec, Inputs, int], AbstractContextManager[Pool]]


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
        return Engine(cluster.device, lambda spec, _, count: ray_workers(spec, cluster, count))
    if devices is not None:
        return Engine(devices[0], lambda spec, _, count: processes(devices, spec, count))
    return Engine(default_device(), lambda spec, inputs, _: nullcontext(ThisProcess(spec, inputs)))
