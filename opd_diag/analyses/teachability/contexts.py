"""Read the same tokens before and after training, with their features, sorted by prompt."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.teachability.choices import require
from opd_diag.analyses.teachability.features import DIVERGENCES, with_features
from opd_diag.errors import TableError
from opd_diag.stats.hashing import seeded_hash
from opd_diag.tables.run import Run
from opd_diag.tables.source import Source, paired_tokens

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

KLS = ("forward_kl", "reverse_kl")
ONE_CHECKPOINT = "one checkpoint: gain needs two on the same tokens"
RELATIVE_FLOOR = 0.01  # nat; below it a relative gain is noise over nothing

_KEYS = ("rollout", "position", "token_id")
_SHARED = ("in_loss", "student_entropy", "teacher_entropy", "grad_logits")
_SUPPORT = ("teacher_top_rank", "teacher_mass", "overlap")


class Contexts(NamedTuple):
    """Tokens in the loss at fixed contexts, whole prompts one after the other.

    Attributes:
        first: Checkpoint before training: all features are its own.
        last: Checkpoint after training; None: there is no gain.
        tokens: rollout, position, token_id, the features, `<kl>` before training and `<kl>_gain`.
        rollouts: Rows of the rollouts with tokens, in the order of `tokens`.
        rollout: Row of `rollouts` of each token. Shape (n,).
        prompt: Prompt of each token, from 0 without gaps, rising. Shape (n,).
        starts: First token of each prompt. Shape (prompts,).
        order: Seeded hash of (rollout, position). Shape (n,).
        missing: Tokens in the loss that were left out, for a null score.
        noise_floor: Smallest difference of each KL that scoring can tell from 0, nat.
        k_grid: The K of the array columns.
    """

    first: str
    last: str | None
    tokens: pl.DataFrame
    rollouts: pl.DataFrame
    rollout: Integers
    prompt: Integers
    starts: Integers
    order: npt.NDArray[np.uint64]
    missing: int
    noise_floor: Mapping[str, float]
    k_grid: tuple[int, ...]

    @property
    def head(self) -> dict[str, str]:
        """The first two columns of every result table."""
        return {"checkpoint": self.last or self.first, "features_from": self.first}

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a column of the tokens. Shape (n,), or (n, number of K)."""
        return self.tokens[name].to_numpy()

    def gain(self, kl: str) -> npt.NDArray[np.float32]:
        """Return the gain of each token in nat. Shape (n,)."""
        return self.column(f"{kl}_gain")

    def constant(self, feature: str) -> bool:
        """Tell whether a feature could not be scaled, or is made from one that could not."""
        return self.tokens[feature].null_count() > 0

    def prompt_sums(self, values: npt.NDArray[Any]) -> Floats:
        """Sum a value of each token over prompts. Shape (prompts,)."""
        return np.asarray(np.add.reduceat(values, self.starts, dtype=np.float64))


def read_contexts(
    source: Source,
    first: str,
    last: str | None,
    rollouts: pl.DataFrame,
    *,
    divergence: str,
    scale: str,
    k: int,
    noise_floor: float | None,
    seed: int,
) -> Contexts:
    """Read the tokens of chosen rollouts under one or two checkpoints.

    Raises:
        OptionError: If divergence, scale or K is unknown.
        TableError: If the two checkpoints hold other tokens, a column is missing, or no token
            has all scores.
    """
    which = DIVERGENCES.get(divergence, "forward_kl")
    require(source, dict.fromkeys((*_KEYS, *_SHARED, *_SUPPORT, which, *KLS)))
    shared = dict.fromkeys((*_SHARED, *_SUPPORT, which))
    if last is None:
        wanted = dict.fromkeys((*_KEYS, *shared, *KLS))
        frame = source.tokens(first).select(*wanted).sort("rollout", "position")
    else:
        extra = [name for name in shared if name not in KLS]
        paired = paired_tokens(source, first, last, KLS, extra).lazy()
        gains = ((pl.col(f"{kl}_first") - pl.col(f"{kl}_last")).alias(f"{kl}_gain") for kl in KLS)
        frame = paired.with_columns(*gains).rename({f"{kl}_first": kl for kl in KLS})
        frame = frame.drop(f"{kl}_last" for kl in KLS)
    if rollouts.height < source.rollouts.height:
        frame = frame.filter(pl.col("rollout").is_in(rollouts["rollout"].to_list()))
    in_loss = frame.select(pl.col("in_loss").sum())
    described = with_features(frame, source.k_grid, divergence=divergence, scale=scale, k=k)
    gained = () if last is None else tuple(f"{kl}_gain" for kl in KLS)
    needed = ("teacher_entropy", "grad_logits", *_SUPPORT, *KLS, *gained)
    complete = described.drop_nulls(needed).drop("in_loss", "student_entropy")
    counted, tokens = pl.collect_all([in_loss, complete])
    floors = {kl: _noise_floor(source, (first, last), kl, noise_floor) for kl in KLS}
    total = int(counted.item() or 0)
    return _by_prompt(source, first, last, tokens, rollouts, total, floors, seed)


def _by_prompt(
    source: Source,
    first: str,
    last: str | None,
    tokens: pl.DataFrame,
    rollouts: pl.DataFrame,
    total: int,
    floors: Mapping[str, float],
    seed: int,
) -> Contexts:
    if tokens.is_empty():
        raise TableError("tokens: none in the loss has every score; expected some")
    numbers = tokens["rollout"].to_numpy()
    begins = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
    lengths = np.diff(np.append(begins, len(numbers)))
    known = pl.DataFrame({"rollout": numbers[begins]}).join(
        rollouts, on="rollout", how="left", maintain_order="left"
    )
    if lost := known["prompt_id"].null_count():
        raise TableError(f"rollouts: no row for {lost} of {known.height}; expected one for each")
    names = known.select(pl.col("prompt_id").unique(maintain_order=True)).with_row_index("code")
    coded = known.join(names, on="prompt_id", how="left", maintain_order="left")
    codes = coded["code"].to_numpy().astype(np.int64)
    order = np.argsort(codes, kind="stable")
    if (order[1:] < order[:-1]).any():
        lengths, begins = lengths[order], begins[order]
        before = np.cumsum(lengths) - lengths
        rows = np.repeat(begins - before, lengths) + np.arange(len(numbers))
        tokens, known, codes = tokens[rows], known[order], codes[order]
    prompt = np.repeat(codes, lengths)
    return Contexts(
        first,
        last,
        tokens,
        known,
        np.repeat(np.arange(known.height), lengths),
        prompt,
        np.flatnonzero(np.append(True, prompt[1:] != prompt[:-1])),
        seeded_hash(tokens["rollout"].to_numpy(), tokens["position"].to_numpy(), seed=seed),
        total - tokens.height,
        floors,
        source.k_grid,
    )


def _noise_floor(
    source: Source, names: Sequence[str | None], kl: str, given: float | None
) -> float:
    if given is not None:
        return given
    if not isinstance(source, Run):
        return 0.0
    floors = [source.noise_floor(name).get(kl) for name in names if name in source.checkpoints]
    return max((floor for floor in floors if floor is not None), default=0.0)
