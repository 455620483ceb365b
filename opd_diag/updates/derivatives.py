"""Derivatives of every token's KL along a change of the student's parameters.

With hidden states h, head W and a direction (dtheta, dW), forward-mode differentiation of the body
gives dh, and the head's part is written out: dy = s (W dh + dW h + db), dz = dy times the slope of
the soft cap. Then d KL(p ‖ q) = sum_u g(u) dz(u), g(u) = p(u) (a(u) - KL) / T, a = log p - log q,
and d KL(q ‖ p) = sum_u (p(u) - q(u)) dz(u) / T. Rows go through the head in chunks, so that memory
does not grow with response times vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, jvp

from opd_diag.errors import ModelMismatchError
from opd_diag.scoring.models.forward import LanguageModel
from opd_diag.scoring.models.heads import Head

CHUNK = 256  # rows through the head at a time
STEP = 1e-4  # of the parameters' norm, for central differences


@dataclass(frozen=True)
class Direction:
    """A direction in the space of a student's parameters.

    Attributes:
        body: Tangent of each parameter of the body, by name.
        weight: Tangent of the output head's weight; the embedding's own where the two are tied.
        bias: Tangent of its bias, or None.
    """

    body: Mapping[str, Tensor]
    weight: Tensor
    bias: Tensor | None


class Derivatives(NamedTuple):
    """What is known of the tokens of one response. Shape (tokens,), nat.

    Attributes:
        reverse_kl: Derivative of KL(student ‖ teacher) along the direction.
        forward_kl: That of KL(teacher ‖ student).
    """

    reverse_kl: Tensor
    forward_kl: Tensor


def is_tied(model: LanguageModel) -> bool:
    """Tell whether the output head is the embedding of the input."""
    head, embedding = model.model.get_output_embeddings(), model.model.get_input_embeddings()
    return head is not None and embedding is not None and head.weight is embedding.weight


def update_direction(before: LanguageModel, after: LanguageModel) -> Direction:
    """Return the update from one checkpoint to another.

    Raises:
        ModelMismatchError: If the two differ in more than the values of their parameters.
    """
    ours, theirs = (dict(model.body.named_parameters()) for model in (before, after))
    shapes = ({name: tuple(p.shape) for name, p in one.items()} for one in (ours, theirs))
    first, second = shapes
    biases = (before.head.bias is None, after.head.bias is None)
    widths = (before.head.weight.shape, after.head.weight.shape)
    if first != second or biases[0] != biases[1] or widths[0] != widths[1]:
        odd = sorted(set(first.items()) ^ set(second.items()))
        name = odd[0][0] if odd else "the output head"
        raise ModelMismatchError(
            f"{before.name} and {after.name}: other parameters, such as {name}; expected two "
            "checkpoints of one model"
        )
    bias = None
    if before.head.bias is not None and after.head.bias is not None:
        bias = after.head.bias - before.head.bias
    return Direction(
        {name: (theirs[name] - p).detach() for name, p in ours.items()},
        after.head.weight - before.head.weight,
        bias,
    )


def random_direction(update: Direction, *, tied: str | None, seed: int) -> Direction:
    """Draw a direction with the norm of an update in every matrix.

    Args:
        update: The update.
        tied: Name of the body's parameter that the head's weight is, or None.
        seed: Seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed % 2**64)

    def like(tangent: Tensor) -> Tensor:
        drawn = torch.randn(tangent.shape, generator=generator).to(tangent)
        scaled: Tensor = drawn * (tangent.norm() / drawn.norm().clamp_min(1e-30))
        return scaled

    body = {name: like(tangent) for name, tangent in update.body.items()}
    weight = like(update.weight)
    if tied is not None:
        rows = len(update.weight)
        weight = body[tied][:rows].to(update.weight)
    return Direction(body, weight, None if update.bias is None else like(update.bias))


def tied_parameter(model: LanguageModel) -> str | None:
    """Return the name of the body's parameter that is the head's weight, or None."""
    if not is_tied(model):
        return None
    embedding = model.model.get_input_embeddings().weight
    return next((name for name, p in model.body.named_parameters() if p is embedding), None)


def derivatives(
    model: LanguageModel,
    head: Head,
    direction: Direction,
    ids: Tensor,
    n_prompt: int,
    teacher_log: "TeacherRows",
    *,
    temperature: float = 1.0,
) -> Derivatives:
    """Differentiate the KL of every response token along a direction.

    Args:
        model: The student, with eager attention.
        head: Its output head, cut to the ids that both models share.
        direction: The direction; its weight is cut as the head is.
        ids: Prompt and response without its last token. Shape (tokens,).
        n_prompt: Tokens of the prompt.
        teacher_log: The teacher's log-probs of the response's rows, chunk by chunk.
        temperature: Both models' logits are divided by it.
    """
    parameters = {name: p.detach() for name, p in model.body.named_parameters()}

    def body(changed: Mapping[str, Tensor]) -> Tensor:
        output = functional_call(
            model.body, dict(changed), kwargs={"input_ids": ids[None], "use_cache": False}
        )
        states: Tensor = output.last_hidden_state[0, n_prompt - 1 :]
        return states

    hidden, moved = jvp(body, (parameters,), (dict(direction.body),))[:2]
    reverse: list[Tensor] = []
    forward: list[Tensor] = []
    weight, bias = direction.weight[: len(head.weight)], direction.bias
    with torch.no_grad():
        for rows, log_q in teacher_log:
            h, dh = hidden[rows].float(), moved[rows].float()
            z = head.logits(h)
            dz = dh @ head.weight.T.float() + h @ weight.T.float()
            if bias is not None:
                dz += bias[: dz.shape[1]]
            dz *= head.scale
            if (slope := head.slope(z)) is not None:
                dz *= slope
            both = _logit_gradient(torch.log_softmax(z / temperature, dim=1), log_q)
            for gradient, parts in zip(both, (reverse, forward), strict=True):
                parts.append((gradient * dz).sum(dim=1) / temperature)
    return Derivatives(torch.cat(reverse), torch.cat(forward))


class TeacherRows:
    """The teacher's log-probs over the shared ids, a chunk of rows at a time.

    Attributes:
        rows: Places of the rows in the response.
    """

    def __init__(
        self,
        head: Head,
        hidden: Tensor,
        *,
        temperature: float = 1.0,
        rows: Tensor | None = None,
    ) -> None:
        self._head, self._hidden, self._temperature = head, hidden, temperature
        self.rows = torch.arange(len(hidden)) if rows is None else rows

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.split(self.rows, CHUNK):
            logits = self._head.logits(self._hidden[rows])
            yield rows, torch.log_softmax(logits / self._temperature, dim=1)

    def of(self, rows: Tensor) -> "TeacherRows":
        """Keep some of the rows, by their places in the response."""
        return TeacherRows(self._head, self._hidden, temperature=self._temperature, rows=rows)


def gradients(
    model: LanguageModel,
    head: Head,
    ids: Tensor,
    n_prompt: int,
    teacher_log: TeacherRows,
    matrices: Sequence[str],
    *,
    tied: str | None,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Differentiate the summed KL(student ‖ teacher) of some rows in some matrices of the body.

    The head's part is written out, a chunk of rows at a time; a tied matrix has both its parts.

    Args:
        model: The student.
        head: Its output head, cut to the ids that both models share.
        ids: Prompt and response without its last token. Shape (tokens,).
        n_prompt: Tokens of the prompt.
        teacher_log: The teacher's log-probs of the rows.
        matrices: Names of parameters of the body.
        tied: Name of the body's parameter that the head's weight is, or None.
        temperature: Both models' logits are divided by it.

    Returns:
        Gradients in float32, by name.
    """
    states = model.hidden_states(ids[None])[0, n_prompt - 1 :]
    back = torch.zeros_like(states)
    own = torch.zeros_like(head.weight, dtype=torch.float32) if tied in matrices else None
    with torch.no_grad():
        for rows, log_q in teacher_log:
            h = states[rows].float()
            z = head.logits(h)
            gradient = _logit_gradient(torch.log_softmax(z / temperature, dim=1), log_q)[0]
            gradient /= temperature
            if (slope := head.slope(z)) is not None:
                gradient *= slope
            if own is not None:
                own += head.scale * gradient.T @ h
            back[rows] = head.backward(gradient).to(back.dtype)
    parameters = dict(model.body.named_parameters())
    wanted = [parameters[name] for name in matrices]
    parts = torch.autograd.grad(states, wanted, back)
    found = {name: part.float() for name, part in zip(matrices, parts, strict=True)}
    if own is not None:
        found[str(tied)][: len(own)] += own
    return found


def _logit_gradient(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of both KL in the logits over the temperature. Shapes (rows, ids)."""
    p, q = log_p.exp(), log_q.exp()
    a = torch.where(p > 0, log_p - log_q, 0.0)
    kl = (p * a).sum(dim=1, keepdim=True)
    return p * (a - kl), p - q


def central_differences(
    model: LanguageModel,
    head: Head,
    direction: Direction,
    ids: Tensor,
    n_prompt: int,
    teacher_log: TeacherRows,
    *,
    temperature: float = 1.0,
) -> Derivatives:
    """Differentiate by two evaluations at the parameters plus and minus a step, in float64.

    The step is 10^-4 of the parameters' norm: less would drown in what models round to float32.
    Arguments as for `derivatives`.
    """
    parameters = dict(model.body.named_parameters())
    size = sum(float(p.detach().double().square().sum()) for p in parameters.values())
    length = sum(float(d.double().square().sum()) for d in direction.body.values())
    step = STEP * (size / max(length, 1e-300)) ** 0.5
    sides = []
    buffers = {
        name: b.double() if b.is_floating_point() else b for name, b in model.body.named_buffers()
    }
    for sign in (1.0, -1.0):
        moved = {
            name: p.detach().double() + sign * step * direction.body[name].double()
            for name, p in model.body.named_parameters()
        }
        with torch.no_grad():
            output = functional_call(
                model.body,
                {**moved, **buffers},
                kwargs={"input_ids": ids[None], "use_cache": False},
            )
            hidden = output.last_hidden_state[0, n_prompt - 1 :].double()
            weight = head.weight.double() + sign * step * direction.weight[: len(head.weight)]
            bias = None if head.bias is None else head.bias.double()
            if bias is not None and direction.bias is not None:
                bias = bias + sign * step * direction.bias[: len(bias)]
            kls = []
            for rows, log_q in teacher_log:
                y = hidden[rows] @ weight.T
                if bias is not None:
                    y = y + bias
                y = y * head.scale
                if head.soft_cap is not None:
                    y = head.soft_cap * torch.tanh(y / head.soft_cap)
                log_p = torch.log_softmax(y / temperature, dim=1)
                p, wide = log_p.exp(), log_q.double()
                kls.append(
                    torch.stack([(p * (log_p - wide)).sum(1), (wide.exp() * (wide - log_p)).sum(1)])
                )
            sides.append(torch.cat(kls, dim=1))
    reverse, forward = (sides[0] - sides[1]) / (2 * step)
    return Derivatives(reverse, forward)
