"""Scoring a job into a run: the missing parts, then what is known once they are all there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from opd_diag.errors import ModelError
from opd_diag.scoring.alignment import count_differences, pack
from opd_diag.scoring.batches import Part, default_batch_tokens
from opd_diag.scoring.finish import described, noise_floors, totals, warnings
from opd_diag.scoring.forward import is_out_of_memory
from opd_diag.scoring.frames import flat, key_columns, part_responses
from opd_diag.scoring.inputs import Inputs
from opd_diag.scoring.parts import Job, ScoredPart, score_part
from opd_diag.scoring.plan import batch_tokens_of, set_batch_tokens
from opd_diag.scoring.progress import Count, Progress
from opd_diag.scoring.teacher_states import FOLDER, PartStates, StatesFolder
from opd_diag.tables.gradients import gradients_path, write_gradients
from opd_diag.tables.manifest import Manifest, write_manifest
from opd_diag.tables.tokens import part_path, read_part_metadata, write_part


@dataclass(frozen=True)
class RunWriter:
    """Writes the parts of a run.

    Attributes:
        folder: The run, held by its lock.
        manifest: Its manifest, changed and written as the work goes on.
        inputs: Rollouts and vocabulary.
        parts: Parts of the run.
        segmenter: Name of the segmenter.
        batch_tokens: Most tokens of a batch, or None to size it from free memory.
        progress: Where progress and warnings go.
        keep_teacher_states: Whether the teacher's hidden states are kept for later calls.
    """

    folder: Path
    manifest: Manifest
    inputs: Inputs
    parts: list[Part]
    segmenter: str
    batch_tokens: int | None
    progress: Progress
    keep_teacher_states: bool = False

    def missing(self, checkpoint: str) -> list[int]:
        """Return the parts that a checkpoint lacks.

        Raises:
            TableError: If a part that is there is damaged.
        """
        found = []
        for number in range(len(self.parts)):
            place = (self.folder, checkpoint, number)
            if part_path(*place).exists() and gradients_path(*place).exists():
                read_part_metadata(*place)
            else:
                found.append(number)
        return found

    def is_pending(self, checkpoint: str) -> bool:
        """Tell whether a checkpoint is not finished."""
        known = self.manifest["checkpoints"][checkpoint]
        return "noise_floor" not in known or bool(self.missing(checkpoint))

    def state(self) -> str:
        """Say how far the run is."""
        left = {name: len(self.missing(name)) for name in self.manifest["checkpoints"]}
        return ", ".join(
            f"{name} has {len(self.parts) - n} of {len(self.parts)} parts"
            for name, n in left.items()
        )

    def run(self, job: Job, *, seed: int, more: bool = False) -> None:
        """Score what the students of a job lack, and finish them.

        Args:
            job: The models.
            seed: Seed of the sample for the noise floor.
            more: Whether other students of the same teacher come after them.

        Raises:
            ModelError: If one rollout does not fit into memory.
            StorageError: If a file cannot be written.
        """
        lacking = {name: set(self.missing(name)) for name in job.students}
        numbers = sorted(set().union(*lacking.values()))
        rows = sum(self.parts[number].rows for number in numbers)
        keep = (self.keep_teacher_states or more) and self.announce(
            job.teacher.state_bytes, numbers
        )
        self.progress.start(", ".join(job.students), rows)
        with torch.inference_mode():
            for number in numbers:
                students = {
                    name: model for name, model in job.students.items() if number in lacking[name]
                }
                self.write_part(job._replace(students=students), number, keep=keep)
            self.record(self.measure(job, seed))

    def announce(self, width: int, numbers: list[int]) -> bool:
        """Say how much disk the teacher's hidden states take, and whether they are kept at all.

        Args:
            width: Bytes of one of them.
            numbers: Parts to be scored.
        """
        new = [n for n in numbers if not self.teacher_states.path(n).exists()]
        size = width * sum(self.parts[number].rows for number in new)
        fits = self.teacher_states.has_room(size)
        if not fits:
            self.progress.say(
                f"the teacher's hidden states would take {size / 1e9:.3g} GB of {self.folder}: too "
                "much to keep; it runs again for further checkpoints"
            )
        elif new:
            until = "" if self.keep_teacher_states else " until the last checkpoint is scored"
            self.progress.say(
                f"the teacher's hidden states take {size / 1e9:.3g} GB in "
                f"{self.folder / FOLDER}{until}"
            )
        return fits

    @property
    def teacher_states(self) -> StatesFolder:
        """Where the teacher's hidden states are kept."""
        return StatesFolder(self.folder)

    def write_part(self, job: Job, number: int, *, keep: bool = False) -> None:
        """Score one part under every student of a job, and write it.

        Args:
            job: The models.
            number: Number of the part.
            keep: Whether the teacher's hidden states are kept beside it.
        """
        part = self.parts[number]
        responses = part_responses(job.sequences.responses, part)
        keys = key_columns(self.inputs.table, part, responses, self.inputs.vocab, self.segmenter)
        sampled = flat(self.inputs.table["sampled_logp"][part.start : part.stop], responses.lengths)
        known = self.teacher_states.read(number, part.rows, job.teacher.hidden)
        teacher = PartStates(known, wanted=keep and known is None)
        found = self._halving(job, number, keys, teacher)
        if teacher.wanted and teacher.values is not None:
            self.teacher_states.write(number, teacher.values)
        for name, scored in found.items():
            student = scored.frame["student_logp"].to_numpy()
            counts = count_differences(sampled.to_numpy(), student, keys["rollout"].to_numpy())
            statistics = {**scored.statistics, "sampled_difference": pack(counts)}
            # The tokens come last: a part is there once they are.
            write_gradients(scored.sums, self.folder, name, number)
            write_part(
                scored.frame,
                self.folder,
                name,
                number,
                k_grid=job.measures.k_grid,
                statistics=statistics,
            )

    def _halving(
        self, job: Job, number: int, keys: pl.DataFrame, teacher: PartStates
    ) -> dict[str, ScoredPart]:
        """Score a part; where memory runs out, begin it again with half the batch size."""
        part = self.parts[number]
        longest = int(job.sequences.lengths[part.start : part.stop].max())
        size = batch_tokens_of(self.manifest, number)
        if size is None:
            size = self.batch_tokens or default_batch_tokens([job.teacher, *job.students.values()])
            self.resize(number, size)
        while True:
            count = Count(self.progress)
            try:
                return score_part(
                    job, part, keys, batch_tokens=size, advance=count, teacher=teacher
                )
            except (RuntimeError, MemoryError) as error:
                size = self._smaller(size, longest, error)
            count(-count.tokens)
            self.resize(number, size)
            _empty_cache()

    def resize(self, number: int, size: int) -> None:
        """Record the batch size that holds from a part on."""
        set_batch_tokens(self.folder, self.manifest, number, size)

    def _smaller(self, size: int, longest: int, error: Exception) -> int:
        """Return half a batch size after an error, if memory ran out and there is a smaller one."""
        if not is_out_of_memory(error):
            raise error
        if size <= longest:
            raise ModelError(
                f"rollouts: one of {longest} tokens does not fit into memory alone; "
                "expected more memory, or fewer response tokens"
            ) from error
        self.progress.say(f"out of memory: going on with batches of {size // 2} tokens")
        return size // 2

    def measure(self, job: Job, seed: int) -> dict[str, Any]:
        """Return the noise floors of students whose parts are written, and what they are like.

        Args:
            job: The models.
            seed: Seed of the sample for the noise floor.
        """
        size = batch_tokens_of(self.manifest, len(self.parts) - 1)
        assert size is not None
        longest = int(job.sequences.lengths.max())
        floors = None
        while floors is None:
            try:
                floors = noise_floors(job, self.folder, self.manifest, batch_tokens=size, seed=seed)
            except (RuntimeError, MemoryError) as error:
                size = self._smaller(size, longest, error)
            _empty_cache()
        return {
            "teacher": described(job.teacher),
            "students": {
                name: {**described(model), "decodable": job.ids, "noise_floor": floors[name]}
                for name, model in job.students.items()
            },
        }

    def record(self, measured: Mapping[str, Any]) -> None:
        """Write into the manifest what `measure` returned, and the totals of those students."""
        checkpoints = self.manifest["checkpoints"]
        for name, found in measured["students"].items():
            statistics, alignment = totals(self.folder, name, len(self.parts))
            known = {"statistics": statistics, "alignment": alignment._asdict()}
            checkpoints[name] |= {**found, **known}
        self.manifest["teacher"] |= measured["teacher"]
        finished: dict[str, Any] = {
            name: found for name, found in checkpoints.items() if "noise_floor" in found
        }
        self.manifest["warnings"] = warnings(finished)
        write_manifest(self.folder, self.manifest)
        for text in self.manifest["warnings"]:
            self.progress.say(f"warning: {text}")


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
