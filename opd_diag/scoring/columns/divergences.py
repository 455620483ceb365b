"""Distributions over the vocabulary, and the divergences between two of them.

Notation: p student, q teacher, a = log p - log q. Rows are independent; everything is in nat.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from opd_diag.scoring.columns.buffers import Buffers

# Stands for a logit of -inf: its probability is 0 in float32, and products with it stay finite.
FLOOR = -1e4


class Distribution(NamedTuple):
    """One model's distribution over the vocabulary.

    Attributes:
        shifted: Logits minus the largest one. Shape (rows, ids).
        p: Probabilities. Shape (rows, ids).
        log_top: Log-prob of the likeliest token: log p = shifted + log_top. Shape (rows, 1).
        entropy: Shape (rows,).
    """

    shifted: Tensor
    p: Tensor
    log_top: Tensor
    entropy: Tensor

    def log_p(self, ids: Tensor) -> Tensor:
        """Return log-probs at `ids`, -inf where a hole was filled. Shape (rows, n) as `ids`."""
        values = self.shifted.gather(1, ids).add_(self.log_top)
        return values.masked_fill_(values < 0.5 * FLOOR, -torch.inf)


def distribution(
    logits: Tensor, top: Tensor, top_id: Tensor, buffers: Buffers, *, name: str
) -> Distribution:
    """Turn logits into a distribution. The logits are overwritten by their shifted form.

    Args:
        logits: Shape (rows, ids), float32.
        top: The largest logit of every row. Shape (rows, 1).
        top_id: Its id. Shape (rows, 1).
        buffers: Memory to work in.
        name: The one that the probabilities are written to.
    """
    shifted = logits.sub_(top)
    rows, ids = shifted.shape
    p = torch.softmax(shifted, 1, out=buffers.take(name, (rows, ids), shifted))
    # The mass outside the top token, summed without it, keeps its digits where the top is near 1.
    p_top = p.gather(1, top_id)
    rest = p.scatter_(1, top_id, 0.0).sum(1, keepdim=True)
    p.scatter_(1, top_id, p_top)
    log_top = torch.where(rest < 0.5, torch.log1p(-rest), p_top.log())
    entropy = -buffers.dot(p, shifted) - log_top.squeeze(1)
    return Distribution(shifted, p, log_top, entropy)


class Divergences(NamedTuple):
    """Divergences of every row, and the log-ratio.

    Attributes:
        a: log p - log q. Shape (rows, ids).
        reverse_kl: KL(student ‖ teacher). Shape (rows,).
        forward_kl: KL(teacher ‖ student). Shape (rows,).
        js: Jensen-Shannon divergence, weights 1/2. Shape (rows,).
    """

    a: Tensor
    reverse_kl: Tensor
    forward_kl: Tensor
    js: Tensor


def divergences(student: Distribution, teacher: Distribution, buffers: Buffers) -> Divergences:
    """Compute both KL divergences and the Jensen-Shannon divergence.

    With hi = max(p, q), lo = min(p, q), b = |a| and e = expm1(-b), the difference p - q is
    -sign(a) hi e without cancellation. Adding the sum of q - p, which is 0 but for rounding, to
    sum p a gives the sum of p (a + expm1(-a)): an error in the normalisers then enters in second
    order only. The same holds for q, and js = -(sum lo b + sum (p + q) log1p(e / 2)) / 2. No term
    can overflow, because b is not negative.

    Args:
        student: p. Its `shifted` is overwritten by a.
        teacher: q.
        buffers: Memory to work in.
    """
    p, q = student.p, teacher.p
    a = torch.sub(student.shifted, teacher.shifted, out=student.shifted)
    a.add_(student.log_top - teacher.log_top)
    rows, ids = a.shape
    work = torch.abs(a, out=buffers.take("work", (rows, ids), a))
    shared = torch.minimum(p, q, out=buffers.take("shared", (rows, ids), a))
    js = buffers.dot(shared, work)
    e = work.neg_().expm1_()
    difference = torch.maximum(p, q, out=shared).mul_(e).copysign_(a).sum(1)
    log_mean = e.mul_(0.5).log1p_()
    js += buffers.dot(p, log_mean) + buffers.dot(q, log_mean)
    reverse = buffers.dot(p, a) - difference
    forward = difference - buffers.dot(q, a)
    # Rounding can leave -1e-12 where a divergence is 0.
    return Divergences(a, reverse.clamp_(min=0), forward.clamp_(min=0), (-0.5 * js).clamp_(min=0))


class Holes(NamedTuple):
    """Where logits of -inf leave a divergence without a finite value. Shape (rows,) each.

    Attributes:
        reverse: q = 0 < p somewhere.
        forward: p = 0 < q somewhere.
    """

    reverse: Tensor
    forward: Tensor


def fill_holes(student: Tensor, teacher: Tensor) -> Holes:
    """Replace -inf by a logit whose probability is 0, in place, and tell what becomes infinite.

    Args:
        student: Logits. Shape (rows, ids).
        teacher: Logits. Shape (rows, ids).
    """
    no_p, no_q = torch.isneginf(student), torch.isneginf(teacher)
    for logits, none in ((student, no_p), (teacher, no_q)):
        floor = logits.amax(1, keepdim=True).add_(FLOOR)
        torch.where(none, floor, logits, out=logits)
    return Holes((no_q & ~no_p).any(1), (no_p & ~no_q).any(1))


class LogitGradient(NamedTuple):
    """The gradient of reverse_kl in the logits.

    Attributes:
        g: In the logits before the soft cap. Shape (rows, ids).
        norm: L2 norm of the gradient in the model's logits. Shape (rows,).
        inner_norm: L2 norm of `g`. Shape (rows,).
    """

    g: Tensor
    norm: Tensor
    inner_norm: Tensor


def logit_gradient(
    p: Tensor, divergence: Divergences, slope: Tensor | None, temperature: float
) -> LogitGradient:
    """Compute the gradient of reverse_kl in the student's logits.

    Args:
        p: Student probabilities. Shape (rows, ids).
        divergence: Its `a` is overwritten by the gradient.
        slope: Derivative of the soft cap, or None. Shape (rows, ids).
        temperature: What both models' logits were divided by.
    """
    g = divergence.a.sub_(divergence.reverse_kl[:, None]).mul_(p)
    if temperature != 1.0:
        g.div_(temperature)
    norm = torch.linalg.vector_norm(g, dim=1)
    if slope is None:
        return LogitGradient(g, norm, norm)
    g.mul_(slope)
    return LogitGradient(g, norm, torch.linalg.vector_norm(g, dim=1))
