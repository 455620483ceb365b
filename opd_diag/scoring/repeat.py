"""Repetition inside a response."""

import numpy as np
from numpy.typing import NDArray

from opd_diag.scoring.batches import Ragged

LONGEST = 32


def repeats(responses: Ragged) -> NDArray[np.uint16]:
    """Return the length of the longest n-gram ending at each token that ended earlier too.

    Both n-grams lie in the same response and may overlap; n is at most 32.

    Args:
        responses: Token ids.

    Returns:
        One length for each token. Shape (tokens,).
    """
    ids = np.unique(responses.values, return_inverse=True)[1].astype(np.int64)
    response = np.repeat(np.arange(len(responses.lengths)), responses.lengths)
    position = np.arange(len(ids)) - responses.offsets[response]
    lengths = np.zeros(len(ids), np.uint16)
    # Ends of n-grams that occur at least twice, and a number for each such n-gram.
    ends = np.arange(len(ids))
    gram = response
    for n in range(1, LONGEST + 1):
        inside = position[ends] >= n - 1
        ends, gram = ends[inside], gram[inside]
        key = gram * (ids.max(initial=0) + 1) + ids[ends - n + 1]
        _, first, gram, count = np.unique(
            key, return_index=True, return_inverse=True, return_counts=True
        )
        again = np.ones(len(ends), np.bool_)
        again[first] = False
        lengths[ends[again]] = n
        twice = count[gram] > 1
        ends, gram = ends[twice], gram[twice]
        if not len(ends):
            break
    return lengths
