"""Build `rock_groups`: level and change of rocks, controls and others at every checkpoint."""

from typing import Any

import polars as pl

from opd_diag.analyses import reasons
from opd_diag.analyses.rock_tokens.changes import Groups, group_changes
from opd_diag.analyses.rock_tokens.ranking import Ranking
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.tables.columns.rock_tokens import GROUPS, LABELS

TWO_CHECKPOINTS = "two checkpoints: both choose, alike; a third would choose apart from the change"


def group_table(ranking: Ranking, groups: Groups, types: pl.DataFrame) -> pl.DataFrame:
    """Build one row per checkpoint, group, and side of the prompts that measures it.

    Args:
        ranking: The ranked types.
        groups: Members by the half that chose.
        types: The table of types, whose labels are counted.
    """
    count = len(GROUPS)
    changes = group_changes(ranking, groups.members)
    frames = []
    for place, (name, change) in enumerate(zip(ranking.panel.names, changes, strict=True)):
        values: dict[str, Any] = {
            "group": [*GROUPS, *GROUPS],
            "measured_on": ["other half"] * count + ["same half"] * count,
            "chosen_under": " and ".join(groups.chosen_under),
            "n": change.n,
            **interval_columns("level", change.level),
            "reason": reasons.first(change.level),
        }
        if place:
            values |= interval_columns("change", change.change)
            values |= interval_columns("relative_change", change.relative)
        if place == len(changes) - 1 > 0:
            values |= _label_counts(types, 2 * count)
        constants = ranking.constants | {"checkpoint": name}
        table = result_table("rock_groups", values, **constants)
        if len(groups.chosen_under) > 1 and place:
            note = reasons.note(TWO_CHECKPOINTS, pl.lit(True))
            table = table.with_columns(reasons.notes(pl.col("reason"), note))
        frames.append(table)
    return pl.concat(frames)


def _label_counts(types: pl.DataFrame, size: int) -> dict[str, Any]:
    """Count the labels of single rocks, for the row of rocks on the other half."""
    labels = types.filter(pl.col("label").is_not_null() & pl.col("is_rock"))["label"]
    counts = {"labelled": labels.len()} | {kind: (labels == kind).sum() for kind in LABELS}
    return {f"n_{kind}": [n] + [None] * (size - 1) for kind, n in counts.items()}
