"""Give every row the same random number whatever stands around it."""

import numpy as np
import numpy.typing as npt


def seeded_hash(*keys: npt.NDArray[np.integer], seed: int = 0) -> npt.NDArray[np.uint64]:
    """Hash integer keys to 64 bits, so that ties fall the same way in every order of the rows.

    Args:
        keys: Arrays of non-negative integers, equal shapes.
        seed: Another seed gives unrelated numbers.

    Returns:
        Hashes, of the keys' shape.

    Source: Steele, Lea and Flood 2014 (the finaliser of SplitMix64).
    """
    state = np.full(np.shape(keys[0]), seed % 2**64, np.uint64)
    for key in keys:
        state += np.uint64(0x9E3779B97F4A7C15)
        state ^= _mixed(key.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        state = _mixed(state)
    return state


def hashed_uniform(*keys: npt.NDArray[np.integer], seed: int = 0) -> npt.NDArray[np.float64]:
    """Give numbers in [0, 1) instead of the hashes of `seeded_hash`."""
    bits = seeded_hash(*keys, seed=seed) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def _mixed(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
