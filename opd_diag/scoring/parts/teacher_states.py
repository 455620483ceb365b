"""The teacher's hidden states of a run on disk: its body runs once, however many checkpoints."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from opd_diag.tables.checksums import Checksum, checksum
from opd_diag.tables.files import atomic_path

FOLDER = "teacher"
# Of the free disk, the states may take this share.
_SHARE = 0.8


@dataclass
class PartStates:
    """Hidden states of the teacher at the rows of one part, in the memory of the host.

    Attributes:
        values: States that are known, or None. Shape (rows, hidden).
        wanted: Whether those that are computed are gathered into `values`.
    """

    values: Tensor | None = None
    wanted: bool = False

    @property
    def known(self) -> bool:
        """Whether no body has to run."""
        return self.values is not None and not self.wanted

    def at(self, rows: Tensor, device: torch.device) -> Tensor:
        """Return known states. Shape (n, hidden), on the device."""
        assert self.values is not None
        return self.values[rows].to(device)

    def gather(self, rows: Tensor, states: Tensor, n_rows: int) -> None:
        """Keep states that were computed, if they are wanted.

        Args:
            rows: Which rows of the part. Shape (n,), int64.
            states: Shape (n, hidden).
            n_rows: Rows of the part.
        """
        if not self.wanted:
            return
        if self.values is None:
            self.values = torch.empty(n_rows, states.shape[1], dtype=states.dtype)
        self.values[rows] = states.to("cpu")


@dataclass(frozen=True)
class StatesFolder:
    """Where a run keeps the teacher's hidden states, one file for each part.

    Attributes:
        run: Folder of the run.
    """

    run: Path

    def path(self, part: int) -> Path:
        """Return where those of a part stand."""
        return self.run / FOLDER / f"part-{part:05d}.safetensors"

    def has_room(self, size: int) -> bool:
        """Tell whether so many bytes leave a fifth of the disk's free room."""
        return size <= _SHARE * shutil.disk_usage(self.run).free

    def read(self, part: int, expected: Checksum | None) -> Tensor | None:
        """Read the states of a part, or None if they are not there as they were written.

        Args:
            part: Its number.
            expected: The checksum that the manifest lists, or None.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self.path(part)
        try:
            if expected is None or checksum(path) != expected:
                return None
            states: Tensor = load(path.read_bytes())["states"]
        except (SafetensorError, OSError, KeyError):
            return None
        return states

    def write(self, part: int, states: Tensor) -> None:
        """Write the states of a part, complete or not at all.

        Raises:
            StorageError: If they cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        with atomic_path(self.path(part)) as temporary:
            try:
                save_file({"states": states}, temporary)
            except SafetensorError as error:
                raise OSError(str(error)) from error

    def remove(self) -> None:
        """Remove all of them."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.run / FOLDER)
