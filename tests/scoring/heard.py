"""Progress that is kept instead of shown."""


class Heard:
    """Keeps what is said, and counts tokens."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tokens = self.expected = 0

    def __enter__(self) -> "Heard":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, task: str, tokens: int) -> None:
        self.expected = tokens

    def advance(self, tokens: int) -> None:
        self.tokens += tokens

    def say(self, message: str) -> None:
        self.said.append(message)
