"""Split rollouts by outcome, and by whether their contexts were trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.teachability.contexts import Contexts, Integers

TRAINED, SAME_PROMPT, HELD_OUT = "trained-on", "trained prompt", "held-out"


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
    """Find the groups of rollouts that a run can tell apart.

    Args:
        contexts: The tokens.
        trained_steps: Training steps of the checkpoints before and after training; None: taken
            from rollouts whose policy bears a checkpoint's name.
    """
    labels = contexts.rollouts.select(
        pl.Series("prompt", contexts.prompt[_first_tokens(contexts)]),
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


def _first_tokens(contexts: Contexts) -> Integers:
    rollout = contexts.rollout
    return np.flatnonzero(np.append(True, rollout[1:] != rollout[:-1]))


def _context(contexts: Contexts, trained_steps: Sequence[int] | None) -> pl.Expr:
    """Label rollouts by their step; null where the steps of the checkpoints are not known.

    A rollout dumped while training went from one checkpoint to the other was trained on. Another
    rollout of such a prompt is a new context of a known prompt. What remains was held out, as far
    as the rollouts at hand can tell.
    """
    names = contexts.first, contexts.last
    found: Sequence[int | None] = [_step_of(contexts.rollouts, name) for name in names]
    begin, end = trained_steps or found
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
