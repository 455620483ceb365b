"""What scores parts, in this process or another: one teacher and its students on one device."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.models.forward import LanguageModel
from opd_diag.scoring.parts.batches import default_batch_tokens, with_smaller_batches
from opd_diag.scoring.parts.jobs import Job, Models, load_jobs
from opd_diag.scoring.parts.noise import noise_floors
from opd_diag.scoring.parts.score_part import PartPlan, score_and_write_part
from opd_diag.scoring.progress import Report
from opd_diag.scoring.record import Measured
from opd_diag.scoring.sequences import Inputs, sequences
from opd_diag.tables.checksums import Checksum
from opd_diag.tables.manifest import Part, read_manifest
from opd_diag.tables.rollouts import read_rollouts_table, read_vocab


class WorkerSpec(NamedTuple):
    """What a worker is told at its start; everything else it reads from the run.

    Attributes:
        folder: The run, on a disk that all workers see.
        parts: Its parts.
        max_response_tokens: Only so many tokens of each response are scored.
        shared: Number of ids that the teacher's and each student's tokenizer share, by name.
        segmenter: Name of the segmenter.
        measures: What is measured.
        models: The teacher, and the students that lack something.
        threads: Threads of torch on the CPU, or None to leave them.
    """

    folder: Path
    parts: tuple[Part, ...]
    max_response_tokens: int | None
    shared: Mapping[str, int]
    segmenter: str
    measures: Measures
    models: Models
    threads: int | None = None


class Loaded(NamedTuple):
    """What a worker says of a group of students that it has loaded.

    Attributes:
        students: Their names.
        more: Whether other students come after them.
        batch_tokens: The size of a batch that its free memory suggests.
        state_bytes: Bytes of one of the teacher's hidden states; 0: they are given, or not kept.
    """

    students: tuple[str, ...]
    more: bool
    batch_tokens: int
    state_bytes: int


class Worker:
    """Scores the parts that it is given.

    Args:
        spec: The run.
        inputs: Rollouts and vocabulary.
        report: Told what happens while a part is scored.
    """

    def __init__(self, spec: WorkerSpec, inputs: Inputs, report: Report) -> None:
        self._spec, self._inputs, self._report = spec, inputs, report
        self._left = set(spec.models.students)
        self._jobs: Iterator[Job] = load_jobs(inputs, spec.measures, spec.models)
        self._job: Job | None = None

    def load(self) -> Loaded:
        """Load the next students.

        Raises:
            ModelError: If a model cannot be loaded.
        """
        self._job = None  # its students leave memory before the next are loaded
        job = self._job = next(self._jobs)
        self._left -= set(job.students)
        return Loaded(
            students=tuple(job.students),
            more=bool(self._left),
            batch_tokens=default_batch_tokens(job.models),
            state_bytes=0 if job.reads_teacher or job.others else job.teacher.state_bytes,
        )

    def score(
        self,
        part: int,
        students: Sequence[str],
        batch_tokens: int,
        keep: bool,
        states: Checksum | None,
    ) -> None:
        """Score a part and write it.

        Args:
            part: Its number.
            students: Those of the loaded students that lack it.
            batch_tokens: Most tokens of a batch.
            keep: Whether the teacher's hidden states are kept.
            states: Checksum of the file that holds them already, or None.

        Raises:
            ModelError: If one rollout does not fit into memory.
            StorageError: If a file cannot be written.
        """
        spec = self._spec
        plan = PartPlan(part, spec.parts[part], batch_tokens, spec.segmenter, keep, states)
        with torch.inference_mode():
            score_and_write_part(
                self._job_of(students), self._inputs, spec.folder, plan, self._report
            )

    def measure(
        self, students: Sequence[str], batch_tokens: int, sample: NDArray[np.int64]
    ) -> Measured:
        """Measure what is to be known of students whose parts are all written.

        Args:
            students: Those of the loaded students.
            batch_tokens: Most tokens of a batch.
            sample: Rollouts that are scored again for the noise floor.
        """
        job = self._job_of(students)
        manifest = read_manifest(self._spec.folder)  # all that is measured is in it by now
        with torch.inference_mode():
            floors = with_smaller_batches(
                lambda size: noise_floors(
                    job,
                    self._spec.folder,
                    manifest,
                    sample,
                    batch_tokens=size,
                    report=self._report,
                ),
                batch_tokens,
                int(job.sequences.lengths.max()),
                lambda size: self._report(
                    "say", f"out of memory: going on with batches of {size} tokens"
                ),
            )
        return Measured(
            teacher=_described(job.teacher),
            students={
                name: {**_described(model), "decodable": job.ids, "noise_floor": floors[name]}
                for name, model in job.students.items()
            },
        )

    def _job_of(self, students: Sequence[str]) -> Job:
        assert self._job is not None
        return self._job._replace(students={name: self._job.students[name] for name in students})


def start_worker(spec: WorkerSpec, report: Report) -> Worker:
    """Start a worker in a process of its own: all that it needs it reads from the run."""
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    device = torch.device(spec.models.student_loading.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    manifest = read_manifest(spec.folder)
    table = read_rollouts_table(spec.folder, manifest)
    vocab = read_vocab(spec.folder, manifest)
    inputs = Inputs(table, sequences(table, spec.max_response_tokens), vocab, dict(spec.shared))
    return Worker(spec, inputs, report)


def _described(model: LanguageModel) -> dict[str, object]:
    """Return what the manifest says of a model: its dtype and its number of logits."""
    return {"dtype": str(model.model.dtype).removeprefix("torch."), "logits": model.width}
