"""Log-probs of a teacher that ran elsewhere: of the tokens that stand there, and of a few others.

A file has a row for each rollout (JSON lines or Parquet), with its `id` and one of these forms:

- `logprobs`, one for each response token, and beside them or alone `top_ids` and `top_logprobs`, a
  list for each response token; `top_of` is `teacher` where these are the teacher's own likeliest;
- `prompt_logprobs`, as vLLM answers for prompt and response read as a prompt: a list with an object
  of token ids for each token, whose ranks tell which are the teacher's own likeliest;
- `meta_info`, as SGLang answers: `input_token_logprobs` with [log-prob, id, text] for each token,
  and lists of such in `input_top_logprobs`, the teacher's own, or `input_token_ids_logprobs`.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from opd_diag.errors import ModelError, RolloutError, faults, first_line
from opd_diag.scoring.token_lists import Ragged

DUMP = "dump"
_MOST_NAMED = 5

Pair = tuple[int, float]


class TokenLogprobs(NamedTuple):
    """What is known of the teacher at one response token.

    Attributes:
        own: Log-prob of the token that stands there; None: not told.
        others: (id, log-prob) of other ids, the token among them or not.
        rank: The teacher's rank of the token; 0: not told.
        n_top: How many of the others are the teacher's own likeliest.
    """

    own: float | None
    others: list[Pair]
    rank: int = 0
    n_top: int = 0


class GivenLogprobs:
    """Log-probs of the teacher by rollout.

    Attributes:
        where: The file, or `dump`.
        own: Log-prob of each response token, NaN where it is not told. Shape (tokens,).
        ranks: Rank of each response token and number of the teacher's own likeliest among the
            ids, 0 where it is not told. Shape (tokens, 2).
        ids: Other ids, -1 for none. Shape (tokens, width).
        logp: Their log-probs, NaN for none. Shape (tokens, width).
    """

    def __init__(
        self,
        where: str,
        responses: Ragged,
        own: NDArray[np.float32],
        ranks: NDArray[np.int32],
        ids: NDArray[np.int32],
        logp: NDArray[np.float32],
    ) -> None:
        self.where, self.own, self.ranks, self.ids, self.logp = where, own, ranks, ids, logp
        self._offsets = responses.offsets

    def rows(self, rollouts: Sequence[int]) -> Tensor:
        """Return what is known at the response tokens of some rollouts, to be scored.

        Returns:
            Own log-prob, ranks, ids, log-probs. Shape (rows, 3 + 2 width), float64.
        """
        at = np.concatenate([np.arange(self._offsets[i], self._offsets[i + 1]) for i in rollouts])
        columns = (self.own[at], self.ranks[at], self.ids[at], self.logp[at])
        return torch.from_numpy(np.column_stack(columns)).to(torch.float64)


def read_logprobs(source: str, table: pl.DataFrame, responses: Ragged) -> GivenLogprobs:
    """Read the teacher's log-probs of every rollout.

    Args:
        source: A file, or `dump` for those that the rollouts hold.
        table: The rollouts.
        responses: Their responses, as far as they are scored.

    Raises:
        RolloutError: If a rollout has none, or a row is not of a known form.
        ModelError: If the file cannot be read.
    """
    names = table["rollout_id"].to_list()
    wanted = {name: i for i, name in enumerate(names) if responses.lengths[i]}
    known: dict[int, list[TokenLogprobs]] = {}
    if source == DUMP:
        for i, values in enumerate(table["trainer_teacher_logp"]):
            if names[i] in wanted and values is not None:
                known[i] = [TokenLogprobs(value, []) for value in values]
    else:
        wrong = []
        for line, row in enumerate(_rows(Path(source)), start=1):
            number = wanted.get(str(row.get("id")))
            if number is None:
                continue
            try:
                known[number] = _of_row(row, responses[number])
            except (ValueError, TypeError, KeyError, IndexError) as error:
                wrong.append(f"line {line}: {first_line(error)}")
        if wrong:
            raise RolloutError(faults(source, wrong))
    absent = [name for name, i in wanted.items() if i not in known]
    if absent:
        raise RolloutError(
            f"{source}: no log-probs of the teacher for {len(absent):,} of {len(names):,} "
            f"rollouts, first {', '.join(absent[:_MOST_NAMED])}; expected them for each"
        )
    return _packed(source, responses, known)


def _packed(where: str, responses: Ragged, known: dict[int, list[TokenLogprobs]]) -> GivenLogprobs:
    n = int(responses.offsets[-1])
    width = max((len(token.others) for rows in known.values() for token in rows), default=0)
    own = np.full(n, np.nan, np.float32)
    ranks = np.zeros((n, 2), np.int32)
    ids = np.full((n, width), -1, np.int32)
    logp = np.full((n, width), np.nan, np.float32)
    for number, rows in known.items():
        start, length = responses.offsets[number], responses.lengths[number]
        for place, token in enumerate(rows[:length], start=start):
            if token.own is not None:
                own[place] = token.own
            ranks[place] = token.rank, token.n_top
            for column, (token_id, value) in enumerate(token.others):
                ids[place, column], logp[place, column] = token_id, value
    return GivenLogprobs(where, responses, own, ranks, ids, logp)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            yield from pl.read_parquet(path).iter_rows(named=True)
            return
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    row = json.loads(line)
                    yield row if isinstance(row, dict) else {}
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise ModelError(
            f"{path}: {first_line(error)}; expected JSON lines or Parquet of log-probs"
        ) from error


def _of_row(row: dict[str, Any], response: NDArray[np.int32]) -> list[TokenLogprobs]:
    """Take what a row tells of each response token, and check that it is of these tokens."""
    if row.get("prompt_logprobs") is not None:
        return _of_vllm(row["prompt_logprobs"], response)
    if row.get("meta_info") is not None:
        return _of_sglang(row["meta_info"], response)
    own, ids, logps = (row.get(name) for name in ("logprobs", "top_ids", "top_logprobs"))
    if (ids is None) != (logps is None):
        there, absent = ("top_logprobs", "top_ids") if ids is None else ("top_ids", "top_logprobs")
        raise ValueError(f"{there} without {absent}; expected both or neither")
    if own is None and ids is None:
        raise ValueError(
            "no logprobs, top_ids and top_logprobs, prompt_logprobs or meta_info; expected one of "
            "these forms"
        )
    for name, values in (("logprobs", own), ("top_ids", ids), ("top_logprobs", logps)):
        if values is not None and len(values) < len(response):
            raise ValueError(f"{name} has {len(values)} values; expected {len(response)}")
    tokens = []
    for place in range(len(response)):
        others = [] if ids is None or logps is None else _pairs(ids[place], logps[place])
        n_top = len(others) if row.get("top_of") == "teacher" else 0
        value = None if own is None else _number(own[place])
        tokens.append(TokenLogprobs(value, others, n_top=n_top))
    return tokens


def _of_vllm(entries: list[Any], response: NDArray[np.int32]) -> list[TokenLogprobs]:
    if len(entries) <= len(response):
        raise ValueError(
            f"prompt_logprobs has {len(entries)} entries; expected prompt and response"
        )
    tokens = []
    for entry, token in zip(entries[-len(response) :], response.tolist(), strict=True):
        told = {
            int(key): _number(one["logprob"] if isinstance(one, dict) else one)
            for key, one in (entry or {}).items()
            if one is not None
        }
        if token not in told:
            raise ValueError(f"token {token} is not among its prompt_logprobs; expected it")
        ranks = {
            int(key): int(one["rank"])
            for key, one in entry.items()
            if isinstance(one, dict) and one.get("rank")
        }
        n_top = 0
        while n_top + 1 in ranks.values():
            n_top += 1
        tokens.append(TokenLogprobs(told[token], list(told.items()), ranks.get(token, 0), n_top))
    return tokens


def _of_sglang(meta: dict[str, Any], response: NDArray[np.int32]) -> list[TokenLogprobs]:
    own = meta["input_token_logprobs"]
    others = meta.get("input_token_ids_logprobs") or meta.get("input_top_logprobs")
    if len(own) < len(response):
        raise ValueError(
            f"input_token_logprobs has {len(own)} entries; expected {len(response)} or more"
        )
    tokens = []
    for place, token in enumerate(response.tolist(), start=len(own) - len(response)):
        value, token_id = own[place][:2]
        if token_id != token:
            raise ValueError(f"input_token_logprobs is of token {token_id}; expected {token}")
        pairs = [(int(one[1]), _number(one[0])) for one in (others[place] or ())] if others else []
        n_top = 0 if meta.get("input_token_ids_logprobs") else len(pairs)
        tokens.append(TokenLogprobs(_number(value), pairs, n_top=n_top))
    return tokens


def _pairs(ids: Sequence[int], logps: Sequence[float]) -> list[Pair]:
    pairs = [(int(i), _number(value)) for i, value in zip(ids, logps, strict=True)]
    if len({i for i, _ in pairs}) < len(pairs):
        raise ValueError("an id stands twice in top_ids; expected each once")
    return pairs


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number > 1e-3:
        raise ValueError(f"log-prob {value}; expected a finite number up to 0")
    return min(number, 0.0)
