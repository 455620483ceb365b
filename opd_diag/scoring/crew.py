"""Several workers on one run: which part goes to whom, and what becomes of those that die."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from opd_diag.errors import ModelError
from opd_diag.scoring.plan import batch_tokens_of
from opd_diag.scoring.worker import Loaded
from opd_diag.scoring.writer import RunWriter

_DOING = {"load": "while loading models", "measure": "while measuring the noise floor"}
# A part whose worker died is given to another; one that kills that one too is left alone.
_ATTEMPTS = 2


class Event(NamedTuple):
    """What was heard of a worker.

    Attributes:
        worker: Its place in the pool.
        kind: `done` with what the call returned, `lost` with how it died, or what `Worker` tells.
        value: What belongs to it.
    """

    worker: int
    kind: str
    value: Any


class Pool(Protocol):
    """Workers that each do one thing at a time."""

    @property
    def names(self) -> Sequence[str]:
        """What each worker is called in messages."""

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        """Begin a call of a method of `Worker`."""

    def wait(self) -> Sequence[Event]:
        """Wait until something is heard.

        Raises:
            OpdDiagError: What a worker raised.
        """


class _Call(NamedTuple):
    method: str
    students: tuple[str, ...] = ()
    part: int | None = None


def run_crew(pool: Pool, writer: RunWriter, students: Sequence[str], seed: int) -> None:
    """Score what students lack with all workers of a pool, and finish them.

    Each worker loads the students in the same order. It goes on to the next ones once those that
    it has are finished, so that a part whose worker died finds another.

    Args:
        pool: The workers.
        writer: The run, held by its lock; its manifest is written here alone.
        students: Names of those that lack something.
        seed: Seed of the sample for the noise floor.

    Raises:
        OpdDiagError: What a worker raised; the pool is of no more use.
        ModelError: If workers died and some parts are left.
    """
    _Crew(pool, writer, students, seed).run()


class _Crew:
    def __init__(self, pool: Pool, writer: RunWriter, students: Sequence[str], seed: int) -> None:
        self._pool, self._writer, self._seed = pool, writer, seed
        self._todo = {name: set(writer.missing(name)) for name in students}
        self._open = set(students)  # not finished
        self._spoiled: set[str] = set()  # a part of them was given up
        self._attempts: Counter[tuple[int | None, tuple[str, ...]]] = Counter()
        self._groups: dict[int, Loaded] = {}
        self._keep: dict[tuple[str, ...], bool] = {}
        self._idle = set(range(len(pool.names)))
        self._busy: dict[int, _Call] = {}
        self._deaths: list[str] = []

    def run(self) -> None:
        parts = self._writer.parts
        rows = sum(parts[number].rows for lacking in self._todo.values() for number in lacking)
        self._writer.progress.start(", ".join(self._todo), rows)
        while True:
            for worker in sorted(self._idle):
                self._begin(worker)
            if not self._busy:
                break
            for event in self._pool.wait():
                self._hear(event)
        if self._open:
            raise ModelError(
                f"{'; '.join(self._deaths)}; expected processes that live ({self._writer.state()}; "
                "the same command goes on from there)"
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
            size = self._size(call.part, group.batch_tokens)
            arguments = (call.part, call.students, size, self._keep[group.students])
        elif call.method == "measure":
            last = len(self._writer.parts) - 1
            size = self._size(last, self._groups[worker].batch_tokens)
            arguments = (call.students, size, self._seed)
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
        whole = tuple(name for name in own if name not in self._spoiled)
        if whole:
            return _Call("measure", whole)
        return _Call("load") if group is None or group.more else None

    def _size(self, part: int, suggested: int) -> int:
        size = batch_tokens_of(self._writer.manifest, part)
        if size is None:
            size = self._writer.batch_tokens or suggested
            self._writer.resize(part, size)
        return size

    def _hear(self, event: Event) -> None:
        worker, kind, value = event
        if kind == "advance":
            self._writer.progress.advance(value)
        elif kind == "say":
            self._writer.progress.say(f"{self._pool.names[worker]}: {value}")
        elif kind == "resize":
            part, size = value
            known = batch_tokens_of(self._writer.manifest, part)
            self._writer.resize(part, size if known is None else min(size, known))
        elif kind == "lost":
            self._lose(worker, self._busy.pop(worker, None), value)
        else:
            call = self._busy.pop(worker)
            self._idle.add(worker)
            if call.method == "load":
                self._loaded(worker, value)
            elif call.method == "measure":
                self._finish(value)

    def _loaded(self, worker: int, group: Loaded) -> None:
        self._groups[worker] = group
        if group.students in self._keep:
            return
        keep = self._writer.keep_teacher_states or group.more
        numbers = sorted(set().union(*(self._todo[name] for name in group.students)))
        self._keep[group.students] = keep and self._writer.announce(group.state_bytes, numbers)

    def _finish(self, measured: Mapping[str, Any]) -> None:
        self._writer.record(measured)
        self._open -= set(measured["students"])

    def _lose(self, worker: int, call: _Call | None, how: str) -> None:
        """Take back what a worker had in hand when it died."""
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
                self._spoiled |= set(call.students)
        death = f"{self._pool.names[worker]}: its process {how} {doing}"
        self._deaths.append(death)
        if self._idle or self._busy:
            self._writer.progress.say(f"{death}; the others go on without it")
