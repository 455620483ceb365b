"""Ask by least squares whether compatibility tells the gain beyond entropy and divergence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from opd_diag.analyses.reasons import FEW, ONE_CHECKPOINT, TOO_FEW
from opd_diag.analyses.tables import result_table
from opd_diag.analyses.teachability.contexts import Contexts, Floats
from opd_diag.analyses.teachability.features import paper_scores
from opd_diag.analyses.teachability.options import KLS
from opd_diag.analyses.teachability.sample import Sample
from opd_diag.stats.explained_variance import (
    Remainder,
    added_r2,
    added_r2_jointly,
    permuted_r2,
    remainder,
)
from opd_diag.stats.intervals import ENOUGH_CLUSTERS, FEWEST_CLUSTERS
from opd_diag.stats.ragged import run_starts
from opd_diag.stats.regression import Fit, Moments, least_squares, moments, without

BASE = ("entropy", "divergence", "entropy x divergence", "position", "teacher entropy")
FULL = (*BASE, "compatibility", "divergence x compatibility")
PARTS = ("d_learn", "d_incompat")
OFFSETS = ("entropy", "divergence", "position")  # a token's own minus the mean of its neighbours
# How steeply the gain rises with an offset may itself rise with entropy and divergence.
SLOPES = (
    ("entropy", "entropy"),
    ("entropy", "divergence"),
    ("divergence", "entropy"),
    ("divergence", "divergence"),
    ("divergence squared", "divergence"),
)
LOCAL_BASE = (
    *(f"local {name}" for name in OFFSETS),
    *(f"{name} x local {offset}" for name, offset in SLOPES),
)
LOCAL = (*LOCAL_BASE, "local compatibility")
TRIMMED_SHARE = 0.005
DRAWS = 40

COLLINEAR = "a term or the gain does not vary, or terms are collinear"
NOTES = {
    "full": "not the test of compatibility: a gain that is not linear in divergence makes its "
    "terms differ from 0 too; read `matched` of teachability_contrast",
    "parts": "partly measures the spreads of the two scores",
    "local": "what entropy, divergence and position tell in any form is taken out of compatibility "
    "and gain first, as far as the nearest tokens know it; describes, and is no test: the interval "
    "is too narrow where a few prompts hold the gain",
}


def models_table(contexts: Contexts, sample: Sample | str) -> pl.DataFrame:
    """Fit the nested models, on all tokens and without the largest gains."""
    if not contexts.has_gain:
        return result_table("teachability_models", _unanswered(contexts, "base", ONE_CHECKPOINT))
    models = {"base": BASE, "full": FULL, "parts": PARTS}
    whole = _columns(contexts)
    scores = paper_scores(contexts.tokens)
    if scores["d_learn"].null_count():
        del models["parts"]
    else:
        whole |= {name: scores[name].to_numpy() for name in PARTS}
    del scores
    parts = _fits(contexts, whole, BASE, models, contexts.starts)
    if isinstance(sample, str):
        parts.append(_unanswered(contexts, "local", sample))
        return result_table("teachability_models", parts)
    local = local_columns(contexts, sample)
    local["local compatibility"] = sample.local(local["compatibility"])
    parts += _fits(contexts, local, LOCAL_BASE, {"local": LOCAL}, sample.starts)
    null = _null(contexts, sample, local)
    for part in parts:
        if not part["trimmed"]:
            part |= null.get((part["model"], part["kl"]), {})
    return result_table("teachability_models", parts)


def base_remainder(columns: Mapping[str, Floats], terms: Sequence[str]) -> Remainder:
    """Take a model without compatibility out of both gains."""
    responses = np.column_stack([columns[f"{kl}_gain"] for kl in KLS])
    return remainder(np.column_stack([columns[name] for name in terms]), responses)


def local_columns(contexts: Contexts, sample: Sample) -> dict[str, Floats]:
    """Return the terms of `local` but local compatibility, and the local gains.

    `local` is a token's own value minus the mean of its 50 nearest tokens, which takes out what
    entropy, divergence and position tell in any form. Where tokens are sparse the neighbours of one
    lie to one side of it: the offsets of these coordinates, with slopes that change along
    entropy and divergence, take that out too. Entropy and divergence are the normal scores in which
    neighbours are sought.
    """
    sampled = _sampled(contexts, sample)
    h, d = sample.points[:, 0], sample.points[:, 1]
    at = {"entropy": h, "divergence": d, "divergence squared": d * d}
    offsets = dict(zip(OFFSETS, sample.local(sample.points[:, :3]).T, strict=True))
    return {
        **{f"local {name}": values for name, values in offsets.items()},
        **{f"{name} x local {offset}": at[name] * offsets[offset] for name, offset in SLOPES},
        "compatibility": sampled["compatibility"],
        **{f"{kl}_gain": sample.local(sampled[f"{kl}_gain"]) for kl in KLS},
    }


def _sampled(contexts: Contexts, sample: Sample) -> dict[str, Floats]:
    columns = _columns(contexts, sample.rows)
    return {name: np.asarray(values, np.float64) for name, values in columns.items()}


def _columns(
    contexts: Contexts, rows: npt.NDArray[Any] | slice = slice(None)
) -> dict[str, npt.NDArray[np.floating]]:
    h, d, c = (contexts.column(name)[rows] for name in ("entropy", "divergence", "compatibility"))
    return {
        "entropy": h,
        "divergence": d,
        "entropy x divergence": h * d,
        "position": contexts.column("position")[rows].astype(np.float32),
        "teacher entropy": contexts.column("teacher_entropy")[rows],
        "compatibility": c,
        "divergence x compatibility": d * c,
        **{f"{kl}_gain": contexts.gain(kl)[rows] for kl in KLS},
    }


def _fits(
    contexts: Contexts,
    columns: Mapping[str, npt.NDArray[np.floating]],
    without_c: Sequence[str],
    models: Mapping[str, Sequence[str]],
    starts: npt.NDArray[np.int64],
) -> list[dict[str, Any]]:
    names = list(columns)
    everything = moments([columns[name] for name in names], starts)
    parts = []
    for kl in contexts.kls:
        response = names.index(f"{kl}_gain")
        for trimmed in (False, True):
            used = _trim(everything, columns, response, starts) if trimmed else everything
            base = least_squares(used, [names.index(term) for term in without_c], response)
            for model, terms in models.items():
                fit = least_squares(used, [names.index(term) for term in terms], response)
                columns_of = fit_columns(fit, base, model, terms, used)
                head = contexts.head | {"kl": kl, "model": model, "trimmed": trimmed}
                parts.append(head | columns_of)
    return parts


def _trim(
    everything: Moments,
    columns: Mapping[str, npt.NDArray[np.floating]],
    response: int,
    starts: npt.NDArray[np.int64],
) -> Moments:
    """Leave out the tokens of the largest |gain|."""
    values = list(columns.values())
    size = np.abs(values[response])
    n = len(size)
    left_out = np.sort(
        np.argpartition(size, n - 1 - int(TRIMMED_SHARE * n))[n - int(TRIMMED_SHARE * n) :]
    )
    if not left_out.size:
        return everything
    cluster = np.searchsorted(starts, left_out, side="right") - 1
    first = run_starts(cluster)
    dropped = moments(
        [value[left_out] for value in values],
        first,
        centre=everything.centre,
        scale=everything.scale,
    )
    return without(everything, dropped, cluster[first])


def fit_columns(
    fit: Fit | None, base: Fit | None, model: str, terms: Sequence[str], used: Moments
) -> dict[str, Any]:
    """Name the numbers of a fit as columns, one row for the constant and one for each term.

    Args:
        fit: The fit; None: it could not be made.
        base: The fit of the terms without compatibility on the same rows.
        model: Name of the model.
        terms: Its terms.
        used: What it was fitted to.
    """
    size = used.products[:, 0, 0]
    clusters = int((size > 0.5).sum())
    columns: dict[str, Any] = {
        "term": ["constant", *terms],
        "n": round(float(size.sum())),
        "n_prompts": clusters,
        "note": NOTES.get(model),
    }
    if fit is None:
        return columns | {"reason": COLLINEAR}
    reach = stats.t.ppf(0.975, fit.df) if fit.df > 0 else np.nan
    for name, value, error in (
        ("coefficient", fit.raw, fit.raw_error),
        ("standard", fit.standard, fit.standard_error),
    ):
        columns |= {name: value, f"{name}_low": value - reach * error}
        columns[f"{name}_high"] = value + reach * error
    columns["r2"] = fit.r2
    if base is not None and model in ("full", "local"):
        columns["delta_r2"] = fit.r2 - base.r2
    few = FEW if clusters < ENOUGH_CLUSTERS else ""
    return columns | {"reason": TOO_FEW if clusters < FEWEST_CLUSTERS else few}


def _null(
    contexts: Contexts, sample: Sample, columns: Mapping[str, Floats]
) -> dict[tuple[str, str], dict[str, float]]:
    """Give delta_r2 of `full` and `local` on the sample, and its permutation null."""
    raw = _sampled(contexts, sample)
    left, left_local = base_remainder(raw, BASE), base_remainder(columns, LOCAL_BASE)
    c, d, local = raw["compatibility"], raw["divergence"], columns["local compatibility"]
    draws = [
        added_r2_jointly(left, np.column_stack([c[order], d * c[order]]))
        for order in (np.arange(len(c)), *sample.permutations(DRAWS, contexts.seed))
    ]
    added = {
        "full": (draws[0], np.quantile(draws[1:], 0.95, axis=0)),
        "local": (
            added_r2(left_local, local[:, None])[0],
            permuted_r2(left_local, local[:, None], sample.cell)[0],
        ),
    }
    return {
        (model, kl): {
            "n_null": len(c),
            "sample_delta_r2": float(observed[j]),
            "null_delta_r2": float(null[j]),
        }
        for model, (observed, null) in added.items()
        for j, kl in enumerate(KLS)
    }


def _unanswered(contexts: Contexts, model: str, reason: str) -> dict[str, Any]:
    return contexts.head | {
        "kl": list(contexts.kls),
        "model": model,
        "trimmed": False,
        "term": "constant",
        "n": 0,
        "n_prompts": 0,
        "note": NOTES.get(model),
        "reason": reason,
    }
