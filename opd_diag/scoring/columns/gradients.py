"""Gradients of the reverse KL at a fixed context, and their sums for each token type.

With respect to the logits at temperature T the gradient is g = p (a - reverse_kl) / T; it sums
to 0. Through a soft cap z = c tanh(y / c) it becomes g_y = g (1 - (z / c)²).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opd_diag.tables.gradients import GradientSums


class TypeSums:
    """Sums of the hidden-state gradient over a part, for each (token type, prompt half).

    Args:
        token_id: Tokens of the part. Shape (tokens,).
        half: Half of the prompts that each belongs to. Shape (tokens,).
        in_loss: Whether each counts. Shape (tokens,).
        hidden: Width of the hidden states.
        device: Where the sums are kept.
    """

    def __init__(
        self,
        token_id: NDArray[np.int32],
        half: NDArray[np.uint8],
        in_loss: NDArray[np.bool_],
        *,
        hidden: int,
        device: str,
    ) -> None:
        keys = 2 * token_id.astype(np.int64) + half
        self._keys = np.unique(keys[in_loss])
        places = np.searchsorted(self._keys, keys)
        # One row more than there are keys takes what does not count.
        self._places = torch.from_numpy(np.where(in_loss, places, self._keys.size)).to(device)
        rows = self._keys.size + 1
        self._n = torch.zeros(rows, dtype=torch.int64, device=device)
        self._S = torch.zeros(rows, hidden, dtype=torch.float32, device=device)
        self._Q = torch.zeros(rows, dtype=torch.float64, device=device)

    def add(self, rows: Tensor, gradient: Tensor) -> None:
        """Add hidden-state gradients; rows that are not finite are left out.

        Args:
            rows: Which tokens of the part. Shape (n,), int64, on the device.
            gradient: Shape (n, hidden), float32.
        """
        squared = torch.linalg.vecdot(gradient, gradient).double()
        finite = squared.isfinite()
        places = torch.where(finite, self._places[rows], self._keys.size)
        self._n.index_add_(0, places, finite.long())
        self._S.index_add_(0, places, gradient)
        self._Q.index_add_(0, places, squared)

    def sums(self) -> GradientSums:
        """Return the sums, sorted by (token_id, half)."""
        n = self._n[:-1].cpu().numpy()
        kept = n > 0
        return GradientSums(
            token_id=(self._keys[kept] // 2).astype(np.int32),
            half=(self._keys[kept] % 2).astype(np.uint8),
            n=n[kept],
            S=self._S[:-1].cpu().numpy()[kept],
            Q=self._Q[:-1].cpu().numpy()[kept],
        )
