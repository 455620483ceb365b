"""Options of `score` and `check` that make no sense are refused before anything is read."""

import math
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch

from opd_diag.errors import OptionError
from opd_diag.tables.arguments import at_least
from opd_diag.tables.manifest import is_checkpoint_name

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_BITS = (4, 8)


def named_students(students: Mapping[str, str] | str) -> dict[str, str]:
    """Return students by name; a single one is named like its folder.

    Raises:
        OptionError: If there is none, or a folder cannot have one of the names.
    """
    if isinstance(students, str):
        students = {Path(students).resolve().name: students}
    if not students:
        raise OptionError("students: none; expected at least one")
    for name in students:
        if not is_checkpoint_name(name):
            raise OptionError(
                f"students: the name {name[:60]!r}; expected up to 200 printable characters, "
                "without / and \\"
            )
    return {name: str(path) for name, path in students.items()}


def check_numbers(
    *,
    temperature: float,
    part_tokens: int,
    batch_tokens: int | None = None,
    max_response_tokens: int | None = None,
    limit: int | None = None,
    union_k: int = 16,
    seed: int = 0,
) -> None:
    """Check numbers.

    Raises:
        OptionError: If one lies outside its range.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise OptionError(f"temperature: {temperature}; expected a positive number")
    at_least(
        1,
        part_tokens=part_tokens,
        batch_tokens=batch_tokens,
        max_response_tokens=max_response_tokens,
        limit=limit,
        union_k=union_k,
    )
    at_least(0, seed=seed)


def check_grid(k_grid: Sequence[int], ids: int | None = None) -> tuple[int, ...]:
    """Check the K of the columns with one value per K, and cut them at the vocabulary.

    Args:
        k_grid: The K.
        ids: Number of decodable ids, once it is known.

    Raises:
        OptionError: If they do not rise from 2, or none is left.
    """
    grid = tuple(int(k) for k in k_grid)
    if not grid or grid[0] < 2 or any(b <= a for a, b in pairwise(grid)):
        raise OptionError(f"k_grid: {list(grid)}; expected rising numbers from 2")
    kept = tuple(k for k in grid if ids is None or k <= ids)
    if not kept:
        raise OptionError(f"k_grid: {list(grid)}; expected a number up to {ids}, the vocabulary")
    return kept


def check_noise_floor(noise_floor: str) -> None:
    """Check whether the noise floor is to be measured.

    Raises:
        OptionError: If it is neither `on` nor `off`.
    """
    if noise_floor not in ("on", "off"):
        raise OptionError(f"noise_floor: {noise_floor!r}; expected on or off")


def check_loading(
    *,
    dtype: str | None,
    devices: Sequence[str | None],
    bits: int | None = None,
    device_map: str | None = None,
) -> None:
    """Check how models are to be loaded.

    Raises:
        OptionError: If a dtype, a number of bits or a device map is unknown, or torch has no such
            device here.
    """
    if dtype not in (None, *_DTYPES):
        raise OptionError(f"dtype: {dtype!r}; expected {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}")
    for device in devices:
        if device is not None and not _is_here(device):
            raise OptionError(f"device: {device!r}; expected one that torch finds here")
    if bits not in (None, *_BITS):
        raise OptionError(f"teacher_bits: {bits}; expected 4 or 8")
    if device_map not in (None, "auto"):
        raise OptionError(f"device_map: {device_map!r}; expected auto")


def check_workers(
    *,
    engine: str,
    devices: Sequence[str] | None,
    workers: int | None,
    others: Mapping[str, str | None],
) -> None:
    """Check who scores.

    Args:
        engine: `local` or `ray`.
        devices: Devices of this machine that share the work.
        workers: Number of Ray's workers.
        others: Options by name that place models on devices, where `devices` does.

    Raises:
        OptionError: If options contradict each other, or one has no known value.
    """
    if engine not in ("local", "ray"):
        raise OptionError(f"engine: {engine!r}; expected local or ray")
    at_least(1, workers=workers)
    if workers is not None and engine != "ray":
        raise OptionError(f"workers: {workers}; expected none, or engine ray")
    if devices is None:
        return
    if engine == "ray":
        raise OptionError(f"devices: {list(devices)}; expected none with engine ray: use workers")
    if isinstance(devices, str) or not devices:
        raise OptionError(f"devices: {devices!r}; expected a list of one or more")
    for name, value in others.items():
        if value is not None:
            raise OptionError(f"{name}: {value!r}; expected none beside devices {list(devices)}")


def check_fused(device: str) -> None:
    """Check that the fused kernel runs on a device; Triton's interpreter runs it on any.

    Raises:
        OptionError: If it does not.
    """
    if find_spec("triton") is None:
        raise OptionError("fused: triton is not installed; expected it, as with torch for CUDA")
    if torch.device(device).type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise OptionError(f"fused: device {device!r}; expected a CUDA device")


def _is_here(device: str) -> bool:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # a torch that was built without CUDA asserts
        return False
    return torch.device(device).type != "meta"
