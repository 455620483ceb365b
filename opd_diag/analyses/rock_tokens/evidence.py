"""Build `rock_evidence`: the test behind each question that rock tokens answer.

Rocks are chosen on one half of the prompts and measured on the other, both ways. Each way is
tested by flipping the sign of whole prompts, which holds whatever tokens of a prompt share. Both
halves stand behind both lists, so the two ways are not independent: the smaller p counts twice.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses import reasons
from opd_diag.analyses.rock_tokens.changes import (
    Groups,
    on_other_half,
    rocks_by_half,
    rocks_under,
)
from opd_diag.analyses.rock_tokens.hardness import Hardness
from opd_diag.analyses.rock_tokens.lift import Places
from opd_diag.analyses.rock_tokens.occurrences import Mask
from opd_diag.analyses.rock_tokens.ranking import Ranking
from opd_diag.analyses.tables import interval_columns, ratio, result_table
from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.p_values import sign_flip_p
from opd_diag.tables.columns.rock_tokens import GROUPS

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Row: TypeAlias = Mapping[str, Any]

DRAWS = 19_999
LOSS_BINS = 10  # of hard occurrences, within which they are as hard
FEWEST_HARD = 5  # hard occurrences of a type in the half that chooses it
SIGNED = "the loss can be negative: no lift, no share"
UNPAIRED = "a second run of other tokens: no change of the same ones"
NO_THIRD = "two checkpoints: a third would choose types apart from what is measured"
NO_FALL = "the KL of the rest did not fall"


def evidence_table(
    ranking: Ranking,
    *,
    places: Places,
    hardness: Hardness,
    groups: Groups,
    lists: pl.DataFrame,
) -> pl.DataFrame:
    """Build one row per question.

    Args:
        ranking: The ranked types.
        places: Log losses, and where they are compared.
        hardness: Which occurrences are hard.
        groups: Members by the half that chose, for the question of change.
        lists: `list_rows`, which holds the lift of the list on the other half.
    """
    rows = [
        _carry_more(ranking, places, lists),
        _persist(ranking, hardness),
        _by_type(ranking, hardness),
        _stay(ranking, groups),
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row.get(name) for row in rows] for name in names}
    constants = {key: value for key, value in ranking.constants.items() if key != "checkpoint"}
    return result_table("rock_evidence", values, **constants)


def _carry_more(ranking: Ranking, places: Places, lists: pl.DataFrame) -> Row:
    """Compare the loss of listed types with that of other tokens at the same places."""
    name = ranking.constants["checkpoint"]
    row = {"question": "rocks-carry-more", "checkpoint": name, "unit": "ratio", "reason": SIGNED}
    if ranking.options.signed:
        return row
    rock = on_other_half(ranking, rocks_by_half(ranking._replace(panel=ranking.sums)))
    known = lists.filter(selector="R", K=ranking.options.top).row(0, named=True)
    lift = {f"estimate{end}": known[f"cross_lift{end}"] for end in ("", "_low", "_high")}
    return row | {
        "n": rock.sum(),
        "n_prompts": _prompts_of(ranking, rock),
        **lift,
        "control": 1.0,
        **{name.replace("estimate", "difference"): _log(value) for name, value in lift.items()},
        "p": _p_of_both_ways(ranking, _per_prompt(ranking, places.rest * rock)),
        "reason": reasons.TOO_FEW if np.isnan(lift["estimate_low"]) else "",
    }


def _stay(ranking: Ranking, groups: Groups) -> Row:
    """Compare the change of rocks with that of all other tokens."""
    row = _comparison(ranking, "rocks-stay")
    if row["reason"] or ranking.options.signed:
        return row | {"reason": row["reason"] or SIGNED}
    rock = on_other_half(ranking, groups.members[:, GROUPS.index("rock")])
    first, last = ranking.occurrences.loss[[0, -1]].astype(np.float64)
    m, x = (_per_prompt(ranking, loss * rock) for loss in (first, last))
    m0, x0 = (_per_prompt(ranking, loss * ~rock) for loss in (first, last))
    if not (m.sum() > 0 and m0.sum() > 0):
        return row | {"reason": reasons.UNDEFINED}
    rest = x0.sum() / m0.sum()
    # What each prompt adds to the difference of both changes, if there were one change.
    common = (x.sum() + x0.sum()) / (m.sum() + m0.sum())
    added = (x - common * m) / m.sum() - (x0 - common * m0) / m0.sum()
    fall = sign_flip_p(x0 - m0, draws=DRAWS, seed=ranking.options.seed)
    prompts = ranking.sums.prompts(ranking.options.seed, by_half=True)
    change = prompts.ratio(x, m, log=True)
    ends = {name: value - 1 for name, value in _numbers("estimate", change).items()}
    difference = prompts.difference(x, m, x0, m0)
    return row | {
        "chosen_under": " and ".join(groups.chosen_under),
        "n": rock.sum(),
        "n_prompts": _prompts_of(ranking, rock),
        **ends,
        "control": rest - 1,
        **_numbers("difference", difference),
        # Both must be shown: that the rest fell, and that rocks fell less.
        "p": max(_p_of_both_ways(ranking, added), float(fall) if rest < 1 else 1.0),
        "reason": "; ".join(filter(None, (str(difference.reason), NO_FALL if rest >= 1 else ""))),
    }


def _persist(ranking: Ranking, hardness: Hardness) -> Row:
    """Compare rocks and other tokens that were as hard at first: how many still are at last."""
    row = _comparison(ranking, "rocks-persist")
    if row["reason"]:
        return row
    names = ranking.sums.names
    # The loss at first is matched, and that at last is measured, so neither may choose.
    place = len(names) // 2 if len(names) > 2 else 0
    rock = on_other_half(ranking, rocks_under(ranking, place))
    return row | {"chosen_under": names[place]} | _stay_hard(ranking, hardness, 0, rock, ~rock)


def _by_type(ranking: Ranking, hardness: Hardness) -> Row:
    """Compare types of whose hard tokens many stayed hard, on other prompts, with other types.

    They are chosen from the first to the middle checkpoint and measured from there to the last:
    what a type's loss shares by chance under the middle one makes it look worse, not better.
    """
    row = _comparison(ranking, "type-tells")
    names, middle = ranking.sums.names, len(ranking.sums.names) // 2
    if row["reason"] or len(names) < 3:
        return row | {"reason": row["reason"] or NO_THIRD}
    occurrences = ranking.occurrences
    at = np.flatnonzero(hardness.hard[0])
    surprise = _surprise(ranking, hardness.hard[middle][at], occurrences.loss[0][at], at)
    half = occurrences.half[occurrences.prompt[at]].astype(np.int64)
    cell = occurrences.kind[occurrences.at][at] + occurrences.token_id.size * half
    size = 2 * occurrences.token_id.size
    n, above = (np.bincount(cell, a, size).reshape(2, -1) for a in (None, surprise))
    known = n >= FEWEST_HARD
    chosen, others = (on_other_half(ranking, known & a) for a in (above > 0, above <= 0))
    return (
        row
        | {"compared_with": names[middle], "chosen_under": f"{names[0]} to {names[middle]}"}
        | _stay_hard(ranking, hardness, middle, chosen, others)
    )


def _stay_hard(
    ranking: Ranking, hardness: Hardness, first: int, group: Mask, others: Mask
) -> dict[str, Any]:
    """Compare how many hard tokens of two groups are so at last, others weighted to be as hard.

    Args:
        ranking: The ranked types.
        hardness: Which occurrences are hard.
        first: Checkpoint under which they are hard, and as hard.
        group: Occurrences of one group. Shape (n,).
        others: Those of the other.
    """
    at = np.flatnonzero(hardness.hard[first] & (group | others))
    loss, inside = ranking.occurrences.loss[first][at], group[at]
    stays = hardness.hard[-1][at].astype(np.float64)
    strata = _loss_bins(loss)
    counts = [np.bincount(strata, who, LOSS_BINS) for who in (inside, ~inside)]
    weight = np.nan_to_num(np.where(inside, 0.0, ratio(*counts)[strata]))
    sums = [_per_prompt(ranking, a, at) for a in (inside * stays, inside, weight * stays, weight)]
    added = _per_prompt(ranking, inside * _surprise(ranking, stays, loss, at), at)
    prompts = ranking.sums.prompts(ranking.options.seed, by_half=True)
    difference = prompts.difference(*sums)
    return {
        "n": inside.sum(),
        "n_prompts": np.count_nonzero(sums[1]),
        **_numbers("estimate", prompts.rate(*sums[:2])),
        "control": float(ratio(sums[2].sum(), sums[3].sum())),
        **_numbers("difference", difference),
        "p": _p_of_both_ways(ranking, added),
        "reason": str(difference.reason),
    }


def _surprise(
    ranking: Ranking, stays: Floats | Mask, loss: npt.NDArray[np.float32], at: Integers
) -> Floats:
    """Give what staying hard differs by from that of tokens as hard, and from its prompt's mean."""
    strata = _loss_bins(loss)
    share = ratio(np.bincount(strata, stays, LOSS_BINS), np.bincount(strata, minlength=LOSS_BINS))
    rest = stays - share[strata]
    mean = ratio(_per_prompt(ranking, rest, at), _per_prompt(ranking, np.ones(at.size), at))
    return np.asarray(rest - mean[ranking.occurrences.prompt[at]])


def _loss_bins(loss: npt.NDArray[np.floating]) -> Integers:
    """Number ten bins of as many tokens by their loss."""
    edges = np.quantile(loss, np.arange(1, LOSS_BINS) / LOSS_BINS) if loss.size else np.empty(0)
    return np.searchsorted(edges, loss, side="right")


def _comparison(ranking: Ranking, question: str) -> dict[str, Any]:
    """Begin a row that compares the last checkpoint with the first."""
    missing = {"one checkpoint": reasons.ONE_CHECKPOINT, "unpaired": UNPAIRED}
    return {
        "question": question,
        "checkpoint": ranking.panel.names[-1],
        "compared_with": ranking.panel.names[0],
        "unit": "share",
        "reason": missing.get(ranking.pairing, ""),
    }


def _per_prompt(ranking: Ranking, values: Any, at: Any = slice(None)) -> Floats:
    """Sum values of all occurrences, or of some, in each prompt. Shape (prompts,)."""
    size = len(ranking.occurrences.prompt_id)
    return np.bincount(ranking.occurrences.prompt[at], values, size).astype(np.float64)


def _prompts_of(ranking: Ranking, wanted: Mask) -> int:
    return int(np.count_nonzero(_per_prompt(ranking, wanted)))


def _p_of_both_ways(ranking: Ranking, added: Floats) -> float:
    """Test that prompts add to something above 0, on each half, and take the smaller p twice."""
    inside = ranking.sums.half[:, None] == np.arange(2)
    p = sign_flip_p(added[:, None] * inside, draws=DRAWS, seed=ranking.options.seed)
    above = (added[:, None] * inside).sum(axis=0) > 0
    return min(1.0, 2 * float(np.where(above, p, 1.0).min()))


def _numbers(name: str, interval: Interval) -> dict[str, float]:
    """Name an estimate and its ends."""
    return {key: float(value) for key, value in interval_columns(name, interval).items()}


def _log(value: float) -> float:
    return float(np.log(value)) if value > 0 else np.nan
