"""Read the same tokens before and after training, with their features, sorted by prompt."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.teachability.features import with_features
from opd_diag.analyses.teachability.options import DIVERGENCES, KLS, Checkpoints, Options
from opd_diag.analyses.tokens import TokenTable, read_tokens
from opd_diag.errors import TableError
from opd_diag.stats.hashing import seeded_hash
from opd_diag.stats.ragged import ranges, run_lengths, run_starts, starts_of
from opd_diag.tables.run import Run
from opd_diag.tables.source import Source

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

RELATIVE_FLOOR = 0.01  # nat; below it a relative gain is noise over nothing
TRAINED, SAME_PROMPT, HELD_OUT = "trained-on", "trained prompt", "held-out"

_KEYS = ("rollout", "position", "token_id")
_SCORES = ("student_entropy", "teacher_entropy", "grad_logits")
_SUPPORT = ("teacher_top_rank", "teacher_mass", "overlap")


class Contexts(NamedTuple):
    """Tokens in the loss at fixed contexts, whole prompts one after the other.

    Attributes:
        checkpoints: Where the features come from, where the gain starts and where it ends.
        kls: Both directions of KL, the one that leads first.
        tokens: rollout, position, token_id, the features, `<kl>` where the gain starts and
            `<kl>_gain`.
        table: Where further columns are read.
        rows: Row of `table` of each token. Shape (n,).
        rollouts: Rows of the rollouts with tokens, in the order of `tokens`.
        rollout: Row of `rollouts` of each token. Shape (n,).
        prompts: Prompt of each token, in the order of the tokens.
        starts: First token of each prompt. Shape (prompts,).
        order: Seeded hash of (rollout, position). Shape (n,).
        missing: Tokens in the loss that were left out, for a null score.
        noise_floor: Smallest difference of each KL that scoring can tell from 0, nat.
        k_grid: The K of the array columns.
        seed: Seed of every draw.
    """

    checkpoints: Checkpoints
    kls: tuple[str, ...]
    tokens: pl.DataFrame
    table: TokenTable
    rows: Integers
    rollouts: pl.DataFrame
    rollout: Integers
    prompts: Prompts
    starts: Integers
    order: npt.NDArray[np.uint64]
    missing: int
    noise_floor: Mapping[str, float]
    k_grid: tuple[int, ...]
    seed: int

    @property
    def head(self) -> dict[str, str | None]:
        """The first columns of every result table."""
        first, start, last, _ = self.checkpoints
        return {"checkpoint": last or first, "features_from": first, "gain_from": start}

    @property
    def has_gain(self) -> bool:
        """Whether there are two checkpoints."""
        return self.checkpoints.last is not None

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.tokens.height

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a column of `tokens`. Shape (n,)."""
        return self.tokens[name].to_numpy()

    def read(self, name: str, checkpoint: str | None = None) -> npt.NDArray[Any]:
        """Read a further column, by default of the checkpoint of the features.

        Shape (n,), or (n, K grid) for a column that holds one value per K.
        """
        return np.asarray(self.table.column(name, checkpoint)[self.rows])

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
    source: Source, checkpoints: Checkpoints, rollouts: pl.DataFrame, options: Options
) -> Contexts:
    """Read the tokens of chosen rollouts under the checkpoints of features and gain.

    Raises:
        OptionError: If K is not in the grid.
        TableError: If a column is missing, or no token has all scores.
    """
    divergence = DIVERGENCES[options.divergence]
    scores = tuple(dict.fromkeys((*_SCORES, divergence, *KLS)))
    table = read_tokens(source, rollouts, checkpoints.all, columns=("in_loss", *scores, *_SUPPORT))
    table = table.where(table.column("in_loss"))
    known = (pl.col(name).is_not_null().alias(f"{name} known") for name in _SUPPORT)
    frame = table.frame([*_KEYS, *scores, pl.col("teacher_mass"), *known])
    needed = ["teacher_entropy", "grad_logits", *KLS]
    if checkpoints.last is not None:
        before, after = (table.frame(KLS, name) for name in checkpoints[1:3])
        # The divergence of the features keeps its own checkpoint; the KL is where the gain starts.
        frame = frame.with_columns(
            frame[divergence].alias("divergence"),
            *(before[kl] for kl in KLS),
            *((before[kl] - after[kl]).alias(f"{kl}_gain") for kl in KLS),
        )
        needed += [f"{kl}_gain" for kl in KLS]
    else:
        frame = frame.with_columns(frame[divergence].alias("divergence"))
    total = frame.height
    described = with_features(
        frame.with_row_index("row").lazy(),
        source.k_grid,
        scale=options.scale,
        k=options.k,
    ).drop("student_entropy", "teacher_mass")
    complete = described.filter(pl.all_horizontal(f"{name} known" for name in _SUPPORT))
    tokens = complete.drop(f"{name} known" for name in _SUPPORT).drop_nulls(needed).collect()
    if tokens.is_empty():
        raise TableError("tokens: none in the loss has every score; expected some")
    rows, kept, prompt = _by_prompt(tokens["rollout"].to_numpy(), rollouts)
    if rows is not None:
        tokens = tokens[rows]
    lengths = kept["n"].to_numpy()
    return Contexts(
        checkpoints,
        _leading_first(tokens, options.kl),
        tokens.drop("row"),
        table,
        tokens["row"].to_numpy(),
        kept.drop("n"),
        np.repeat(np.arange(kept.height), lengths),
        Prompts(np.repeat(prompt, lengths), seed=options.seed),
        starts_of(lengths)[run_starts(prompt)],
        seeded_hash(tokens["rollout"].to_numpy(), tokens["position"].to_numpy(), seed=options.seed),
        total - tokens.height,
        {kl: _noise_floor(source, checkpoints.all, kl, options.noise_floor) for kl in KLS},
        source.k_grid,
        options.seed,
    )


def _leading_first(tokens: pl.DataFrame, kl: str) -> tuple[str, ...]:
    """Put the direction asked for first, or else the one that fell by the larger share."""
    if kl == "auto":
        if f"{KLS[0]}_gain" not in tokens:
            return KLS
        sums = tokens.select(pl.col(*KLS, *(f"{name}_gain" for name in KLS)).cast(pl.Float64).sum())
        total = sums.row(0, named=True)
        kl = max(KLS, key=lambda name: total[f"{name}_gain"] / (total[name] or 1.0))
    return (kl, *(name for name in KLS if name != kl))


def _by_prompt(
    numbers: npt.NDArray[Any], rollouts: pl.DataFrame
) -> tuple[Integers | None, pl.DataFrame, Integers]:
    """Put whole prompts one after the other, in the order in which they first occur.

    Args:
        numbers: Rollout of each token, rising. Shape (n,).
        rollouts: The rollouts.

    Returns:
        Token at each place, None where they stand so already; the rollouts in that order, with the
        number of their tokens as `n`; and the prompt of each of these.
    """
    begins = run_starts(numbers)
    lengths = run_lengths(begins, len(numbers))
    present = pl.DataFrame({"rollout": numbers[begins], "n": lengths})
    kept = present.join(rollouts, on="rollout", how="left", maintain_order="left")
    names = kept.select(pl.col("prompt_id").unique(maintain_order=True)).with_row_index("prompt")
    coded = kept.join(names, on="prompt_id", how="left", maintain_order="left")
    prompt = coded["prompt"].to_numpy().astype(np.int64)
    order = np.argsort(prompt, kind="stable")
    if (order[1:] > order[:-1]).all():
        return None, kept, prompt
    return ranges(begins[order], lengths[order]), kept[order], prompt[order]


def _noise_floor(source: Source, checkpoints: Sequence[str], kl: str, floor: float | None) -> float:
    if floor is not None:
        return floor
    if not isinstance(source, Run):
        return 0.0
    floors = [source.noise_floor(name).get(kl) for name in checkpoints]
    return max((value for value in floors if value is not None), default=0.0)


class Units(NamedTuple):
    """Rollouts of one prompt that belong to the same groups.

    Attributes:
        unit: Unit of each token. Shape (n,).
        prompt: Prompt of each unit. Shape (units,).
        groups: Which units each group holds; `all` holds every one.
    """

    unit: Integers
    prompt: Integers
    groups: dict[str, npt.NDArray[np.bool_]]


def units_of(contexts: Contexts, trained_steps: Sequence[int] | None) -> Units:
    """Split rollouts by outcome, and by whether their contexts were trained on.

    Args:
        contexts: The tokens.
        trained_steps: Training steps of the checkpoints before and after training; None: taken
            from rollouts whose policy bears a checkpoint's name.
    """
    labels = contexts.rollouts.select(
        pl.Series("prompt", contexts.prompts.code[run_starts(contexts.rollout)]),
        pl.col("correct").replace_strict({True: "correct", False: "wrong"}, default=None),
        context=_context(contexts, trained_steps),
    )
    keys = ["prompt", "correct", "context"]
    kinds = labels.unique(keys).sort(keys).with_row_index("unit")
    unit = labels.join(kinds, on=keys, how="left", nulls_equal=True, maintain_order="left")[
        "unit"
    ].to_numpy()
    groups = {"all": np.ones(kinds.height, np.bool_)}
    for column, names in (
        ("correct", ("correct", "wrong")),
        ("context", (TRAINED, SAME_PROMPT, HELD_OUT)),
    ):
        for name in names:
            members = (kinds[column] == name).fill_null(False).to_numpy()
            if members.any():
                groups[name] = members
    return Units(unit.astype(np.int64)[contexts.rollout], kinds["prompt"].to_numpy(), groups)


def _context(contexts: Contexts, trained_steps: Sequence[int] | None) -> pl.Expr:
    """Label rollouts by their step; null where the steps of the checkpoints are not known.

    A rollout dumped while training went from one checkpoint to the other was trained on. Another
    rollout of such a prompt is a new context of a known prompt. What remains was held out, as far
    as the rollouts at hand can tell.
    """
    names = contexts.checkpoints[1:3]
    known: Sequence[int | None] = [_step_of(contexts.rollouts, name) for name in names]
    begin, end = trained_steps or known
    if begin is None or end is None or begin >= end:
        return pl.lit(None, pl.String)
    trained = pl.col("step").is_between(begin, end, closed="left")
    return (
        pl.when(pl.col("step").is_null())
        .then(None)
        .when(trained)
        .then(pl.lit(TRAINED))
        .when(trained.any().over("prompt_id"))
        .then(pl.lit(SAME_PROMPT))
        .otherwise(pl.lit(HELD_OUT))
    )


def _step_of(rollouts: pl.DataFrame, checkpoint: str | None) -> int | None:
    steps = rollouts.filter(pl.col("policy").eq(checkpoint or ""))["step"].drop_nulls().unique()
    return int(steps[0]) if len(steps) == 1 else None
