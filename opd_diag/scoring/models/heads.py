"""The output head: hidden states to logits in float32, and a logit gradient back to hidden states.

With hidden states h, weight W, bias b, scale s and soft cap c the logits are
z = c tanh(y / c), y = s (W h + b); without a soft cap z = y.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """The output head of a model, cut to a range of ids.

    Attributes:
        weight: Shape (ids, hidden). On the CPU float32; on CUDA float32 or the saved dtype, whose
            products are accumulated and returned in float32.
        bias: Shape (ids,), float32, or None.
        scale: What the logits are multiplied by.
        soft_cap: The bound c of the logits, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def cut(self, start: int, stop: int) -> "Head":
        """Return the head of the ids from `start` to `stop`."""
        bias = None if self.bias is None else self.bias[start:stop]
        return Head(self.weight[start:stop], bias, self.scale, self.soft_cap)

    def logits(self, hidden: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Compute logits in float32.

        Args:
            hidden: Shape (rows, hidden), any float dtype.
            out: Where a float32 head writes; others bring their own. Shape (rows, ids), float32.

        Returns:
            Logits. Shape (rows, ids), float32.
        """
        logits = _product(hidden, self.weight.T, out=out)
        if self.bias is not None:
            logits.add_(self.bias)
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.soft_cap is not None:
            logits.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
        return logits

    def slope(self, logits: Tensor) -> Tensor | None:
        """Return dz / dy of the soft cap at these logits, or None where it is 1 everywhere."""
        if self.soft_cap is None:
            return None
        return (logits / self.soft_cap).square_().neg_().add_(1.0)

    def backward(self, gradient: Tensor) -> Tensor:
        """Carry a gradient in y back to the hidden states.

        Args:
            gradient: Overwritten by a head of low precision. Shape (rows, ids), float32.

        Returns:
            The gradient in h, s W'g. Shape (rows, hidden), float32.
        """
        if self.weight.dtype == torch.float32:
            return _product(gradient, self.weight).mul_(self.scale)
        unit = torch.ones_like(gradient[:, :1])
        if self.weight.dtype == torch.float16:
            # A power of two keeps small gradients out of its subnormals.
            low, high = torch.aminmax(gradient, dim=1, keepdim=True)
            size = torch.maximum(-low, high).clamp_(min=torch.finfo(torch.float32).tiny)
            unit = torch.exp2(torch.log2(size).ceil_())
            gradient.div_(unit)
        # Two terms of low precision carry 16 bits of the gradient through the fast product.
        first = gradient.to(self.weight.dtype)
        second = gradient.sub_(first).to(self.weight.dtype)
        hidden = _product(first, self.weight).add_(_product(second, self.weight))
        return hidden.mul_(unit).mul_(self.scale)


def as_head(
    weight: Tensor, bias: Tensor | None, *, scale: float, soft_cap: float | None, device: str
) -> Head:
    """Put a head on a device, in the dtype in which its products are exact enough there.

    Args:
        weight: Shape (ids, hidden).
        bias: Shape (ids,), or None.
        scale: What the logits are multiplied by.
        soft_cap: The bound of the logits, or None.
        device: Where it goes.
    """
    # Only CUDA multiplies bfloat16 with a float32 result; elsewhere the product itself is rounded.
    keep = torch.device(device).type == "cuda"
    weight = weight.detach().to(device=device, dtype=weight.dtype if keep else torch.float32)
    if bias is not None:
        bias = bias.detach().to(device=device, dtype=torch.float32)
    return Head(weight, bias, scale, soft_cap)


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    if b.dtype == torch.float32:
        return torch.mm(a.to(torch.float32), b, out=out)
    return torch.mm(a.to(b.dtype), b, out_dtype=torch.float32)
