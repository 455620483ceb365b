"""Sums of the hidden-state gradient for each token type and half of the prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from opd_diag.errors import TableError
from opd_diag.tables.files import atomic_path
from opd_diag.tables.manifest import Manifest


class GradientSums(NamedTuple):
    """Sums over the occurrences of a token type in one half of the prompts.

    Attributes:
        token_id: Shape (n,), int32.
        half: Shape (n,), uint8.
        n: Number of occurrences. Shape (n,), int64.
        S: Sum of the gradient of reverse_kl in the final hidden state. Shape (n, hidden),
            float32, nat/unit.
        Q: Sum of its squared norm. Shape (n,), float64, (nat/unit)².
    """

    token_id: npt.NDArray[np.int32]
    half: npt.NDArray[np.uint8]
    n: npt.NDArray[np.int64]
    S: npt.NDArray[np.float32]
    Q: npt.NDArray[np.float64]


def gradients_path(run: Path, checkpoint: str, part: int) -> Path:
    """Return where the gradient sums of a part stand."""
    return run / "gradients" / f"checkpoint={checkpoint}" / f"part-{part:05d}.safetensors"


def write_gradients(sums: GradientSums, run: Path, checkpoint: str, part: int) -> None:
    """Write the gradient sums of a part, complete or not at all.

    Raises:
        StorageError: If they cannot be written.
    """
    from safetensors.numpy import save

    with atomic_path(gradients_path(run, checkpoint, part)) as temporary:
        tensors = {name: np.ascontiguousarray(value) for name, value in sums._asdict().items()}
        temporary.write_bytes(save(tensors))


def read_gradients(run: Path, checkpoint: str, manifest: Manifest) -> GradientSums:
    """Read the gradient sums of a checkpoint, the parts added in order.

    Args:
        run: Folder of the run.
        checkpoint: Name of the checkpoint.
        manifest: Its manifest.

    Returns:
        Sums sorted by (token_id, half).

    Raises:
        TableError: If a part is missing, damaged or of another run.
    """
    paths = [gradients_path(run, checkpoint, part) for part in range(len(manifest.parts))]
    for path in paths:
        manifest.verify_file(run, path)
    return add_gradients([read_gradients_part(path) for path in paths])


def add_gradients(parts: Sequence[GradientSums]) -> GradientSums:
    """Add gradient sums, in the order given.

    Returns:
        Sums sorted by (token_id, half).
    """
    keys = np.concatenate([2 * part.token_id.astype(np.int64) + part.half for part in parts])
    kinds, place = np.unique(keys, return_inverse=True)
    n = np.zeros(kinds.size, np.int64)
    S = np.zeros((kinds.size, parts[0].S.shape[1]), np.float32)
    Q = np.zeros(kinds.size)
    start = 0
    for part in parts:
        # A part holds each kind once, so plain indexed addition does not lose a row.
        rows = place[start : start + part.n.size]
        start += part.n.size
        n[rows] += part.n
        S[rows] += part.S
        Q[rows] += part.Q
    return GradientSums((kinds // 2).astype(np.int32), (kinds % 2).astype(np.uint8), n, S, Q)


def read_gradients_part(path: Path) -> GradientSums:
    """Read the gradient sums of one part from a file.

    Raises:
        TableError: If it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return GradientSums(**load(path.read_bytes()))
    except FileNotFoundError:
        raise TableError(f"{path}: no such file; expected gradient sums of a part") from None
    except (SafetensorError, OSError, TypeError) as error:
        raise TableError(f"{path}: damaged ({error}); expected gradient sums of a part") from error
