"""The table `release_curves`: quantities over relative and absolute position."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.release_points.groups import SmallGroups, no_interval
from opd_diag.analyses.release_points.positions import (
    EARLY,
    RELATIVE_BINS,
    Bins,
    Floats,
    Positions,
)
from opd_diag.analyses.tables import interval_columns, ratio, result_table
from opd_diag.stats.bootstrap import Interval, effective_clusters, percentile
from opd_diag.stats.intervals import FEWEST_CLUSTERS

SPREAD = ("advantage_std", "nat")
SPREAD_RATIO = ("advantage_std_over_early", "ratio")


def curves_table(checkpoint: str, positions: Positions) -> pl.DataFrame:
    """Make the curves of all rollouts, and the headline ones of every group.

    Args:
        checkpoint: Name of the checkpoint.
        positions: Sums over bins of position.
    """
    prompts, width = positions.prompts, float(positions.width)
    parts: list[dict[str, Any]] = []
    for group, bins, of_group in positions.groups():
        named = (group.split, group.name, "relative")
        parts += _curves(bins, of_group, named, 1 / RELATIVE_BINS)
        if group.split == "all":
            parts += _curves(positions.absolute, prompts, ("all", "all", "absolute"), width)
    for small, bins in positions.small_groups():
        parts += _small_curves(small, bins, positions.by_cell)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    k = pl.Series(columns.pop("k"), dtype=pl.UInt32).replace(0, None)
    table = pl.DataFrame(columns).with_columns(k=k).filter(pl.col("n") > 0)
    return result_table("release_curves", table, checkpoint=checkpoint)


def _small_curves(small: SmallGroups, bins: Bins, cells: Bins) -> Iterator[dict[str, Any]]:
    """Make the curves of groups without intervals, all groups at once."""
    prompts = small.prompts(cells.m)
    spread = bins.row_deviations()
    values = np.concatenate(
        [
            ratio(bins.x, bins.m),
            spread[..., None],
            ratio(spread, bins.part(EARLY).row_deviations())[..., None],
        ],
        axis=-1,
    )
    width = values.shape[-1]
    own = [*range(width - 2), bins.advantage, bins.advantage]
    texts = [(q.name, q.unit, q.k or 0) for q in bins.listed]
    texts += [(*SPREAD, 0), (*SPREAD_RATIO, 0)]
    for place, name in enumerate(small.names):
        interval = no_interval(values[place].T, prompts[place][:, own].T)
        n = bins.m[place][:, own].T.ravel()
        yield _rows(interval, n, texts, (small.split, name, "relative"), 1 / RELATIVE_BINS)


def _curves(
    bins: Bins, prompts: Prompts, named: tuple[str, str, str], size: float
) -> Iterator[dict[str, Any]]:
    count, width = bins.x.shape[1:]
    flat = (prompts.count, count * width)

    def by_quantity(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values.reshape(count, width).T.ravel()

    means = prompts.ratio(bins.x.reshape(flat), bins.m.reshape(flat))
    means = means._replace(**{name: by_quantity(field) for name, field in means._asdict().items()})
    n = bins.m.sum(axis=0)
    texts = [(q.name, q.unit, q.k or 0) for q in bins.listed]
    yield _rows(means, by_quantity(n), texts, named, size)
    spreads = _spreads(bins, prompts, relative=named[2] == "relative")
    for text, interval in spreads:
        yield _rows(interval, n[:, bins.advantage], [(*text, 0)], named, size)


def _spreads(
    bins: Bins, prompts: Prompts, *, relative: bool
) -> Iterator[tuple[tuple[str, str], Interval]]:
    m = bins.m[..., bins.advantage]
    clusters, effective = (m > 0).sum(axis=0), effective_clusters(m)
    draws = bool((effective + 1e-9 >= FEWEST_CLUSTERS).any())
    value = bins.deviations(prompts, draws=draws)
    yield SPREAD, percentile(value[1:], value[0], clusters, effective=effective)
    if relative:
        with np.errstate(divide="ignore", invalid="ignore"):
            share = value / bins.part(EARLY).deviations(prompts, draws=draws)
        yield SPREAD_RATIO, percentile(share[1:], share[0], clusters, effective=effective)


def _rows(
    interval: Interval,
    n: Floats,
    texts: list[tuple[str, str, int]],
    named: tuple[str, str, str],
    size: float,
) -> dict[str, Any]:
    """Make columns of rows: bins by quantity; K 0 for none."""
    bins = np.tile(np.arange(len(n) // len(texts)), len(texts))
    split, group, axis = (np.full(len(n), name) for name in named)
    quantity, unit, k = (
        np.repeat(np.array(part), len(n) // len(texts)) for part in zip(*texts, strict=True)
    )
    return {
        "split": split,
        "group": group,
        "axis": axis,
        "bin": bins,
        "start": bins * size,
        "end": (bins + 1) * size,
        "quantity": quantity,
        "k": k,
        "unit": unit,
        "n": n,
        "n_prompts": interval.clusters,
        **interval_columns("value", interval),
        "reason": interval.reason,
    }
