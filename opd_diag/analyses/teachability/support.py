"""Compare definitions of compatibility: teacher mass, overlap and the teacher's best token."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.reasons import ONE_CHECKPOINT
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.teachability.contexts import Contexts, Floats
from opd_diag.analyses.teachability.gains import CONSTANT
from opd_diag.analyses.teachability.models import (
    LOCAL,
    LOCAL_BASE,
    base_remainder,
    fit_columns,
    local_columns,
)
from opd_diag.analyses.teachability.options import KLS
from opd_diag.analyses.teachability.sample import Sample
from opd_diag.stats import bootstrap
from opd_diag.stats.explained_variance import added_r2, permuted_r2
from opd_diag.stats.regression import least_squares, moments

SATURATED = 0.999
CORRELATION_DRAWS = 200
COORDINATES = ("entropy", "divergence")
NAMES = tuple(f"correlation_{name}{end}" for name in COORDINATES for end in ("", "_low", "_high"))


def support_table(contexts: Contexts, sample: Sample | str) -> pl.DataFrame:
    """Describe every definition at every K, and ask each what it tells beyond the base model."""
    n = contexts.prompt_sums(np.ones(contexts.n))
    coordinates = [_centred(contexts.column(name)) for name in COORDINATES]
    own = [contexts.prompt_sums(x) for h in coordinates for x in (h, h * h)]
    kinds, sums, correlations = [], [], []
    for definition, k, values in definitions(contexts):
        kinds.append((definition, k))
        sums.append([contexts.prompt_sums(v) for v in (values, values > SATURATED)])
        if values.min() == values.max():
            correlations.append(dict.fromkeys(NAMES, np.nan))
            continue
        c = _centred(values)
        shared = [contexts.prompt_sums(x) for x in (c, c * c, *(c * h for h in coordinates))]
        correlations.append(_correlations(np.column_stack([n, *own, *shared]), contexts.seed))
    mean, full = (
        contexts.prompts.ratio(np.column_stack([pair[i] for pair in sums]), n[:, None])
        for i in (0, 1)
    )
    columns: dict[str, Any] = contexts.head | {
        "definition": [definition for definition, _ in kinds],
        "k": [k for _, k in kinds],
        "n": contexts.n,
        "n_prompts": contexts.prompts.count,
        **interval_columns("mean", mean, share=True),
        **interval_columns("saturated", full, share=True),
        **{name: np.array([row[name] for row in correlations], float) for name in NAMES},
        "reason": mean.reason,
    }
    tested = _tested(contexts, sample)
    parts = [columns | {"kl": kl} | test for kl, test in tested.items()]
    return result_table("teachability_support", parts)


def definitions(
    contexts: Contexts,
) -> Iterator[tuple[str, int, npt.NDArray[np.floating]]]:
    """Give every definition of compatibility at every K, one value per token."""
    for name in ("teacher_mass", "overlap"):
        per_k = contexts.read(name)
        for j, k in enumerate(contexts.k_grid):
            yield name, k, np.ascontiguousarray(per_k[:, j])
    rank = contexts.read("teacher_top_rank")
    for k in contexts.k_grid:
        yield "teacher_top", k, (rank <= k).astype(np.float32)


def _centred(values: npt.NDArray[np.floating]) -> Floats:
    return np.asarray(values - values.mean(dtype=np.float64), np.float64)


def _correlations(sums: Floats, seed: int) -> dict[str, Any]:
    """Correlate compatibility c with entropy and divergence h, all centred.

    Args:
        sums: Over each prompt: n, then h and h^2 of both, then c, c^2, and c h of both.
            Shape (prompts, 9).
        seed: Seed of the draws.
    """
    counts = bootstrap.cluster_counts(len(sums), draws=CORRELATION_DRAWS, seed=seed)
    drawn = np.concatenate([np.ones((1, len(sums))), counts]) @ sums
    means = drawn[:, 1:] / drawn[:, :1]
    c, c_square = means[:, 4], means[:, 5]
    named: dict[str, Any] = {}
    for j, name in enumerate(COORDINATES):
        h, h_square, product = means[:, 2 * j], means[:, 2 * j + 1], means[:, 6 + j]
        spread = np.sqrt(np.maximum((c_square - c**2) * (h_square - h**2), 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            values = (product - c * h) / spread
        interval = bootstrap.percentile(values[1:], values[0], len(sums))
        named |= interval_columns(f"correlation_{name}", interval)
    return named


def _tested(contexts: Contexts, sample: Sample | str) -> dict[str, dict[str, Any]]:
    """Fit the model `local` with each definition in turn, beside its permutation null."""
    if not contexts.has_gain or isinstance(sample, str):
        reason = ONE_CHECKPOINT if not contexts.has_gain else str(sample)
        return {kl: {"reason": reason} for kl in contexts.kls}
    columns = local_columns(contexts, sample)
    left = base_remainder(columns, LOCAL_BASE)
    local = np.column_stack(
        [sample.local(values[sample.rows]) for _, _, values in definitions(contexts)]
    )
    added, null = added_r2(left, local), permuted_r2(left, local, sample.cell)
    names = [*LOCAL_BASE, *(f"{kl}_gain" for kl in KLS)]
    results: dict[str, dict[str, list[Any]]] = {kl: {} for kl in contexts.kls}
    for j in range(local.shape[1]):
        parts = [columns[name] for name in names]
        sums = moments([*parts, local[:, j]], sample.starts)
        for kl in contexts.kls:
            terms = [*range(len(LOCAL_BASE)), len(names)]
            fit = least_squares(sums, terms, names.index(f"{kl}_gain"))
            row = fit_columns(fit, None, "local", LOCAL, sums)
            i = KLS.index(kl)
            test: dict[str, Any] = {"n_local": len(local), "reason": row["reason"]}
            if fit is None:
                test["reason"] = CONSTANT
            for name in ("coefficient", "standard"):
                for end in ("", "_low", "_high"):
                    values = row.get(f"{name}{end}")
                    test[f"{name}{end}"] = np.nan if values is None else values[-1]
            test |= {"delta_r2": added[j, i], "null_delta_r2": null[j, i]}
            for name, value in test.items():
                results[kl].setdefault(name, []).append(value)
    return {kl: dict(columns) for kl, columns in results.items()}
