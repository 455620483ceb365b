"""Cut tokens into tenths of a feature, and sum over prompts in every group and bin."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from opd_diag.analyses.teachability.contexts import KLS, RELATIVE_FLOOR, Contexts, Floats, Integers
from opd_diag.analyses.teachability.features import FEATURES
from opd_diag.analyses.teachability.groups import Units

BINS = 10
Q3 = 3
PLANE = "entropy x divergence"


class Block(NamedTuple):
    """The bins of one feature in one group.

    Attributes:
        group: Name of the group.
        feature: Name of the feature, `all`, or the plane of entropy and divergence.
        labels: Columns that describe the bins, one value each; empty for the whole group.
        constant: Whether the feature is constant, so that there are no bins.
        sums: What the tokens of each prompt and bin add up to. Shape (prompts, bins) each.
    """

    group: str
    feature: str
    labels: dict[str, list[Any]]
    constant: bool
    sums: dict[str, Floats]


def tenths(values: npt.NDArray[Any]) -> tuple[Integers, Floats]:
    """Cut values at their tenths; equal values stay together, so tenths may be unequal or empty.

    Returns:
        Bin of each value, shape (n,), and the borders, shape (11,).
    """
    n = len(values)
    places = np.clip(np.ceil(np.arange(1, BINS) * n / BINS).astype(np.int64) - 1, 0, n - 1)
    inner = np.partition(values, places)[places]
    edges = np.concatenate([[values.min()], inner, [values.max()]]).astype(np.float64)
    return np.searchsorted(inner, values).astype(np.int64), edges


def blocks(contexts: Contexts, units: Units) -> Iterator[Block]:
    """Give the whole of every group, its tenths by every feature, and the plane of all tokens."""
    weights = _weights(contexts)
    in_q3 = contexts.column("quadrant") == Q3
    one_bin = np.zeros(len(in_q3), np.int64)
    cut: dict[str, tuple[Integers, Floats]] = {}
    for feature in ("all", *FEATURES, PLANE):
        bins, labels, width, constant = one_bin, {}, 1, False
        if feature == PLANE:
            constant = "entropy" not in cut or "divergence" not in cut
        elif feature != "all":
            constant = contexts.constant(feature)
        if feature == PLANE and not constant:
            (h, h_edges), (d, d_edges) = cut["entropy"], cut["divergence"]
            bins, width = h * BINS + d, BINS**2
            labels = _labels("bin", "bin", h_edges, repeat=BINS)
            labels |= _labels("other_bin", "other", d_edges, tile=BINS)
        elif feature != "all" and not constant:
            bins, edges = tenths(contexts.column(feature))
            width, labels = BINS, _labels("bin", "bin", edges)
            cut[feature] = bins, edges
        cells = _cells(units, bins, in_q3, width, weights)
        for group, members in _groups(units, feature):
            sums = {
                name: _over_prompts(cell, units, group, members) for name, cell in cells.items()
            }
            yield Block(group, feature, labels, constant, sums)


def _labels(
    number: str, border: str, edges: Floats, *, repeat: int = 1, tile: int = 1
) -> dict[str, list[Any]]:
    columns = {number: np.arange(BINS), f"{border}_low": edges[:-1], f"{border}_high": edges[1:]}
    return {
        name: np.tile(np.repeat(values, repeat), tile).tolist() for name, values in columns.items()
    }


def _cells(
    units: Units,
    bins: Integers,
    in_q3: npt.NDArray[np.bool_],
    width: int,
    weights: dict[str, npt.NDArray[Any] | None],
) -> dict[str, Floats]:
    """Sum over unit, bin, and inside Q3 or not; shape (units, bins, 2) each."""
    key = (units.unit * width + bins) * 2 + in_q3
    shape = (len(units.prompt), width, 2)
    return {
        name: np.bincount(key, value, int(np.prod(shape))).reshape(shape).astype(np.float64)
        for name, value in weights.items()
    }


def _groups(units: Units, feature: str) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    everyone, *others = units.groups.items()
    return [everyone] if feature == PLANE else [everyone, ("Q3", everyone[1]), *others]


def _over_prompts(cell: Floats, units: Units, group: str, members: npt.NDArray[np.bool_]) -> Floats:
    chosen = cell[members, :, 1] if group == "Q3" else cell[members].sum(axis=2)
    found = np.zeros((int(units.prompt[-1]) + 1, cell.shape[1]))
    np.add.at(found, units.prompt[members], chosen)
    return found


def _weights(contexts: Contexts) -> dict[str, npt.NDArray[Any] | None]:
    """Give what is summed: tokens, compatibility, and KL and gain of both directions."""
    weights: dict[str, npt.NDArray[Any] | None] = {"n": None}
    weights["compatibility"] = contexts.column("compatibility").astype(np.float64)
    for kl in KLS:
        base = contexts.column(kl).astype(np.float64)
        gain = np.zeros_like(base) if contexts.last is None else contexts.gain(kl)
        large = base > max(contexts.noise_floor[kl], RELATIVE_FLOOR)
        weights[kl] = base
        weights[f"{kl} gain"] = gain.astype(np.float64)
        weights[f"{kl} relative n"] = large.astype(np.float64)
        weights[f"{kl} relative"] = np.divide(gain, base, out=np.zeros_like(base), where=large)
    return weights
