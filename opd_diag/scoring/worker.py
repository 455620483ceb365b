"""What scores parts in a process of its own: one teacher and its students on one device."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from opd_diag.scoring.batches import Part, default_batch_tokens, sequences
from opd_diag.scoring.inputs import Inputs
from opd_diag.scoring.loading import Loading, load_jobs
from opd_diag.scoring.parts import Job
from opd_diag.scoring.rows import Measures
from opd_diag.scoring.writer import RunWriter
from opd_diag.tables.columns.rollouts import VOCAB
from opd_diag.tables.manifest import Manifest
from opd_diag.tables.parquet import read_parquet
from opd_diag.tables.rollouts import ROLLOUTS_NAME, read_rollouts_table
from opd_diag.tables.run import VOCAB_NAME
from opd_diag.tables.schema import check_table

# Told while a part is scored: ("advance", tokens), ("say", line) or ("resize", (part, tokens)).
Tell = Callable[[str, Any], None]


class WorkerSpec(NamedTuple):
    """What a worker is told at its start; everything else it reads from the run.

    Attributes:
        folder: The run, on a disk that all workers see.
        manifest: Its manifest.
        max_response_tokens: Only so many tokens of each response are scored.
        shared: Number of ids that the teacher's and each student's tokenizer share, by name.
        segmenter: Name of the segmenter.
        measures: What is measured.
        teacher: Folder or hub id of the teacher.
        students: Folders or hub ids of the students that lack something, by name.
        loading: How models are loaded.
        threads: Threads of torch on the CPU, or None to leave them.
    """

    folder: Path
    manifest: Manifest
    max_response_tokens: int | None
    shared: Mapping[str, int]
    segmenter: str
    measures: Measures
    teacher: str
    students: Mapping[str, str]
    loading: Loading
    threads: int | None = None


class Loaded(NamedTuple):
    """What a worker says of a group of students that it has loaded.

    Attributes:
        students: Their names.
        more: Whether other students come after them.
        batch_tokens: The size of a batch that its free memory suggests.
        state_bytes: Bytes of one of the teacher's hidden states.
    """

    students: tuple[str, ...]
    more: bool
    batch_tokens: int
    state_bytes: int


class Worker:
    """Scores the parts that it is given.

    Args:
        spec: The run.
        tell: Told what happens while a part is scored.
    """

    def __init__(self, spec: WorkerSpec, tell: Tell) -> None:
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        device = torch.device(spec.loading.student["device"])
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
        table = read_rollouts_table(spec.folder / ROLLOUTS_NAME)
        path = spec.folder / VOCAB_NAME
        vocab = check_table(read_parquet(path), VOCAB, str(path))
        read = sequences(table, spec.max_response_tokens)
        parts = [
            Part(part["first"], part["last"] + 1, part["rows"]) for part in spec.manifest["parts"]
        ]
        inputs = Inputs(table, read, vocab, dict(spec.shared))
        self._told = _Told(tell)
        self._writer = _PartWriter(
            spec.folder, spec.manifest, inputs, parts, spec.segmenter, None, self._told
        )
        self._left = set(spec.students)
        self._jobs: Iterator[Job] = load_jobs(
            inputs, spec.measures, spec.teacher, spec.students, spec.loading
        )
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
            batch_tokens=default_batch_tokens([job.teacher, *job.students.values()]),
            state_bytes=job.teacher.state_bytes,
        )

    def score(self, part: int, students: Sequence[str], batch_tokens: int, keep: bool) -> None:
        """Score a part and write it.

        Args:
            part: Its number.
            students: Those of the loaded students that lack it.
            batch_tokens: Most tokens of a batch.
            keep: Whether the teacher's hidden states are kept.

        Raises:
            ModelError: If one rollout does not fit into memory.
            StorageError: If a file cannot be written.
        """
        job = self._given(students)
        self._writer.manifest["batch_tokens"] = [[0, batch_tokens]]
        self._told.factor = len(students)
        with torch.inference_mode():
            self._writer.write_part(job, part, keep=keep)

    def measure(self, students: Sequence[str], batch_tokens: int, seed: int) -> dict[str, Any]:
        """Return what `RunWriter.record` wants to know of students whose parts are all written.

        Args:
            students: Those of the loaded students.
            batch_tokens: Most tokens of a batch.
            seed: Seed of the sample for the noise floor.
        """
        job = self._given(students)
        self._writer.manifest["batch_tokens"] = [[0, batch_tokens]]
        with torch.inference_mode():
            return self._writer.measure(job, seed)

    def _given(self, students: Sequence[str]) -> Job:
        assert self._job is not None
        return self._job._replace(students={name: self._job.students[name] for name in students})


class _PartWriter(RunWriter):
    """Writes parts; the manifest belongs to another process, which is told."""

    def resize(self, number: int, size: int) -> None:
        self.manifest["batch_tokens"] = [[0, size]]
        assert isinstance(self.progress, _Told)
        self.progress.tell("resize", (number, size))


@dataclass
class _Told(contextlib.AbstractContextManager["_Told"]):
    """Passes progress on, tokens counted once for each student."""

    tell: Tell
    factor: int = 1

    def __exit__(self, *_: object) -> None:
        return None

    def start(self, task: str, tokens: int) -> None:
        """Nothing: another process knows the whole task."""

    def advance(self, tokens: int) -> None:
        self.tell("advance", tokens * self.factor)

    def say(self, message: str) -> None:
        self.tell("say", message)
