"""Fit least squares from per-cluster sums of products, with intervals that know the clusters.

All that a fit needs from the rows is how columns multiply within each cluster, so one pass over the
rows serves every set of terms, every response, and rows left out later.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import FEWEST_CLUSTERS, Floats

_ROWS = 1_000_000  # rows standardised at a time: 8 MB a column
_SINGULAR = 1e-10  # smallest eigenvalue of a correlation matrix that is still solved


class Moments(NamedTuple):
    """Per-cluster sums of products of standardised columns.

    Attributes:
        products: Shape (clusters, p + 1, p + 1). Column 0 is 1, column j + 1 is
            (x_j - centre_j) / scale_j.
        centre: What was subtracted. Shape (p,).
        scale: What it was divided by. Shape (p,).
    """

    products: Floats
    centre: Floats
    scale: Floats


class Fit(NamedTuple):
    """Coefficients of a least-squares fit.

    Attributes:
        raw: Constant first, then one for each predictor, in the response's unit over its own.
            Shape (k + 1,).
        raw_error: Cluster-robust standard errors, NaN from fewer than 5 clusters.
        standard: The same with response and predictors in units of `scale`; NaN for the constant.
        standard_error: Their standard errors.
        df: Degrees of freedom of Student's t for an interval: clusters - 1.
        r2: Share of the variance that is fitted.
    """

    raw: Floats
    raw_error: Floats
    standard: Floats
    standard_error: Floats
    df: int
    r2: float


def moments(
    columns: Sequence[npt.NDArray[np.floating]],
    starts: npt.NDArray[np.integer],
    *,
    centre: Floats | None = None,
    scale: Floats | None = None,
) -> Moments:
    """Sum the products of columns within clusters of consecutive rows.

    Args:
        columns: p columns of shape (n,), finite.
        starts: First row of each cluster, rising from 0, no cluster empty. Shape (clusters,).
        centre: What to subtract from each column; its mean by default.
        scale: What to divide by; its standard deviation by default, 1 where that is 0.
    """
    if centre is None:
        centre = np.array([column.mean(dtype=np.float64) for column in columns])
    if scale is None:
        spread = np.array(
            [_spread(column, middle) for column, middle in zip(columns, centre, strict=True)]
        )
        scale = np.where(spread > 0, spread, 1.0)
    ends = np.append(starts[1:], len(columns[0]))
    width = len(columns) + 1
    products = np.zeros((len(starts), width, width))
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + _ROWS, side="right")))
        rows = slice(int(starts[first]), int(ends[last - 1]))
        inside = starts[first:last] - starts[first]
        block = [np.ones(rows.stop - rows.start)]
        block += [(x[rows] - c) / s for x, c, s in zip(columns, centre, scale, strict=True)]
        for a in range(width):
            for b in range(a, width):
                sums = np.add.reduceat(block[a] * block[b], inside)
                products[first:last, a, b] = products[first:last, b, a] = sums
        first = last
    return Moments(products, centre, scale)


def least_squares(sums: Moments, predictors: Sequence[int], response: int) -> Fit | None:
    """Fit a response by a constant and predictors, each a column of `moments`.

    Standard errors are cluster-robust (the CR1 form: clusters / (clusters - 1) times the sandwich).

    Returns:
        The fit, or None where the predictors or the response do not vary or are collinear.

    Source: Liang and Zeger 1986; Cameron and Miller 2015, section II.
    """
    terms = [0, *(1 + j for j in predictors)]
    whole = sums.products.sum(axis=0)
    n = whole[0, 0]
    gram, cross = whole[np.ix_(terms, terms)], whole[terms, 1 + response]
    square = whole[1 + response, 1 + response]
    total = square - whole[0, 1 + response] ** 2 / n
    size = np.sqrt(np.diag(gram))
    if not (size > 0).all() or total <= _SINGULAR * square:
        return None
    if np.linalg.eigvalsh(gram / np.outer(size, size))[0] < _SINGULAR:
        return None
    bread = np.linalg.inv(gram)
    beta = bread @ cross
    rest = square - beta @ cross
    scores = sums.products[:, terms, 1 + response] - sums.products[:, terms][:, :, terms] @ beta
    present = sums.products[:, 0, 0] > 0
    clusters = int(present.sum())
    covariance = np.full(gram.shape, np.nan)
    if clusters >= FEWEST_CLUSTERS:
        covariance = clusters / (clusters - 1) * bread @ (scores.T @ scores) @ bread
    unit = sums.scale[response]
    slopes = unit / sums.scale[list(predictors)]
    back = np.diag(np.append(unit, slopes))
    back[0, 1:] = -slopes * sums.centre[list(predictors)]
    raw = back @ beta
    raw[0] += sums.centre[response]
    error = np.sqrt(np.diag(covariance))
    error[0] = beta[0] = np.nan
    raw_error = np.sqrt(np.diag(back @ covariance @ back.T))
    return Fit(raw, raw_error, beta, error, clusters - 1, 1 - rest / total)


def without(sums: Moments, left_out: Moments, clusters: npt.NDArray[np.integer]) -> Moments:
    """Take rows out of the sums again.

    Args:
        sums: Sums over all rows.
        left_out: Sums over the rows to leave out, with the centre and scale of `sums`.
        clusters: Which cluster of `sums` each of `left_out` is; each once.
    """
    products = sums.products.copy()
    products[clusters] -= left_out.products
    return sums._replace(products=products)


def _spread(column: npt.NDArray[np.floating], middle: float) -> float:
    return float(np.sqrt(np.square(column - middle, dtype=np.float64).mean()))
