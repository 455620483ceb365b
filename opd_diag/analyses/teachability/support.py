"""Compare definitions of compatibility: teacher mass, overlap and the teacher's best token."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.teachability.contexts import KLS, ONE_CHECKPOINT, Contexts
from opd_diag.analyses.teachability.gains import CONSTANT
from opd_diag.analyses.teachability.models import (
    BASE,
    LOCAL,
    base_remainder,
    fit_columns,
    sampled_columns,
)
from opd_diag.analyses.teachability.sample import Sample
from opd_diag.analyses.teachability.table import as_table, interval_columns
from opd_diag.stats import bootstrap
from opd_diag.stats.added import added_r2, permuted_r2
from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.regression import least_squares, moments
from opd_diag.tables.columns.teachability import TEACHABILITY_SUPPORT

SATURATED = 0.999
CORRELATION_DRAWS = 200


def support_table(contexts: Contexts, sample: Sample | str, *, seed: int) -> pl.DataFrame:
    """Describe every definition at every K, and ask each what it tells beyond the base model."""
    n = contexts.prompt_sums(np.ones(len(contexts.prompt)))
    coordinates = [contexts.column(name) for name in ("entropy", "divergence")]
    kinds, sums, correlations = [], [], []
    for definition, k, values in definitions(contexts):
        kinds.append((definition, k))
        sums.append([contexts.prompt_sums(v) for v in (values, values > SATURATED)])
        correlations.append(_correlations(contexts, [*coordinates, values], seed))
    mean, full = (
        bootstrap.ratio(np.column_stack([pair[i] for pair in sums]), n[:, None], seed=seed)
        for i in (0, 1)
    )
    columns: dict[str, Any] = contexts.head | {
        "definition": [definition for definition, _ in kinds],
        "k": [k for _, k in kinds],
        "n": len(contexts.prompt),
        "n_prompts": len(contexts.starts),
        **interval_columns("mean", mean, share=True),
        **interval_columns("saturated", full, share=True),
        **{name: [found[name] for found in correlations] for name in correlations[0]},
        "reason": mean.reason,
    }
    tested = _tested(contexts, sample)
    frames = [
        as_table(columns | {"kl": kl} | test, TEACHABILITY_SUPPORT) for kl, test in tested.items()
    ]
    return pl.concat(frames)


def definitions(
    contexts: Contexts,
) -> Iterator[tuple[str, int, npt.NDArray[np.floating]]]:
    """Give every definition of compatibility at every K, one value per token."""
    for name in ("teacher_mass", "overlap"):
        per_k = contexts.column(name)
        for j, k in enumerate(contexts.k_grid):
            yield name, k, np.ascontiguousarray(per_k[:, j])
    rank = contexts.column("teacher_top_rank")
    for k in contexts.k_grid:
        yield "teacher_top", k, (rank <= k).astype(np.float32)


def _correlations(
    contexts: Contexts, columns: list[npt.NDArray[np.floating]], seed: int
) -> dict[str, Any]:
    """Correlate compatibility, the last column, with entropy and divergence."""
    products = moments(columns, contexts.starts).products
    counts = bootstrap.cluster_counts(len(products), draws=CORRELATION_DRAWS, seed=seed)
    weights = np.concatenate([np.ones((1, len(products))), counts])
    sums = (weights @ products.reshape(len(products), -1)).reshape(-1, 4, 4)
    mean = sums[:, 0] / sums[:, :1, 0]
    covariance = sums / sums[:, :1, :1] - mean[:, :, None] * mean[:, None, :]
    spread = np.sqrt(np.maximum(np.einsum("bii->bi", covariance), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = covariance[:, 3, 1:3] / (spread[:, 3:] * spread[:, 1:3])
    interval = bootstrap.percentile(found[1:], found[0], len(products))
    named: dict[str, Any] = {}
    for j, name in enumerate(("entropy", "divergence")):
        of = Interval(*(field[j] for field in interval))
        named |= interval_columns(f"correlation_{name}", of)
    return named


def _tested(contexts: Contexts, sample: Sample | str) -> dict[str, dict[str, Any]]:
    """Fit the model `local` with each definition in turn, beside its permutation null."""
    if contexts.last is None or isinstance(sample, str):
        reason = ONE_CHECKPOINT if contexts.last is None else str(sample)
        return {kl: {"reason": reason} for kl in KLS}
    columns = sampled_columns(contexts, sample)
    left = base_remainder(columns)
    local = np.column_stack(
        [sample.local(values[sample.rows]) for _, _, values in definitions(contexts)]
    )
    added, null = added_r2(left, local), permuted_r2(left, local, sample.cell)
    names = [*BASE, *(f"{kl}_gain" for kl in KLS)]
    found: dict[str, dict[str, list[Any]]] = {kl: {} for kl in KLS}
    for j in range(local.shape[1]):
        parts = [columns[name] for name in names]
        sums = moments([*parts, local[:, j]], sample.starts)
        for i, kl in enumerate(KLS):
            terms = [*range(len(BASE)), len(names)]
            fit = least_squares(sums, terms, names.index(f"{kl}_gain"))
            row = fit_columns(fit, None, "local", LOCAL, sums)
            test: dict[str, Any] = {"n_local": len(local), "reason": row["reason"]}
            if fit is None:
                test["reason"] = CONSTANT
            for name in ("coefficient", "standard"):
                for end in ("", "_low", "_high"):
                    values = row.get(f"{name}{end}")
                    test[f"{name}{end}"] = np.nan if values is None else values[-1]
            test |= {"delta_r2": added[j, i], "null_delta_r2": null[j, i]}
            for name, value in test.items():
                found[kl].setdefault(name, []).append(value)
    return {kl: dict(columns) for kl, columns in found.items()}
