"""Test whether a type's loss differs from that of other tokens at the same places."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.sparse import csr_array

from opd_diag.analyses.rock_tokens.occurrences import FEWEST_OCCURRENCES, Occurrences
from opd_diag.stats.permutation import drawn_p, permutation_moments, skewed_p, third_moment

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

DRAWN_TO = 150  # occurrences up to which no smooth law is trusted for a p value
FLOOR = 0.1  # of the mean loss: what is added before the logarithm


class Places(NamedTuple):
    """Where occurrences are compared: of one prompt, in one tenth of the response.

    Attributes:
        place: Place of each occurrence. Shape (n,).
        size: Occurrences at each place. Shape (places,).
        value: log(loss + floor) of each occurrence. Shape (n,).
    """

    place: npt.NDArray[np.int32]
    size: Integers
    value: Floats

    @property
    def mean(self) -> Floats:
        """Mean value at each place."""
        return np.bincount(self.place, self.value, self.size.size) / np.maximum(self.size, 1)

    @property
    def rest(self) -> Floats:
        """Value of each occurrence less the mean of its place. Shape (n,)."""
        return np.asarray(self.value - self.mean[self.place])


def response_places(occurrences: Occurrences, noise: float | None) -> Places:
    """Put occurrences into places, with the logarithm of their loss under the ranking checkpoint.

    The floor is a tenth of the mean loss, or the noise floor if that is larger: differences between
    losses that are next to nothing say nothing. A loss of either sign enters as the inverse
    hyperbolic sine, which is the logarithm for large ones.

    Args:
        occurrences: Tokens and losses.
        noise: Noise floor of the loss, nat, or None where it is not known.
    """
    loss = occurrences.loss[occurrences.ranked].astype(np.float64)
    floor = max(FLOOR * np.abs(loss).mean(), noise or 0.0) or 1.0
    place = 10 * occurrences.prompt + occurrences.tenth
    size = np.bincount(place, minlength=10 * len(occurrences.prompt_id))
    value = np.arcsinh(loss / (2 * floor)) if loss.min() < 0 else np.log(loss + floor)
    return Places(place, size, value)


def lift_p(occurrences: Occurrences, places: Places, seed: int) -> tuple[Floats, Floats]:
    """Test for every type whether its lift differs from 1.

    The logarithm of the loss is permuted inside places, so a type is not called special for
    standing in hard prompts, or early. Types of up to 150 occurrences are drawn; for the others
    mean, variance and skewness of the permutation are known.

    Returns:
        Two-sided p, and p adjusted over the tested types (Benjamini-Hochberg); NaN for types of
        fewer than 10 occurrences. Shape (types,).
    """
    kind = occurrences.kind[occurrences.at]
    count = np.bincount(kind, minlength=occurrences.token_id.size)
    p, adjusted = np.full((2, count.size), np.nan)
    tested = np.flatnonzero(count >= FEWEST_OCCURRENCES)
    if not tested.size:
        return p, adjusted
    n = _counts(kind, places, count)
    mean = np.asarray(n.T @ places.mean)
    observed = np.bincount(kind, places.value, count.size).astype(np.float64)
    common, rare = tested[count[tested] > DRAWN_TO], tested[count[tested] <= DRAWN_TO]
    p[common] = _smooth_p(n[:, common], observed[common], mean[common], places)
    ordered = places.value[np.argsort(places.place, kind="stable")]
    p[rare] = drawn_p(
        n[:, rare], observed[rare], mean[rare], ordered, places.size, tests=tested.size, seed=seed
    )
    adjusted[tested] = stats.false_discovery_control(p[tested])
    return p, adjusted


def _counts(kind: npt.NDArray[np.int32], places: Places, count: Integers) -> Any:
    """Count the occurrences of each type at each place. Sparse, shape (places, types)."""
    inside = count[kind] >= FEWEST_OCCURRENCES
    ones = np.ones(int(inside.sum()))
    return csr_array(  # pairs that occur twice are added up
        (ones, (places.place[inside], kind[inside])), shape=(places.size.size, count.size)
    )


def _smooth_p(n: Any, observed: Floats, mean: Floats, places: Places) -> Floats:
    size, rest = places.size.astype(np.float64), places.rest
    squares, cubes = (
        np.bincount(places.place, values, size.size).astype(np.float64)
        for values in (rest**2, rest**3)
    )
    _, variance = permutation_moments(n, size, np.zeros(size.size), squares)
    return skewed_p(observed, mean, variance, third_moment(n, size, cubes))
