"""Ask by least squares whether compatibility tells the gain beyond entropy and divergence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from opd_diag.analyses.reasons import FEW, ONE_CHECKPOINT, TOO_FEW
from opd_diag.analyses.tables import result_table
from opd_diag.analyses.teachability.contexts import KLS, Contexts, Floats
from opd_diag.analyses.teachability.features import paper_scores
from opd_diag.analyses.teachability.sample import Sample
from opd_diag.stats.added import Remainder, added_r2, added_r2_jointly, permuted_r2, remainder
from opd_diag.stats.intervals import ENOUGH_CLUSTERS, FEWEST_CLUSTERS
from opd_diag.stats.ragged import run_starts
from opd_diag.stats.regression import Fit, Moments, least_squares, moments, without

BASE = ("entropy", "divergence", "entropy x divergence", "position", "teacher entropy")
FULL = (*BASE, "compatibility", "divergence x compatibility")
PARTS = ("d_learn", "d_incompat")
OFFSETS = ("entropy", "divergence", "position")  # a token's own minus the mean of its neighbours
LOCAL_BASE = (*BASE, *(f"local {name}" for name in OFFSETS))
LOCAL = (*LOCAL_BASE, "local compatibility")
TRIMMED_SHARE = 0.005
DRAWS = 100

COLLINEAR = "a term or the gain does not vary, or terms are collinear"
NOTES = {
    "full": "not the test of compatibility: a gain that is not linear in divergence makes its "
    "terms differ from 0 too; read `local`",
    "parts": "partly measures the spreads of the two scores",
    "local": "the test: what entropy, divergence and position tell in any form is taken out of "
    "compatibility first, as far as the nearest tokens know it",
}


def models_table(contexts: Contexts, sample: Sample | str) -> pl.DataFrame:
    """Fit the nested models, on all tokens and without the largest gains."""
    if contexts.last is None:
        return _unanswered(contexts, "base", ONE_CHECKPOINT)
    models = {"base": BASE, "full": FULL, "parts": PARTS}
    whole = _columns(contexts)
    parts = paper_scores(contexts.tokens)
    if parts["d_learn"].null_count():
        del models["parts"]
    else:
        whole |= {name: parts[name].to_numpy() for name in PARTS}
    del parts
    frames = [_fits(contexts, whole, BASE, models, contexts.starts)]
    if isinstance(sample, str):
        frames += [_unanswered(contexts, "local", sample)]
        return pl.concat(frames)
    sampled = sampled_columns(contexts, sample)
    local = sampled | {"local compatibility": sample.local(sampled["compatibility"])}
    frames.append(_fits(contexts, local, LOCAL_BASE, {"local": LOCAL}, sample.starts))
    return _with_null(pl.concat(frames), contexts, sample, local)


def base_remainder(columns: Mapping[str, Floats], terms: Sequence[str]) -> Remainder:
    """Take a model without compatibility out of both gains."""
    responses = np.column_stack([columns[f"{kl}_gain"] for kl in KLS])
    return remainder(np.column_stack([columns[name] for name in terms]), responses)


def sampled_columns(contexts: Contexts, sample: Sample) -> dict[str, Floats]:
    """Return all terms but local compatibility, and the gains, of the sampled tokens.

    Where tokens are sparse the neighbours of one lie to one side of it, so local compatibility
    still holds some of its entropy, divergence and position. How far it lies from the mean of its
    neighbours in each takes that out.
    """
    columns = {
        name: np.asarray(values, np.float64)
        for name, values in _columns(contexts, sample.rows).items()
    }
    return columns | {f"local {name}": sample.local(columns[name]) for name in OFFSETS}


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
) -> pl.DataFrame:
    names = list(columns)
    everything = moments([columns[name] for name in names], starts)
    frames = []
    for kl in KLS:
        response = names.index(f"{kl}_gain")
        for trimmed in (False, True):
            used = _trim(everything, columns, response, starts) if trimmed else everything
            base = least_squares(used, [names.index(term) for term in without_c], response)
            for model, terms in models.items():
                fit = least_squares(used, [names.index(term) for term in terms], response)
                columns_of = fit_columns(fit, base, model, terms, used)
                head = contexts.head | {"kl": kl, "model": model, "trimmed": trimmed}
                frames.append(result_table("teachability_models", head | columns_of))
    return pl.concat(frames)


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


def _with_null(
    table: pl.DataFrame,
    contexts: Contexts,
    sample: Sample,
    columns: Mapping[str, Floats],
) -> pl.DataFrame:
    """Put the permutation null beside delta_r2 of `full` and `local`."""
    left, left_local = (base_remainder(columns, terms) for terms in (BASE, LOCAL_BASE))
    c, local, d = (columns[name] for name in ("compatibility", "local compatibility", "divergence"))
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
    rows = [
        {
            "model": model,
            "kl": kl,
            "trimmed": False,
            "n_null": len(c),
            "sample_delta_r2": float(observed[j]),
            "null_delta_r2": float(null[j]),
        }
        for model, (observed, null) in added.items()
        for j, kl in enumerate(KLS)
    ]
    keys = ["model", "kl", "trimmed"]
    bare = table.drop("n_null", "sample_delta_r2", "null_delta_r2")
    joined = bare.join(pl.DataFrame(rows), on=keys, how="left", maintain_order="left")
    return joined.select(pl.col(name).cast(dtype) for name, dtype in table.schema.items())


def _unanswered(contexts: Contexts, model: str, reason: str) -> pl.DataFrame:
    columns = contexts.head | {
        "kl": list(KLS),
        "model": model,
        "trimmed": False,
        "term": "constant",
        "n": 0,
        "n_prompts": 0,
        "note": NOTES.get(model),
        "reason": reason,
    }
    return result_table("teachability_models", columns)
