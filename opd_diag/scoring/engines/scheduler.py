"""Which worker scores which part, and what happens when workers die."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opd_diag.errors import ModelError
from opd_diag.scoring.engines.pool import Event, Pool
from opd_diag.scoring.engines.worker import Loaded
from opd_diag.scoring.parts.teacher_states import FOLDER, StatesFolder
from opd_diag.scoring.progress import Progress
from opd_diag.scoring.record import Measured, RunRecord

_DOING = {"load": "while loading models", "measure": "while measuring the noise floor"}
# A part whose worker died is given to another; one that kills that one too is left alone.
_ATTEMPTS = 2


class Choices(NamedTuple):
    """What the caller of `score` chose for the work of all workers.

    Attributes:
        batch_tokens: Most tokens of a batch, or None to size it from free memory.
        keep_teacher_states: Whether the teacher's hidden states are kept for later calls.
        noise_sample: Rollouts that are scored again for the noise floor; none: it is left out.
        noise_tokens: Their response tokens.
    """

    batch_tokens: int | None
    keep_teacher_states: bool
    noise_sample: NDArray[np.int64]
    noise_tokens: int


class _Call(NamedTuple):
    method: str
    students: tuple[str, ...] = ()
    part: int | None = None


class Scheduler:
    """Gives the missing parts of a run to the workers of a pool.

    Each worker loads the students in the same order. It goes on to the next ones once those that
    it has are finished, so that a part whose worker died is given to another.

    Args:
        pool: The workers.
        record: The run; it is written here alone.
        students: Names of those that lack something.
        choices: Batch size, teacher states and noise floor.
        progress: Where progress and warnings go.
    """

    def __init__(
        self,
        pool: Pool,
        record: RunRecord,
        students: Sequence[str],
        choices: Choices,
        progress: Progress,
    ) -> None:
        self._pool, self._record, self._choices = pool, record, choices
        self._progress = progress
        self._todo = {name: set(record.missing(name)) for name in students}
        self._open = set(students)  # not finished
        self._given_up: set[str] = set()  # students of which a part was given up
        self._attempts: Counter[tuple[int | None, tuple[str, ...]]] = Counter()
        self._groups: dict[int, Loaded] = {}
        self._keep: dict[tuple[str, ...], bool] = {}
        self._idle = set(range(len(pool.names)))
        self._busy: dict[int, _Call] = {}
        self._deaths: list[str] = []

    def run(self) -> None:
        """Score what the students lack, and finish them.

        Raises:
            OpdDiagError: What a worker raised; the pool is of no more use.
            ModelError: If workers died and some parts are left.
        """
        parts = self._record.parts
        rows = sum(parts[number].rows for lacking in self._todo.values() for number in lacking)
        again = self._choices.noise_tokens * len(self._open)
        self._progress.start(", ".join(self._todo), rows + again)
        while True:
            for worker in sorted(self._idle):
                self._begin(worker)
            if not self._busy:
                break
            self._pool.wait(self._handle)
        if self._open:
            raise ModelError(
                f"{'; '.join(self._deaths)}; expected the processes to stay alive "
                f"({self._record.state()}; the same command goes on from there)"
            )

    def _begin(self, worker: int) -> None:
        """Give an idle worker something to do, if there is something."""
        call = self._next(worker)
        if call is None:
            return
        arguments: tuple[Any, ...] = ()
        if call.part is not None:
            for name in call.students:
                self._todo[name].discard(call.part)
            group = self._groups[worker]
            size = self._batch_tokens(call.part, group)
            states = self._record.teacher_states(call.part)
            keep = self._keep[group.students]
            arguments = (call.part, call.students, size, keep, states)
        elif call.method == "measure":
            last = len(self._record.parts) - 1
            size = self._batch_tokens(last, self._groups[worker])
            arguments = (call.students, size, self._choices.noise_sample)
        self._idle.discard(worker)
        self._busy[worker] = call
        self._pool.call(worker, call.method, *arguments)

    def _next(self, worker: int) -> _Call | None:
        group = self._groups.get(worker)
        own = [name for name in group.students if name in self._open] if group else []
        numbers = set().union(*(self._todo[name] for name in own))
        if numbers:
            part = min(numbers)
            return _Call("score", tuple(n for n in own if part in self._todo[n]), part)
        if any(set(own) & set(call.students) for call in self._busy.values()):
            return None
        whole = tuple(name for name in own if name not in self._given_up)
        if whole:
            return _Call("measure", whole)
        return _Call("load") if group is None or group.more else None

    def _batch_tokens(self, part: int, group: Loaded) -> int:
        size = self._record.batch_tokens(part)
        if size is None:
            size = self._choices.batch_tokens or group.batch_tokens
            self._record.set_batch_tokens(part, size)
        return size

    def _handle(self, event: Event) -> None:
        worker, kind, value = event
        if kind == "advance":
            self._progress.advance(value)
        elif kind == "say":
            name = self._pool.names[worker]
            self._progress.say(f"{name}: {value}" if name else value)
        elif kind == "resize":
            part, size = value
            known = self._record.batch_tokens(part)
            self._record.set_batch_tokens(part, size if known is None else min(size, known))
        elif kind == "wrote":
            self._record.add_files(value)
        elif kind == "lost":
            self._lose(worker, self._busy.pop(worker, None), value)
        else:
            call = self._busy.pop(worker)
            self._idle.add(worker)
            if call.method == "load":
                self._loaded(worker, value)
            elif call.method == "measure":
                self._measured(value)

    def _loaded(self, worker: int, group: Loaded) -> None:
        self._groups[worker] = group
        if group.students in self._keep:
            return
        keep = self._choices.keep_teacher_states or group.more
        self._keep[group.students] = keep and self._has_room_for_states(group)

    def _has_room_for_states(self, group: Loaded) -> bool:
        """Say how much disk the teacher's hidden states take, and whether they are kept at all."""
        folder, states = self._record.folder, StatesFolder(self._record.folder)
        numbers = set().union(*(self._todo[name] for name in group.students))
        new = [number for number in numbers if self._record.teacher_states(number) is None]
        size = group.state_bytes * sum(self._record.parts[number].rows for number in new)
        fits = states.has_room(size)
        if not fits:
            self._progress.say(
                f"the teacher's hidden states would take {size / 1e9:.3g} GB of {folder}: too "
                "much to keep; it runs again for further checkpoints"
            )
        elif new and size:
            until = (
                "" if self._choices.keep_teacher_states else " until the last checkpoint is scored"
            )
            self._progress.say(
                f"the teacher's hidden states take {size / 1e9:.3g} GB in {folder / FOLDER}{until}"
            )
        return fits

    def _measured(self, measured: Measured) -> None:
        for text in self._record.add_measured(measured):
            self._progress.say(f"warning: {text}")
        self._open -= set(measured.students)

    def _lose(self, worker: int, call: _Call | None, how: str) -> None:
        """Take back what a worker was doing when it died."""
        self._idle.discard(worker)
        doing = "while idle"
        if call is not None:
            doing = _DOING.get(call.method, f"in part {call.part}")
            self._attempts[call.part, call.students] += 1
            again = self._attempts[call.part, call.students] < _ATTEMPTS
            if call.part is not None and again:
                for name in call.students:
                    self._todo[name].add(call.part)
            elif not again and call.students:
                self._given_up |= set(call.students)
        death = f"{self._pool.names[worker]}: its process {how} {doing}"
        self._deaths.append(death)
        if self._idle or self._busy:
            self._progress.say(f"{death}; the others go on without it")
