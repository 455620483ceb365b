"""Build `rock_composition`: what kinds of tokens rocks are, and where they stand."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from opd_diag.analyses import reasons
from opd_diag.analyses.rock_tokens.changes import on_other_half, rocks_by_half
from opd_diag.analyses.rock_tokens.occurrences import Floats, Integers, Occurrences
from opd_diag.analyses.rock_tokens.ranking import Ranking
from opd_diag.analyses.tables import interval_columns, ratio, result_table
from opd_diag.tables.columns.rock_tokens import PHASES, TOKEN_CLASSES

Sums: TypeAlias = dict[str, Floats]

NO_VOCABULARY = "no vocabulary: what a type spells is not known"
GROUPS: Mapping[str, slice] = {"all": slice(0, 2), "rock": slice(1, 2), "rest": slice(0, 1)}
# Places of the two axes that follow the group: none, before or after the release token; and none,
# before, in or after the stretch.
RELEASE, STRETCH = 3, 4


def composition_table(
    ranking: Ranking,
    classes: pl.Series | None,
    released: pl.DataFrame | None,
    trapped: pl.DataFrame | None,
) -> pl.DataFrame:
    """Build one row per group, phase and class that occurs.

    Args:
        ranking: The ranked types.
        classes: Class of each type of `ranking.sums`, or None without a vocabulary.
        released: `release_points` of the same run and checkpoint, or None.
        trapped: `agreement_traps` of the same run and checkpoint, or None.
    """
    if classes is None:
        row = {"group": "all", "phase": "all", "n": [ranking.occurrences.at.size]}
        return result_table(
            "rock_composition", row | {"reason": NO_VOCABULARY}, **ranking.constants
        )
    sums = _sums(ranking, classes, released, trapped)
    keys, own, whole = _columns(sums)
    prompts = ranking.sums.prompts(ranking.options.seed, by_half=True)
    n, N = own["n"], whole["n"]
    share = prompts.ratio(n, N)
    values: dict[str, Any] = {
        **keys,
        "n": n.sum(axis=0),
        **interval_columns("position_share", share, share=True),
        **interval_columns("grad_lift", prompts.quotient(own["gradient"], n, whole["gradient"], N)),
    }
    shown = [share]
    if not ranking.options.signed:
        loss = prompts.ratio(own["loss"], whole["loss"])
        lift = prompts.ratio(own["loss"], own["expected"], log=True)
        values |= interval_columns("loss_share", loss, share=True) | interval_columns("lift", lift)
        shown += [loss, lift]
    if ranking.pairing == "paired" and not ranking.options.signed:
        change = prompts.ratio(own["last"], own["first"], log=True)
        ends = {
            key: value - 1 for key, value in interval_columns("relative_change", change).items()
        }
        values |= ends
        shown.append(change)
    return result_table(
        "rock_composition", values | {"reason": reasons.first(*shown)}, **ranking.constants
    )


def _sums(
    ranking: Ranking,
    classes: pl.Series,
    released: pl.DataFrame | None,
    trapped: pl.DataFrame | None,
) -> Sums:
    """Sum over the tokens of each prompt, group, place and class.

    Returns:
        Arrays of shape (prompts, 2, RELEASE, STRETCH, classes).
    """
    occurrences = ranking.occurrences
    rock = on_other_half(ranking, rocks_by_half(ranking._replace(panel=ranking.sums)))
    code = classes.to_physical().to_numpy().astype(np.int64)
    places = (
        occurrences.prompt,
        rock,
        _release(occurrences, released),
        _stretch(occurrences, trapped),
        code[occurrences.kind[occurrences.at]],
    )
    shape = len(occurrences.prompt_id), 2, RELEASE, STRETCH, len(TOKEN_CLASSES)
    cell = np.ravel_multi_index([place.astype(np.int64) for place in places], shape)
    loss = occurrences.loss[occurrences.ranked]
    tenth = occurrences.tenth
    of_tenth = ratio(np.bincount(tenth, loss, 10), np.bincount(tenth, minlength=10))
    values = {
        "n": None,
        "loss": loss,
        "expected": of_tenth[tenth],
        "gradient": occurrences.gradient,
        "first": occurrences.loss[0],
        "last": occurrences.loss[-1],
    }
    return {
        name: np.bincount(cell, one, int(np.prod(shape))).reshape(shape).astype(np.float64)
        for name, one in values.items()
    }


def _release(occurrences: Occurrences, released: pl.DataFrame | None) -> Integers:
    """Place tokens before (1) or after (2) the release token; 0 where there is none."""
    token = _of_rollouts(occurrences, released, "release_token")
    position = occurrences.position[occurrences.at]
    return np.select([np.isnan(token), position < token], [0, 1], 2)


def _stretch(occurrences: Occurrences, trapped: pl.DataFrame | None) -> Integers:
    """Place tokens before (1), in (2) or after (3) the low-KL stretch; 0 where there is none."""
    cut, end = (
        _of_rollouts(occurrences, trapped, name) for name in ("cut_token", "stretch_end_token")
    )
    position = occurrences.position[occurrences.at]
    return np.select([np.isnan(cut), position < cut, position <= end], [0, 1, 2], 3)


def _of_rollouts(occurrences: Occurrences, table: pl.DataFrame | None, column: str) -> Floats:
    """Give each occurrence a number of its rollout, NaN where there is none. Shape (n,)."""
    numbers = np.full(occurrences.rollout_id.size, np.nan)
    if table is not None:
        known = table.filter(pl.col("rollout").is_in(occurrences.rollout_id)).drop_nulls(column)
        place = np.searchsorted(occurrences.rollout_id, known["rollout"].to_numpy())
        numbers[place] = known[column].to_numpy()
    return numbers[occurrences.rollout[occurrences.at]]


def _columns(sums: Sums) -> tuple[dict[str, list[str]], Sums, Sums]:
    """Choose the rows that have tokens.

    Returns:
        Group, phase and class of each row; its sums and those of its group in its phase, by
        prompt. Shape (prompts, rows).
    """
    phases = {
        "all": (slice(None), slice(None)),
        "before release": (slice(1, 2), slice(None)),
        "after release": (slice(2, 3), slice(None)),
        "before stretch": (slice(None), slice(1, 2)),
        "in stretch": (slice(None), slice(2, 3)),
        "after stretch": (slice(None), slice(3, 4)),
    }
    keys: dict[str, list[str]] = {"group": [], "phase": [], "token_class": []}
    own: dict[str, list[Floats]] = {name: [] for name in sums}
    whole: dict[str, list[Floats]] = {name: [] for name in sums}
    for group, members in GROUPS.items():
        for phase in PHASES:
            release, stretch = phases[phase]
            parts = {
                name: values[:, members, release, stretch].sum(axis=(1, 2, 3))
                for name, values in sums.items()
            }
            for place in np.flatnonzero(parts["n"].sum(axis=0)):
                keys["group"].append(group)
                keys["phase"].append(phase)
                keys["token_class"].append(TOKEN_CLASSES[place])
                for name, values in parts.items():
                    own[name].append(values[:, place])
                    whole[name].append(values.sum(axis=1))
    columns = [{name: np.column_stack(a) for name, a in one.items()} for one in (own, whole)]
    return keys, columns[0], columns[1]
