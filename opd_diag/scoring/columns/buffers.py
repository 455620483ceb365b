"""Buffers that are filled again block after block: fresh memory costs page faults."""

import torch
from torch import Tensor


class Buffers:
    """Named buffers, each as large as the largest that was asked for.

    What is taken under one name is valid until the same name is taken again.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, int], like: Tensor) -> Tensor:
        """Return a float32 buffer, its values undefined.

        Args:
            name: Which buffer.
            shape: Its shape.
            like: A tensor on the wanted device.
        """
        size = shape[0] * shape[1]
        held = self._held.get(name)
        if held is None or held.numel() < size or held.device != like.device:
            self._held.pop(name, None)
            held = torch.empty(size, dtype=torch.float32, device=like.device)
            self._held[name] = held
        return held[:size].view(shape)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the dot product of every row. Shape (rows, n) each -> (rows,)."""
        product = torch.mul(a, b, out=self.take("product", (a.shape[0], a.shape[1]), a))
        return product.sum(1)
