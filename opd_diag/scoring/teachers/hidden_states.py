"""Final hidden states of a teacher that ran elsewhere: one safetensors file for each rollout.

A file holds `token_ids`, what the teacher read, and `hidden_states`, one row for each of them (or
several layers for each, of which the last is taken). What it read is the prompt of the teacher and
the response; the last token of the response may be missing.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opd_diag.errors import ModelError, faults, first_line
from opd_diag.scoring.token_lists import Ragged

TOKENS = "token_ids"
STATES = "hidden_states"
_MOST_NAMED = 5


class StatesFile(NamedTuple):
    """States of one rollout.

    Attributes:
        path: The file.
        layers: Whether it holds several layers for each token.
    """

    path: Path
    layers: bool


class GivenStates:
    """Hidden states of the teacher by rollout, read row by row when they are asked for.

    Attributes:
        folder: Where the files are.
        width: Width of the states.
    """

    def __init__(self, folder: Path, files: dict[int, StatesFile], width: int) -> None:
        self.folder, self._files, self.width = folder, files, width

    def at(self, rollout: int, start: int, stop: int) -> Tensor:
        """Read the states at some places of a rollout. Shape (stop - start, width).

        Raises:
            ModelError: If the file was damaged meanwhile.
        """
        file = self._files[rollout]
        with _opened(file.path) as reader:
            states = reader.get_slice(STATES)
            rows: Tensor = states[start:stop, -1] if file.layers else states[start:stop]
        return rows


def find_states(folder: str, prompts: Ragged, responses: Ragged, names: list[str]) -> GivenStates:
    """Find the file of every rollout in a folder, by the tokens that the teacher read.

    Args:
        folder: Where the files are, `*.safetensors`; those in folders below count too.
        prompts: Prompt of every rollout for the teacher.
        responses: Response of every rollout, as far as it is scored.
        names: Ids of the rollouts, which a message names.

    Raises:
        ModelError: If a file is not of the form, a rollout has none, or widths differ.
    """
    paths = sorted(Path(folder).rglob("*.safetensors"))
    if not paths:
        raise ModelError(f"{folder}: no *.safetensors; expected the teacher's hidden states")
    wanted: dict[int, dict[bytes, list[int]]] = {}
    for rollout in np.flatnonzero(responses.lengths).tolist():
        read = np.concatenate((prompts[rollout], responses[rollout][:-1]))
        wanted.setdefault(len(read), {}).setdefault(_key(read), []).append(rollout)
    lengths = sorted(wanted)
    files: dict[int, StatesFile] = {}
    widths: dict[int, Path] = {}
    for path in paths:
        ids, width, layers = _header(path)
        widths.setdefault(width, path)
        # What was read may be longer than what is scored: the last token, or a response cut here.
        for length in lengths[: bisect_right(lengths, len(ids))]:
            for number in wanted[length].get(_key(ids[:length]), ()):
                files.setdefault(number, StatesFile(path, layers))
    if len(widths) > 1:
        (one, first), (other, second), *_ = widths.items()
        raise ModelError(f"{second}: states of width {other}; expected {one}, as in {first.name}")
    absent = [i for i in np.flatnonzero(responses.lengths).tolist() if i not in files]
    if absent:
        shown = ", ".join(names[i] for i in absent[:_MOST_NAMED])
        raise ModelError(
            f"{folder}: no hidden states for {len(absent):,} of {len(responses.lengths):,} "
            f"rollouts, first {shown}; expected a file whose token_ids begin with the teacher's "
            "prompt and the response"
        )
    return GivenStates(Path(folder), files, next(iter(widths)))


def digest_states(folder: str) -> dict[str, str]:
    """Return what identifies the files of a folder: how many, and a sha256 of what they hold.

    Their names are no part of it, but for the order in which the files are taken.

    Raises:
        ModelError: If one cannot be read.
    """
    whole = hashlib.sha256()
    paths = sorted(Path(folder).rglob("*.safetensors"))
    for path in paths:
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256")
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror}; expected a readable file") from error
        whole.update(content.digest())
    return {"files": str(len(paths)), "sha256": whole.hexdigest()}


def _key(ids: NDArray[np.integer]) -> bytes:
    return hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=16).digest()


def _header(path: Path) -> tuple[NDArray[np.int64], int, bool]:
    """Read what a file holds: token ids, width, and whether there are several layers."""
    with _opened(path) as reader:
        names = set(reader.keys())
        wrong = [f"no {name}; expected it" for name in (TOKENS, STATES) if name not in names]
        if wrong:
            raise ModelError(faults(str(path), wrong))
        ids = reader.get_tensor(TOKENS).reshape(-1).to(torch.int64).numpy()
        shape = reader.get_slice(STATES).get_shape()
    if len(shape) not in (2, 3) or shape[0] not in (len(ids), len(ids) - 1):
        raise ModelError(
            f"{path}: hidden_states of shape {tuple(shape)} beside {len(ids)} token_ids; expected "
            "(tokens, width) or (tokens, layers, width)"
        )
    return ids[: shape[0]] if shape[0] < len(ids) else ids, int(shape[-1]), len(shape) == 3


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; what is wrong with it is a ModelError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as reader:
            yield reader
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: damaged ({first_line(error)}); expected a safetensors file"
        ) from error


def rows_of(
    states: GivenStates, prompts: Ragged, responses: Ragged, rollouts: Sequence[int]
) -> Tensor:
    """Read the states that predict the tokens of some responses, rollout after rollout.

    Args:
        states: States by rollout.
        prompts: Prompts of the teacher.
        responses: Responses, as far as they are scored.
        rollouts: Which.

    Returns:
        One row per response token. Shape (rows, width).
    """
    parts = []
    for rollout in rollouts:
        first = len(prompts[rollout]) - 1
        parts.append(states.at(rollout, first, first + len(responses[rollout])))
    return torch.cat(parts)
