"""Build `rock_persistence`: do the same occurrences stay hard, checkpoint by checkpoint?

A type whose mean stays may do so by new hard occurrences each time. Here single occurrences are
followed: of those in the hardest fifth at first, how many still are, and how many always were.
"""

import re
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_array

from opd_diag.analyses import reasons
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.rock_tokens.changes import Groups
from opd_diag.analyses.rock_tokens.hardness import Hardness, find_hard, within_types
from opd_diag.analyses.rock_tokens.occurrences import (
    Cells,
    Mask,
    Occurrences,
    columns,
    per_prompt,
    trusted,
)
from opd_diag.analyses.rock_tokens.ranking import Ranking
from opd_diag.analyses.tables import interval_columns, ratio, result_table
from opd_diag.tables.columns.rock_tokens import GROUPS, TOKEN_CLASSES

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

UNPAIRED = "unpaired: other tokens than under the first checkpoint, none is followed"
STEP = re.compile(r"(?:step|iter|iteration|checkpoint|ckpt)[-_]?(\d+)$", re.IGNORECASE)


class _Rows(NamedTuple):
    """What the rows of a checkpoint are of.

    Attributes:
        kind: `group`, `class` or `type`, of each row.
        name: Name of the group or class; None for a type.
        item: Type, -1 for a group or class.
        groups: Membership by the half that did not choose, shape (2, groups, types).
        classes: Membership, shape (classes, types).
        types: Types with a row of their own.
    """

    kind: list[str]
    name: list[str | None]
    item: list[int]
    groups: Mask
    classes: Mask
    types: Integers

    def sums(self, matrix: Any, half: npt.NDArray[np.uint8]) -> Floats:
        """Add up the types of each row. Shape (prompts, rows)."""
        first, second = (
            np.asarray(matrix @ members.T.astype(np.float64)) for members in self.groups
        )
        groups = np.where(half[:, None] == 1, second, first)
        classes = np.asarray(matrix @ self.classes.T.astype(np.float64))
        single = columns(matrix, self.types)
        dense = single if isinstance(single, np.ndarray) else single.toarray()
        return np.column_stack([groups, classes, dense])


def persistence_table(
    ranking: Ranking,
    *,
    cells: Cells,
    hardness: Hardness,
    groups: Groups,
    classes: pl.Series | None,
    types: pl.DataFrame,
    second: tuple[Occurrences, Cells] | None = None,
) -> pl.DataFrame:
    """Build one row per checkpoint and group or class, and per listed type at the last one.

    Args:
        ranking: The ranked types.
        cells: Cells of prompt and type.
        hardness: Which occurrences are hard.
        groups: Members by the half that chose; measured on the other one.
        classes: Class of each type, or None without a vocabulary.
        types: The table of types, which holds their texts and lift.
        second: Tokens of a second run, in which listed types are looked at without pairing.
    """
    names = ranking.sums.names
    frames = []
    always = hardness.hard[0]
    for place, name in enumerate(names):
        always = always & hardness.hard[place]
        rows = _rows(ranking, groups, classes, single=place == len(names) - 1 > 0)
        values = _values(ranking, cells, hardness, rows, place, always)
        frames.append(_table(ranking, rows, values, name))
    if second is not None:
        frames.append(_second_run(ranking, *second))
    table = pl.concat(frames)
    known = types.select("token_id", "text", "lift")
    joined = table.drop("text", "lift").join(
        known, on="token_id", how="left", maintain_order="left"
    )
    return joined.select(table.columns)


def _rows(ranking: Ranking, groups: Groups, classes: pl.Series | None, *, single: bool) -> _Rows:
    types = ranking.sums.token_id.size
    # The panel of a second run has types that the first one lacks.
    at = np.searchsorted(ranking.panel.token_id, ranking.sums.token_id)
    members = groups.members[::-1][:, :, at]
    members = np.concatenate([np.ones((2, 1, types), np.bool_), members], axis=1)
    present: list[str] = []
    of_class = np.zeros((0, types), np.bool_)
    if classes is not None:
        code = classes.to_physical().to_numpy()
        places = np.unique(code)
        present = [TOKEN_CLASSES[place] for place in places]
        of_class = code == places[:, None]
    listed = np.flatnonzero(ranking.is_rock) if single else np.empty(0, np.int64)
    listed = listed[np.argsort(ranking.ranks[listed])]
    wide = 1 + len(GROUPS)
    return _Rows(
        kind=["group"] * wide + ["class"] * len(present) + ["type"] * listed.size,
        name=["all", *GROUPS, *present, *[None] * listed.size],
        item=[-1] * (wide + len(present)) + listed.tolist(),
        groups=members,
        classes=of_class,
        types=listed,
    )


def _values(
    ranking: Ranking, cells: Cells, hardness: Hardness, rows: _Rows, place: int, always: Mask
) -> dict[str, Any]:
    """Measure the rows of one checkpoint."""
    half = ranking.sums.half
    first, later = hardness.hard[0], hardness.hard[place]

    def sums(matrix: Any) -> Floats:
        return rows.sums(matrix, half)

    n, F, S = sums(ranking.sums.n[0]), sums(cells.sums(first)), sums(cells.sums(later))
    both, survived = sums(cells.sums(first & later)), sums(cells.sums(always))
    total = [a.sum(axis=0) for a in (n, F, S, both)]
    values: dict[str, Any] = {
        "n": total[0],
        "n_hard_first": total[1],
        "n_prompts": np.count_nonzero(F, axis=0),
        "hard": ratio(total[2], total[0]),
        "turns_hard": ratio(total[2] - total[3], total[0] - total[1]),
        "share_easy": ratio(total[0] - total[1] - total[2] + total[3], total[0]),
        "share_learned": ratio(total[1] - total[3], total[0]),
        "share_rock": ratio(total[3], total[0]),
        "share_regressed": ratio(total[2] - total[3], total[0]),
        "stays_hard": ratio(total[3], total[1]),
        "survival": ratio(survived.sum(axis=0), total[1]),
    }
    if not place:
        one = len(ranking.sums.names) == 1
        return values | {"reason": reasons.ONE_CHECKPOINT if one else None}
    prompts = ranking.sums.prompts(ranking.options.seed, by_half=True)
    within = within_types(cells, first, later)
    hard, observed, expected = (sums(a) for a in within)
    everything = [per_prompt(a)[:, None] for a in (cells.sums(later), ranking.sums.n[0])]
    stays = prompts.rate(both, F)
    intervals = {
        "stays_hard": stays,
        "survival": prompts.rate(survived, F),
        "type_adds": prompts.difference(expected, hard, *everything),
        "occurrence_adds": prompts.ratio(observed - expected, hard),
    }
    enough = trusted(csr_array(F))
    for name, interval in intervals.items():
        ends = interval_columns(name, interval)
        for key, value in ends.items():
            values[key] = value if key == name else np.where(enough, value, np.nan)
    return values | {
        "expected": ratio(expected.sum(axis=0), hard.sum(axis=0)),
        "reason": np.where(enough, reasons.first(stays), reasons.TOO_FEW),
    }


def _table(ranking: Ranking, rows: _Rows, values: dict[str, Any], name: str) -> pl.DataFrame:
    match = STEP.search(name)
    token_id = [None if i < 0 else int(ranking.sums.token_id[i]) for i in rows.item]
    frame = pl.DataFrame(
        {"kind": rows.kind, "name": rows.name, "token_id": token_id} | values, strict=False
    ).with_columns(step=pl.lit(int(match[1]) if match else None, pl.Int64))
    constants = ranking.constants | {"checkpoint": name}
    return result_table("rock_persistence", frame, **constants)


def _second_run(ranking: Ranking, occurrences: Occurrences, cells: Cells) -> pl.DataFrame:
    """Tell how many occurrences of the listed types are hard in a run of other rollouts."""
    listed = np.argsort(ranking.ranks)[: int(ranking.is_rock.sum())]
    ids = ranking.sums.token_id[listed]
    ids = ids[np.isin(ids, occurrences.token_id)]
    items = np.searchsorted(occurrences.token_id, ids)
    n, S = cells.sums(), cells.sums(find_hard(occurrences).hard[-1])
    everything = [per_prompt(a)[:, None] for a in (S, n)]
    own = [
        np.hstack([whole, a[:, items].toarray()])
        for a, whole in zip((S, n), everything, strict=True)
    ]
    prompts = Prompts(
        np.arange(len(occurrences.prompt_id)), seed=ranking.options.seed, strata=occurrences.half
    )
    adds = prompts.difference(*own, *everything)
    enough = trusted(csr_array(own[1])) & (np.arange(ids.size + 1) > 0)
    columns = interval_columns("type_adds", adds)
    frame = pl.DataFrame(
        {
            "kind": ["group"] + ["type"] * ids.size,
            "name": ["all"] + [None] * ids.size,
            "token_id": [None, *ids.tolist()],
            "n": own[1].sum(axis=0),
            "n_prompts": np.count_nonzero(own[1], axis=0),
            "hard": ratio(own[0].sum(axis=0), own[1].sum(axis=0)),
            **{name: np.where(enough, value, np.nan) for name, value in columns.items()},
            "reason": [UNPAIRED] * (ids.size + 1),
        }
    )
    constants = ranking.constants | {"checkpoint": ranking.panel.names[-1]}
    return result_table("rock_persistence", frame, **constants)
