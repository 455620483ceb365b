"""What every way to run workers has in common."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol


class Event(NamedTuple):
    """News of a worker.

    Attributes:
        worker: Its place in the pool.
        kind: `done` with what the call returned, `lost` with how it died, or what `Worker` reports.
        value: What belongs to it.
    """

    worker: int
    kind: str
    value: Any


class Pool(Protocol):
    """Workers that each do one thing at a time."""

    @property
    def names(self) -> Sequence[str]:
        """What each worker is called in messages; an empty name is left out."""

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        """Begin a call of a method of `Worker`."""

    def wait(self, handle: Callable[[Event], None]) -> None:
        """Wait until there is news, and hand it on.

        Raises:
            OpdDiagError: What a worker raised.
        """
