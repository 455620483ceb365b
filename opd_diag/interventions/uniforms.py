"""Random numbers that belong to a problem, a sample and a position, whoever asks for them.

A counter-based generator (Philox) is keyed by the seed, the problem and the sample; the position
is its counter. So a number depends on nothing else: not on the other rows of a batch, on what was
drawn before, or on the process.
"""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt


def uniforms(
    seed: int, problem: str, sample: int, positions: int, *, stream: str = "choice"
) -> npt.NDArray[np.float64]:
    """Return the uniform numbers of one sample of one problem, from position 0 on.

    More positions give the same numbers and others after them.

    Args:
        seed: Seed of the study.
        problem: Name of the problem.
        sample: Which of its samples.
        positions: Number of positions.
        stream: Name of the series: `choice` chooses tokens, `again` chooses those that stand in
            for banned ones.

    Returns:
        Numbers in [0, 1). Shape (positions,).
    """
    name = f"{seed}\n{stream}\n{sample}\n{problem}"
    digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()
    key = np.frombuffer(digest, np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(positions)
