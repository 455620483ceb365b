"""Generate responses, batched, from random numbers that do not depend on the batch.

A token is chosen by inverting the cumulative distribution over the ids in rising order, in
float64: it is the first id whose cumulative probability exceeds the uniform number of its problem,
sample and position. If it is banned, a second number of the same place chooses among the ids that
are not. So a ban has exactly the distribution of banned logits at minus infinity, and a response
under a ban differs from that without it only from the first banned token on.

Logits depend in their last bits on what shares the batch. A choice whose number lies within
`BORDER` of a border of the distribution is therefore made again from the logits of that sequence
run alone, without a cache: what is chosen does not depend on the batch, as long as float32 logits
move by less than that. Under 16-bit dtypes they move by more, and nothing is run again.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from opd_diag.errors import ModelError
from opd_diag.interventions.uniforms import uniforms
from opd_diag.scoring.models.forward import LanguageModel, is_out_of_memory

BORDER = 1e-4  # of the cumulative probability, at temperature 1 or above
STOP, LENGTH = "stop", "length"


class Request(NamedTuple):
    """A response that is wanted.

    Attributes:
        problem: Name that its random numbers belong to.
        sample: Which sample of the problem.
        prompt: Ids of the prompt.
        begun: Ids of the response that are there already.
    """

    problem: str
    sample: int
    prompt: Sequence[int]
    begun: Sequence[int] = ()


class Response(NamedTuple):
    """A response.

    Attributes:
        token_ids: Its ids, those that were there already and the end token included.
        finish: `stop` where it ends with an end token, else `length`.
        best_ids: The model's likeliest id at each place that was generated here; empty where an
            engine does not tell.
    """

    token_ids: list[int]
    finish: str
    best_ids: list[int]


class Engine(Protocol):
    """What generates responses.

    Attributes:
        name: Its name.
        shares_numbers: Whether requests of the same problem and sample get the same random
            numbers under every ban.
    """

    name: str
    shares_numbers: bool

    def generate(
        self,
        requests: Sequence[Request],
        banned: Sequence[int] = (),
        *,
        advance: Callable[[int], None] | None = None,
    ) -> list[Response]:
        """Generate responses, in the order of the requests."""


@dataclass(frozen=True)
class Decoding:
    """How a model generates.

    Attributes:
        ids: Decodable ids are 0 to ids - 1; no other is ever chosen.
        end_ids: Ids that end a response.
        temperature: Logits are divided by it.
        max_new_tokens: Most tokens of a response, those already there included.
        seed: Seed of all random numbers.
        suppressed: Ids that are never chosen in any arm, as the model's settings say.
    """

    ids: int
    end_ids: tuple[int, ...]
    temperature: float
    max_new_tokens: int
    seed: int
    suppressed: tuple[int, ...] = ()


class TransformersEngine:
    """Generates with a model of transformers: left-padded batches with a cache.

    Args:
        model: The model.
        decoding: How it generates.
        batch_size: Most responses at a time; halved where memory runs out.
    """

    name = "transformers"
    shares_numbers = True

    def __init__(self, model: LanguageModel, decoding: Decoding, *, batch_size: int = 64) -> None:
        self._model, self._decoding = model, decoding
        self._head = model.head.cut(0, decoding.ids)
        self._batch_size = batch_size
        parameters = inspect.signature(model.body.forward).parameters
        kinds = {parameter.kind for parameter in parameters.values()}
        self._positioned = "position_ids" in parameters or inspect.Parameter.VAR_KEYWORD in kinds
        exact = model.model.dtype == torch.float32
        self._border = BORDER / min(decoding.temperature, 1.0) if exact else 0.0

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        banned: Sequence[int] = (),
        *,
        advance: Callable[[int], None] | None = None,
    ) -> list[Response]:
        """Generate responses.

        Args:
            requests: What is wanted.
            banned: Ids that are not chosen.
            advance: Told of the tokens of responses that are done.

        Returns:
            The responses, in the order of the requests.

        Raises:
            ModelError: If a single response does not fit into memory, or logits are not finite.
        """
        lengths = [len(one.prompt) + len(one.begun) for one in requests]
        order = sorted(range(len(requests)), key=lambda i: -lengths[i])
        responses: list[Response | None] = [None] * len(requests)
        start = 0
        while start < len(order):
            some = order[start : start + self._batch_size]
            try:
                done = self._batch([requests[i] for i in some], banned)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(some) == 1:
                    raise ModelError(
                        f"{self._model.name}: a response does not fit into memory; expected more "
                        "of it, or a smaller --max-new-tokens"
                    ) from error
                self._batch_size = len(some) // 2
                continue
            for i, response in zip(some, done, strict=True):
                responses[i] = response
            if advance is not None:
                advance(sum(len(one.best_ids) for one in done))
            start += len(some)
        return [response for response in responses if response is not None]

    def _batch(self, requests: Sequence[Request], banned: Sequence[int]) -> list[Response]:
        """Generate one batch; rows that have ended leave it."""
        settings, device = self._decoding, self._model.model.device
        texts = [[*one.prompt, *one.begun] for one in requests]
        token_ids = [list(one.begun) for one in requests]
        best: list[list[int]] = [[] for _ in requests]
        numbers = np.stack([self._numbers(one) for one in requests])
        room = settings.max_new_tokens - min(len(one.begun) for one in requests)
        active = [i for i in range(len(requests)) if self._goes_on(token_ids[i])]
        if not active:
            return [self._response(ids, []) for ids in token_ids]
        width = max(len(texts[i]) for i in active)
        rows = [texts[i] for i in active]
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
        seen = torch.ones((len(rows), width + room), dtype=torch.long, device=device)
        for place, row in enumerate(rows):
            seen[place, : width - len(row)] = 0
        cache = DynamicCache(config=self._model.model.config.get_text_config(decoder=True))
        allowed = self._allowed(banned)
        used = width
        while active:
            hidden = self._step(ids, seen[:, :used], cache)
            logits = self._head.logits(hidden.to(self._head.weight.device))
            at = [len(token_ids[i]) for i in active]
            chosen, likeliest = self._choose(
                logits, numbers[active, :, at], allowed, [texts[i] for i in active]
            )
            for i, token, top in zip(active, chosen, likeliest, strict=True):
                token_ids[i].append(token)
                texts[i].append(token)
                best[i].append(top)
            going = [place for place, i in enumerate(active) if self._goes_on(token_ids[i])]
            if 0 < len(going) < len(active):
                keep = torch.tensor(going, device=device)
                cache.batch_select_indices(keep)
                seen = seen[keep]
            active = [active[place] for place in going]
            ids = torch.tensor([[token_ids[i][-1]] for i in active], device=device)
            used += 1
        return [self._response(ids, top) for ids, top in zip(token_ids, best, strict=True)]

    def _goes_on(self, token_ids: Sequence[int]) -> bool:
        settings = self._decoding
        ended = bool(token_ids) and token_ids[-1] in settings.end_ids
        return not ended and len(token_ids) < settings.max_new_tokens

    def _response(self, token_ids: list[int], best: list[int]) -> Response:
        ended = bool(token_ids) and token_ids[-1] in self._decoding.end_ids
        return Response(token_ids, STOP if ended else LENGTH, best)

    def _numbers(self, request: Request) -> Any:
        """Both series of a request. Shape (2, max_new_tokens)."""
        settings = self._decoding
        of = settings.seed, request.problem, request.sample, settings.max_new_tokens
        return np.stack([uniforms(*of), uniforms(*of, stream="again")])

    def _allowed(self, banned: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Which ids a first choice may take, and which a second. Shape (ids,)."""
        device = self._head.weight.device
        first = torch.ones(self._decoding.ids, dtype=torch.bool, device=device)
        first[[i for i in self._decoding.suppressed if i < self._decoding.ids]] = False
        second = first.clone()
        second[list(banned)] = False
        return first, second

    def _step(self, ids: Tensor, seen: Tensor, cache: DynamicCache) -> Tensor:
        """Run the body over new ids. Shape (rows, new) -> the last state of each (rows, hidden)."""
        options: dict[str, Any] = {"attention_mask": seen}
        if self._positioned:
            positions = (seen.cumsum(1) - 1).clamp(min=0)
            options["position_ids"] = positions[:, -ids.shape[1] :]
        output = self._model.body(input_ids=ids, past_key_values=cache, use_cache=True, **options)
        states: Tensor = output.last_hidden_state[:, -1]
        return states

    def _choose(
        self,
        logits: Tensor,
        numbers: Any,
        allowed: tuple[Tensor, Tensor],
        texts: Sequence[Sequence[int]],
    ) -> tuple[list[int], list[int]]:
        """Choose a token for each row, again from its text alone where a border is near."""
        u = torch.from_numpy(np.ascontiguousarray(numbers)).to(logits.device)
        chosen, margin = choose(logits, u, allowed, self._decoding.temperature)
        likeliest = logits.argmax(dim=1)
        if not bool(torch.isfinite(margin).all()):
            raise ModelError(
                f"{self._model.name}: logits that are not finite; expected a model that generates"
            )
        for place in torch.nonzero(margin < self._border).flatten().tolist():
            ids = torch.tensor([list(texts[place])])
            state = self._model.hidden_states(ids)[:, -1].to(self._head.weight.device)
            alone = self._head.logits(state)
            one, _ = choose(alone, u[place : place + 1], allowed, self._decoding.temperature)
            chosen[place] = one[0]
            likeliest[place] = alone[0].argmax()
        return chosen.tolist(), likeliest.tolist()


def choose(
    logits: Tensor, u: Tensor, allowed: tuple[Tensor, Tensor], temperature: float
) -> tuple[Tensor, Tensor]:
    """Choose a token for each row by inverting its cumulative distribution.

    Args:
        logits: Shape (rows, ids), float32.
        u: Two uniform numbers for each row; the second is used where the first chooses an id that
            is banned. Shape (rows, 2), float64.
        allowed: Ids that a first choice may take, and those of them that are not banned. Each of
            shape (ids,).
        temperature: Logits are divided by it.

    Returns:
        The ids, shape (rows,), and how far the numbers lie from the nearest border of the
        cumulative distribution, shape (rows,); NaN where logits are not finite.
    """
    first, second = allowed
    chosen, margin = _invert(logits, u[:, 0], first, temperature)
    again = ~second[chosen]
    if again.any():
        other, other_margin = _invert(logits[again], u[again, 1], second, temperature)
        chosen[again] = other
        margin[again] = torch.minimum(margin[again], other_margin)
    return chosen, margin


def _invert(
    logits: Tensor, u: Tensor, allowed: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    z = (logits.double() / temperature).masked_fill(~allowed, -torch.inf)
    p = (z - z.amax(dim=1, keepdim=True)).exp()
    cumulative = p.cumsum(dim=1)
    total = cumulative[:, -1:]
    cumulative = cumulative / total
    place = torch.searchsorted(cumulative, u[:, None].contiguous(), right=True)
    # The last id that can be chosen, should rounding leave the number above all sums.
    last = cumulative.shape[1] - 1 - (p > 0).flip(1).int().argmax(dim=1, keepdim=True)
    place = torch.minimum(place, last)
    above = cumulative.gather(1, place)
    below = torch.where(place > 0, cumulative.gather(1, (place - 1).clamp(min=0)), 0.0)
    # No border stands below the first id or above the last one.
    far = torch.full_like(above, 1.0)
    gap_above = torch.where(place < last, (above - u[:, None]).abs(), far)
    gap_below = torch.where(below > 0, (u[:, None] - below).abs(), far)
    margin = torch.minimum(gap_above, gap_below)[:, 0]
    margin = torch.where(torch.isfinite(total[:, 0]), margin, torch.nan)
    return place[:, 0], margin
