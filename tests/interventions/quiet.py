"""Progress that is remembered instead of shown."""

from typing import Any


class Quiet:
    """Remembers what was said, and the tokens that were counted."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tokens = 0

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def start(self, task: str, tokens: int) -> None:
        pass

    def advance(self, tokens: int) -> None:
        self.tokens += tokens

    def say(self, message: str) -> None:
        self.said.append(message)
