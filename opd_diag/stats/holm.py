"""Adjust p values for the number of tests, whatever their dependence."""

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import Floats


def holm(p: npt.ArrayLike) -> Floats:
    """Adjust p values such that all tests together err with the probability of one.

    Args:
        p: One p for each test; NaN: not tested, and counted as no test. Shape (tests,).

    Returns:
        Adjusted p, at most 1, NaN where p is.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    values = np.asarray(p, np.float64)
    adjusted = np.full(values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    rising = tested[np.argsort(values[tested], kind="stable")]
    left = np.arange(rising.size, 0, -1)
    adjusted[rising] = np.maximum.accumulate(np.minimum(left * values[rising], 1))
    return adjusted
