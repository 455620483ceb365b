"""Tell how much variance further columns fit beyond a base, and how much permuted ones would."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from opd_diag.stats.intervals import Floats

_SINGULAR = 1e-10  # share of a column that the base must leave for it to be tried


class Remainder(NamedTuple):
    """Responses after a fit by base columns, to try further columns on.

    Attributes:
        basis: Orthonormal columns that span the constant and the base. Shape (n, p).
        rest: What the base leaves of each response. Shape (n, r).
        total: Sum of squares of each response around its mean, inf where that is 0. Shape (r,).
    """

    basis: Floats
    rest: Floats
    total: Floats


def remainder(base: Floats, responses: Floats) -> Remainder:
    """Fit responses by a constant and base columns, and keep what is left.

    Args:
        base: Shape (n, p). Columns that add nothing to those before them are dropped.
        responses: Shape (n, r).
    """
    spread = base.std(axis=0)
    columns = np.column_stack([np.ones(len(base)), (base / np.where(spread > 0, spread, 1))])
    basis, triangle = np.linalg.qr(columns)
    basis = basis[:, np.abs(np.diag(triangle)) > 1e-9 * np.sqrt(len(base))]
    total = np.square(responses - responses.mean(axis=0)).sum(axis=0)
    rest = responses - basis @ (basis.T @ responses)
    return Remainder(basis, rest, np.where(total > 0, total, np.inf))


def added_r2(left: Remainder, columns: Floats) -> Floats:
    """Give what each column fits beyond the base, alone.

    Args:
        left: What the base leaves.
        columns: Shape (n, q).

    Returns:
        Share of each response's variance, shape (q, r); 0 where the base leaves nothing of it.
    """
    size = np.square(columns).sum(axis=0)
    free = size - np.square(left.basis.T @ columns).sum(axis=0)
    free = np.where(free > _SINGULAR * size, free, np.inf)
    return np.asarray((columns.T @ left.rest) ** 2 / (free[:, None] * left.total))


def added_r2_jointly(left: Remainder, columns: Floats) -> Floats:
    """Give what columns fit beyond the base together; shape (r,). Arguments as for `added_r2`."""
    inside, cross = left.basis.T @ columns, columns.T @ left.rest
    gram = columns.T @ columns - inside.T @ inside
    beta = np.linalg.lstsq(gram, cross, rcond=_SINGULAR)[0]
    return np.asarray((cross * beta).sum(axis=0) / left.total)


def permuted_r2(
    left: Remainder, columns: Floats, cell: npt.NDArray[np.integer], *, level: float = 0.95
) -> Floats:
    """Give a quantile of `added_r2` with each column permuted inside cells of rows.

    The inner product of a permuted column with what is left is a sum over cells, near normal with
    known mean and variance, so no permutation is drawn.

    Args:
        left: What the base leaves.
        columns: Shape (n, q).
        cell: Cell of each row, from 0. Shape (n,).
        level: The quantile.

    Returns:
        Shape (q, r).

    Source: Hoeffding 1951 (combinatorial central limit theorem).
    """
    n = np.maximum(np.bincount(cell), 1)
    c_mean, c_square = _in_cells(columns, cell, n)
    e_mean, e_square = _in_cells(left.rest, cell, n)
    mean = (c_mean * n[:, None]).T @ e_mean
    variance = (c_square / np.maximum(n - 1, 1)[:, None]).T @ e_square
    expected = c_mean[cell]
    size = np.square(columns).sum(axis=0)
    free = size - np.square(left.basis.T @ expected).sum(axis=0)
    free = np.where(free > _SINGULAR * size, free, np.inf)
    moved = variance > 0
    noncentral = mean**2 / np.where(moved, variance, 1)
    square = np.where(moved, variance * stats.ncx2.ppf(level, 1, noncentral), mean**2)
    return np.asarray(square / (free[:, None] * left.total))


def _in_cells(
    columns: Floats, cell: npt.NDArray[np.integer], n: npt.NDArray[np.integer]
) -> tuple[Floats, Floats]:
    """Give the mean and the sum of squares around it in each cell; shape (cells, q)."""
    mean = np.column_stack([np.bincount(cell, column) for column in columns.T]) / n[:, None]
    rest = columns - mean[cell]
    square = np.column_stack([np.bincount(cell, column) for column in np.square(rest).T])
    return np.asarray(mean), np.asarray(square, np.float64)
