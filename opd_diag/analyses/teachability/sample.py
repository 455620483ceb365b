"""Take a seeded sample of prompts for what needs every token's neighbours."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from opd_diag.analyses.teachability.contexts import Contexts, Floats, Integers
from opd_diag.stats.hashing import hashed_uniform
from opd_diag.stats.matching import nearest_others
from opd_diag.stats.quantiles import TENTHS, tenths
from opd_diag.stats.ragged import run_lengths, run_starts
from opd_diag.stats.ranks import normal_scores

MOST_TOKENS = 200_000
NEIGHBOURS = 50
TIE_WIDTH = 1e-6  # SD; a coordinate that only decides between equal distances

TOO_FEW_TOKENS = "too few tokens"
CONSTANT_COORDINATE = "constant: {}"


class Sample(NamedTuple):
    """Tokens of a sample of whole prompts, and where they lie.

    Attributes:
        rows: Rows of the contexts. Shape (n,).
        prompt: Prompt of each, from 0 without gaps, rising. Shape (n,).
        starts: First token of each prompt.
        points: Normal scores of entropy and divergence, position in standard deviations, and the
            tie coordinate. Shape (n, 4).
        nearest: The 50 nearest other tokens. Shape (n, 50).
        cell: Decile cell of (entropy, divergence). Shape (n,).
    """

    rows: Integers
    prompt: Integers
    starts: Integers
    points: Floats
    nearest: Integers
    cell: Integers

    def local(self, values: npt.NDArray[np.floating]) -> Floats:
        """Take from each value its mean over the 50 nearest other tokens. Shape (n,) or (n, q)."""
        return np.asarray(values - values[self.nearest].mean(axis=1, dtype=np.float64), np.float64)

    def permutations(self, draws: int, seed: int) -> npt.NDArray[np.int32]:
        """Permute the tokens inside their cells. Shape (draws, n)."""
        rng = np.random.default_rng(seed)
        fixed = np.argsort(self.cell, kind="stable")
        orders = np.empty((draws, len(fixed)), np.int32)
        for draw in orders:
            draw[fixed] = np.argsort(self.cell + rng.random(len(fixed)))
        return orders


def sample_tokens(contexts: Contexts, *, most_tokens: int = MOST_TOKENS) -> Sample | str:
    """Draw prompts until the next would exceed a number of tokens; or say why it cannot be.

    Args:
        contexts: The tokens.
        most_tokens: Tokens that are enough; a first prompt is taken whatever its size.
    """
    prompts = contexts.prompts.count
    lengths = run_lengths(contexts.starts, contexts.n)
    drawn = np.random.default_rng(contexts.seed).permutation(prompts)
    enough = max(1, int(np.searchsorted(np.cumsum(lengths[drawn]), most_tokens, side="right")))
    kept = np.zeros(prompts, np.bool_)
    kept[drawn[:enough]] = True
    rows = np.flatnonzero(kept[contexts.prompts.code])
    if len(rows) <= NEIGHBOURS:
        return TOO_FEW_TOKENS
    points = np.empty((len(rows), 4))
    for j, name in enumerate(("entropy", "divergence", "position")):
        values = contexts.column(name)[rows].astype(np.float64)
        if not (spread := values.std()):
            return CONSTANT_COORDINATE.format(name)
        # Raw divergence has so long a tail that nine of ten tokens lie within 0.2 of its SD.
        points[:, j] = values / spread if name == "position" else normal_scores(values)
    keys = contexts.column("rollout")[rows], contexts.column("position")[rows]
    points[:, 3] = TIE_WIDTH * hashed_uniform(*keys, seed=contexts.seed)
    cells = [tenths(points[:, j])[0] for j in (0, 1)]
    prompt = (np.cumsum(kept) - 1)[contexts.prompts.code[rows]]
    starts = run_starts(prompt)
    nearest = nearest_others(points, NEIGHBOURS)
    return Sample(rows, prompt, starts, points, nearest, cells[0] * TENTHS + cells[1])
