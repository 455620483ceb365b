"""Read the gradient sums of token types without the noise of averaging.

The mean of n noisy gradients has E‖S/n‖² = ‖mu‖² + sigma²/n: rare types look large, and their
direction looks random, from noise alone. Products across the two halves of the prompts have no
such term.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.tables.gradients import GradientSums

Floats: TypeAlias = npt.NDArray[np.float64]
Rows: TypeAlias = npt.NDArray[np.float32]

FEWEST_IN_HALF = 2
FEWEST_BALANCED = 5


class TypeGradients(NamedTuple):
    """Gradient figures of each type, NaN where there is none. Shape (types,).

    Attributes:
        norm2_raw: ‖S/n‖² over all occurrences: the squared norm of the mean gradient.
        norm2_cross: <S_A/n_A, S_B/n_B> of the two halves: unbiased, may be negative.
        norm2_iid: (‖S‖² - Q) / (n (n - 1)): unbiased if occurrences are independent.
        coherence: (‖S‖² - Q) / ((n - 1) Q).
        cosine: Cosine of S and G_balanced over all occurrences: noise lowers it for rare types.
        alignment: <S_A/n_A, G_B> / ‖G_B‖, mean of both directions: does not depend on n.
        contribution_share: <S_A, G_B> / <G_A, G_B>, mean of both directions.
    """

    norm2_raw: Floats
    norm2_cross: Floats
    norm2_iid: Floats
    coherence: Floats
    cosine: Floats
    alignment: Floats
    contribution_share: Floats


def type_gradients(sums: GradientSums, token_id: npt.NDArray[np.int32]) -> TypeGradients:
    """Describe the gradient of each type in the final hidden state.

    Args:
        sums: Sums per type and half of the prompts.
        token_id: Types wanted, rising.

    Source: arXiv 2605.09253 for the mean gradient and the cosine, there in logit space; the
        products across halves are ours.
    """
    (A, nA, QA), (B, nB, QB) = (_half(sums, half, token_id) for half in (0, 1))
    n, Q, S = nA + nB, QA + QB, A + B
    square = _dots(S, S)
    balanced = _weighted(_over(n, n > 0), S)
    enough = (nA >= FEWEST_IN_HALF) & (nB >= FEWEST_IN_HALF)
    AB = _dots(A, B)
    GA, GB = (_weighted(np.ones(n.size), half) for half in (A, B))
    # Noise alone may turn the sign of the common direction: then no share of it has a meaning.
    common = np.full(n.size, float(GA @ GB))
    return TypeGradients(
        norm2_raw=_ratio(square, n**2, n > 0),
        norm2_cross=_ratio(AB, nA * nB, enough),
        norm2_iid=_ratio(square - Q, n * (n - 1), n > 1),
        coherence=_ratio(square - Q, (n - 1) * Q, (n > 1) & (Q > 0)),
        cosine=_ratio(_along(S, balanced), np.sqrt(square) * np.linalg.norm(balanced), square > 0),
        alignment=np.where(
            enough, (_alignment(A, nA, B, nB, AB) + _alignment(B, nB, A, nA, AB)) / 2, np.nan
        ),
        contribution_share=_ratio(
            (_along(A, GB) + _along(B, GA)) / 2, common, enough & (common > 0)
        ),
    )


def _half(
    sums: GradientSums, half: int, token_id: npt.NDArray[np.int32]
) -> tuple[Rows, Floats, Floats]:
    """Take S, n and Q of one half, 0 for the types that do not occur in it."""
    rows = np.flatnonzero((sums.half == half) & np.isin(sums.token_id, token_id))
    place = np.searchsorted(token_id, sums.token_id[rows])
    S = np.zeros((token_id.size, sums.S.shape[1]), np.float32)
    n, Q = np.zeros((2, token_id.size))
    S[place], n[place], Q[place] = sums.S[rows], sums.n[rows], sums.Q[rows]
    return S, n, Q


def _alignment(A: Rows, nA: Floats, B: Rows, nB: Floats, AB: Floats) -> Floats:
    """Project the mean gradient of each type on the balanced direction of the other half.

    The direction is the sum of the mean gradients of all types but the type itself.
    """
    weight = _over(nB, nB >= FEWEST_BALANCED)
    G = _weighted(weight, B)
    square = G @ G - 2 * weight * _along(B, G) + weight**2 * _dots(B, B)
    return _ratio((_along(A, G) - weight * AB), nA * np.sqrt(np.maximum(square, 0)), square > 0)


def _over(n: Floats, able: npt.NDArray[np.bool_]) -> Floats:
    return np.asarray(np.divide(1, n, out=np.zeros(n.size), where=able))


def _ratio(over: Floats, under: Floats, able: npt.NDArray[np.bool_]) -> Floats:
    known = able & (under != 0)
    return np.asarray(np.divide(over, under, out=np.full(over.size, np.nan), where=known))


def _dots(A: Rows, B: Rows) -> Floats:
    """Multiply row by row, summed in float64 without a float64 copy of the rows."""
    return np.asarray(np.einsum("ij,ij->i", A, B, dtype=np.float64))


def _along(A: Rows, direction: Floats) -> Floats:
    return np.asarray(np.einsum("ij,j->i", A, direction, dtype=np.float64))


def _weighted(weight: Floats, A: Rows) -> Floats:
    return np.asarray(np.einsum("i,ij->j", weight, A, dtype=np.float64))
