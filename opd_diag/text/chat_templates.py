"""Chat templates: programs that come with a model, rendered in a child with limits.

A template in Jinja can loop for ever, or write more than fits into memory, and no sandbox inside
the process stops that.
"""

import atexit
import json
import os
import pickle
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from opd_diag.errors import ModelError
from opd_diag.text.template_process import CHARACTERS, LENGTH

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROGRAM = "from opd_diag.text.template_process import main; main()"
# By the clock; the child itself counts its processor time, which a busy machine does not move.
_SECONDS_TO_START = 300
_SECONDS_TO_ANSWER = 60


class _Renderer:
    """The child of one process."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
        )
        if self._receive(_SECONDS_TO_START) is None:
            self.close()
            raise ModelError(
                "chat template: the process that renders it did not start; expected more memory, "
                "or template 'raw'"
            )

    def render(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Render, or return None if the child came to no end and was killed."""
        raw = pickle.dumps(dict(request))
        try:
            stdin = _pipe(self._process.stdin)
            stdin.write(LENGTH.pack(len(raw)) + raw)
            stdin.flush()
        except OSError:
            answer = None
        else:
            answer = self._receive(_SECONDS_TO_ANSWER)
        if answer is None:
            self.close()
        return answer

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + seconds
        raw = self._read(LENGTH.size, deadline)
        size = LENGTH.unpack(raw)[0] if raw else 0
        if not 0 < size <= 12 * CHARACTERS + 1024:
            return None
        raw = self._read(size, deadline)
        return json.loads(raw) if raw else None

    def _read(self, size: int, deadline: float) -> bytes | None:
        """Read so many bytes, or None if they do not come in time."""
        descriptor = _pipe(self._process.stdout).fileno()
        raw = b""
        while len(raw) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            block = os.read(descriptor, min(size - len(raw), 1 << 20))
            if not block:
                return None
            raw += block
        return raw

    def close(self) -> None:
        """End the child."""
        if os.getpid() == self.owner:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                _pipe(pipe).close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


_renderers: list[_Renderer] = []  # one, or none


def render_template(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool,
    **options: Any,
) -> str:
    """Render messages with a tokenizer's chat template, as its `apply_chat_template` does.

    Args:
        tokenizer: Its chat template and special tokens are used.
        messages: The turns.
        add_generation_prompt: Whether the start of an answer follows.
        continue_final_message: Whether the last turn is left open.
        options: Options of the template.

    Raises:
        ModelError: If there is no template, it raises an error, comes to no end in 10 s of
            processor time, takes more than 1 GiB, or writes more than 8,388,608 characters or what
            is no text.
    """
    plain = {"tools": None, "documents": None} | options
    request = {
        **tokenizer.special_tokens_map,
        **plain,
        "conversations": [
            [{key: value for key, value in turn.items() if value is not None} for turn in messages]
        ],
        "chat_template": tokenizer.get_chat_template(None, plain["tools"]),
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
    }
    answer = _renderer().render(request)
    if answer is None:
        answer = {"error": f"its process ended or gave no answer in {_SECONDS_TO_ANSWER} s"}
        _renderers.clear()
    if "error" in answer:
        raise ModelError(
            f"chat template: {answer['error']}; expected a template that takes the prompt, or "
            "template 'raw'"
        )
    return str(answer["text"])


def _renderer() -> _Renderer:
    if _renderers and _renderers[0].owner != os.getpid():  # of the process that forked this one
        _renderers.pop().close()
    if not _renderers:
        _renderers.append(_Renderer())
    return _renderers[0]


@atexit.register
def _close() -> None:
    while _renderers:
        _renderers.pop().close()
