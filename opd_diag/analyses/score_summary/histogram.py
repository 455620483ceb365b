"""The table `score_histogram`: how the divergences are spread over tokens."""

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses import reasons
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.score_summary.sums import DIVERGENCES, UNITS, Rollouts, Sums
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.tokens import TokenTable

# Two bins to a factor of ten, from 1e-5 to 10 nat, one below and one above.
STARTS = np.concatenate([[0.0], 10.0 ** np.arange(-5, 1.5, 0.5)])


def histogram_table(checkpoint: str, tokens: TokenTable, rollouts: Rollouts) -> pl.DataFrame:
    """Count tokens and sum their divergence in bins of the divergence itself.

    The bins are fixed, so every share is a ratio of sums with an interval over prompts.
    """
    parts = []
    for column in DIVERGENCES:

        def place(batch: pl.DataFrame, column: str = column) -> npt.NDArray[np.int64]:
            # Rounding can leave a divergence a little below 0.
            value = np.maximum(batch[column].cast(pl.Float64).to_numpy(), 0)
            return np.asarray(np.searchsorted(STARTS, value, side="right") - 1)

        for sums in rollouts.sums(tokens, column, STARTS.size, place):
            values = _shares(sums, rollouts.prompts) | {"column": column, "unit": UNITS[column]}
            parts.append(result_table("score_histogram", values, checkpoint=checkpoint))
    return pl.concat(parts)


def _shares(sums: Sums, prompts: Prompts) -> dict[str, object]:
    totals = [values.sum(axis=1, keepdims=True) for values in (sums.m, sums.x)]
    shares = {}
    for name, inside, total in zip(("token", "loss"), (sums.m, sums.x), totals, strict=True):
        above = np.cumsum(inside[:, ::-1], axis=1)[:, ::-1]
        shares[f"{name}_share"] = prompts.ratio(inside, total)
        shares[f"{name}_share_above"] = prompts.ratio(above, total)
    values: dict[str, object] = {
        "group": sums.group,
        "bin": np.arange(STARTS.size),
        "start": STARTS,
        "end": [*STARTS[1:].tolist(), None],
        "n": sums.m.sum(axis=0),
        "n_prompts": np.full(STARTS.size, int((totals[0] > 0).sum())),
        "reason": sums.why(reasons.first(*shares.values())),
    }
    for name, interval in shares.items():
        values |= interval_columns(name, interval, share=True)
    return values
