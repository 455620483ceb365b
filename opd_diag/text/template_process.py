"""The child that renders chat templates: programs of a model's author, under limits."""

import json
import pickle
import signal
import struct
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

SECONDS = 10  # of processor time for one prompt
MEMORY = 1 << 30  # bytes beyond what the libraries take
CHARACTERS = 1 << 23
LENGTH = struct.Struct("!Q")


class TooLongError(Exception):
    """A template used up its time."""


def main() -> None:
    """Render what comes on standard input, until it ends."""
    from transformers.utils.chat_template_utils import render_jinja_template

    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    _limit_memory()
    signal.signal(signal.SIGVTALRM, _stop)
    send(answers, {"ready": True})
    while (raw := receive(requests)) is not None:
        send(answers, _answer(render_jinja_template, pickle.loads(raw)))


def _answer(render: Any, request: Mapping[str, Any]) -> dict[str, str]:
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        (text,), _ = render(**request)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except TooLongError:
        return {"error": f"no end after {SECONDS} s"}
    except MemoryError:
        return {"error": f"more than {MEMORY >> 20} MiB of memory"}
    except Exception as error:  # a template may raise anything
        lines = str(error).strip().splitlines()
        return {"error": lines[0][:500] if lines else type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if len(text) > CHARACTERS:
        return {"error": f"{len(text):,} characters of text, at most {CHARACTERS:,} are taken"}
    if any("\ud800" <= char <= "\udfff" for char in text):
        return {"error": "half a character (a lone surrogate)"}
    return {"text": text}


def _stop(*_: object) -> None:
    raise TooLongError


def _limit_memory() -> None:
    import resource  # there is none on Windows

    try:
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = used + MEMORY
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (OSError, ValueError):  # not on every system
        return


def send(stream: BinaryIO, values: Mapping[str, Any]) -> None:
    """Write JSON values, their length before them."""
    raw = json.dumps(values).encode()
    stream.write(LENGTH.pack(len(raw)) + raw)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """Read bytes with their length before them, or None at the end."""
    head = stream.read(LENGTH.size)
    return stream.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None
