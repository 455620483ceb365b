"""Which token types stand in low-KL stretches, against shuffled KL under the same types.

A type has high odds in stretches because its prompts have stretches, because it clumps, or because
it stands where KL stays low. Shuffling KL alone, in blocks inside each rollout, leaves the first
two as they are: the types stay in their places, and the rule finds stretches elsewhere.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats
from scipy.sparse import csr_array
from scipy.special import ndtr, stdtr, stdtrit

from opd_diag.analyses import reasons
from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint
from opd_diag.analyses.agreement_traps.persistence import Nulls
from opd_diag.analyses.agreement_traps.rule import Cuts, Flags, Floats, Integers
from opd_diag.analyses.tables import ratio, result_table
from opd_diag.stats.intervals import FEWEST_CLUSTERS, effective_clusters
from opd_diag.stats.ragged import index_in_sequence
from opd_diag.tables.columns.agreement_traps import TRAP_VOCABULARY
from opd_diag.tables.schema import empty_table
from opd_diag.text.token_classes import token_classes

PRIOR = 500.0  # tokens, as all tokens are, that are added in the stretches and outside
FEWEST_OCCURRENCES = 10
MOST_CELLS = 2_000_000  # prompts x types at a time: 16 MB a matrix
NO_STRETCH = "the rule fires nowhere: no stretch to look at"


class _Counts(NamedTuple):
    """Tokens in stretches.

    Attributes:
        of_types: By prompt and type, sparse. Shape (prompts, types).
        of_all: By prompt, of all types, those too that are too rare. Shape (prompts,).
    """

    of_types: csr_array
    of_all: Floats


class _Null(NamedTuple):
    """What the rule finds in one kind of shuffles.

    Attributes:
        types: Tokens of each type in stretches, draw by draw. Shape (draws, types).
        prompts: Tokens of each prompt in stretches. Shape (draws, prompts).
        mean: Counts summed over the draws.
    """

    types: Floats
    prompts: Floats
    mean: _Counts


class _Tokens:
    """The tokens of the control: which are of one prompt and one type, for counts of any cuts."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.lengths = checkpoint.sample_lengths
        self.place = index_in_sequence(self.lengths)
        ids, kind = np.unique(checkpoint.sample_token_id, return_inverse=True)
        common = np.bincount(kind) >= FEWEST_OCCURRENCES
        self.token_id = ids[common]
        number = np.where(common, np.cumsum(common) - 1, -1)[kind]
        prompt = np.unique(checkpoint.prompt[checkpoint.sample], return_inverse=True)[1]
        self.prompt = np.repeat(prompt, self.lengths)
        self.shape = int(prompt.max()) + 1, self.token_id.size
        known = np.flatnonzero(number >= 0)
        self._cells, cell = np.unique(
            self.prompt[known] * self.shape[1] + number[known], return_inverse=True
        )
        self._cell = np.full(number.size, self._cells.size)
        self._cell[known] = cell

    def inside(self, first: Integers, end: Integers) -> Flags:
        """Tell which tokens stand in a stretch, given where it begins and ends in each rollout."""
        start, stop = (np.repeat(place, self.lengths) for place in (first, end))
        return np.asarray((self.place >= start) & (self.place < stop))

    def by_cell(self, which: Flags) -> Integers:
        """Count tokens by prompt and type, those of rare types left out. Shape (cells,)."""
        return np.bincount(self._cell[which], minlength=self._cells.size + 1)[:-1]

    def matrix(self, by_cell: Integers) -> csr_array:
        """Put counts by cell in their places. Sparse, shape (prompts, types)."""
        places = np.divmod(self._cells, self.shape[1])
        return csr_array((by_cell.astype(np.float64), places), shape=self.shape)

    def by_prompt(self, which: Flags) -> Floats:
        """Count tokens of any type by prompt. Shape (prompts,)."""
        return np.bincount(self.prompt[which], minlength=self.shape[0]).astype(np.float64)

    def by_type(self, by_cell: Integers) -> Floats:
        """Add counts by cell over the prompts. Shape (types,)."""
        sums = np.bincount(self._cells % self.shape[1], by_cell, self.shape[1])
        return np.asarray(sums, np.float64)

    def counts(self, which: Flags) -> _Counts:
        """Count tokens by prompt and type, and by prompt."""
        return _Counts(self.matrix(self.by_cell(which)), self.by_prompt(which))


def trap_vocabulary(
    checkpoint: Checkpoint, nulls: Nulls, vocabulary: pl.DataFrame | None
) -> pl.DataFrame:
    """Compare the odds of every common type in the stretches with those outside.

    Log-odds have an informative Dirichlet prior, which draws rare types towards 0. They describe;
    whether a type stands in stretches by more than chance is asked inside prompts, against two
    kinds of chance, and the larger p counts: draws of the null, and the spread over prompts. Where
    the log-odds are no more than those under shuffled KL, there is nothing to ask, and p is 1.

    Args:
        checkpoint: The checkpoint under the rule.
        nulls: The rule on shuffled blocks, from `shuffled_blocks`; single tokens, which no
            autocorrelation survives, are left out.
        vocabulary: Columns `token_id`, `text`, `bytes`, `is_special`, or None.

    Returns:
        The table `trap_vocabulary`, without rows where the rule could fire nowhere.

    Source: Monroe, Colaresi and Quinn 2008, section 3.5 (log-odds with an informative prior); the
        null and the test are opd-diag's.
    """
    if not checkpoint.sample.size:
        return empty_table(TRAP_VOCABULARY)
    tokens = _Tokens(checkpoint)
    if not tokens.token_id.size:
        return empty_table(TRAP_VOCABULARY)
    every = tokens.counts(np.ones(tokens.place.size, np.bool_))
    ends_of_stretches = checkpoint.cuts.kept, checkpoint.cuts.stretch_end
    inside = tokens.counts(tokens.inside(*(end[checkpoint.sample] for end in ends_of_stretches)))
    drawn = [_null(tokens, cuts) for (block, _), cuts in nulls.items() if block > 1]
    n, n_in = (_total(one.of_types) for one in (every, inside))
    everything, whole = every.of_all.sum(), inside.of_all.sum()
    prior = PRIOR * n / everything
    ends = [
        np.quantile(_log_odds(null.types, null.prompts.sum(axis=1)[:, None], n, everything, prior),
                    (0.05, 0.95), axis=0)
        for null in drawn
    ]  # fmt: skip
    effective = effective_clusters(every.of_types)
    enough = (effective >= FEWEST_CLUSTERS) & bool(whole)
    half, p = _half_widths_and_p(every, inside, drawn, prior, effective)
    log_odds = _log_odds(n_in, whole, n, everything, prior)
    lowest = np.min([low for low, _ in ends], axis=0)
    highest = np.max([high for _, high in ends], axis=0)
    p = np.where((lowest <= log_odds) & (log_odds <= highest), 1, p)
    p = np.where(enough, p, np.nan)
    adjusted = np.full(p.size, np.nan)
    adjusted[enough] = stats.false_discovery_control(p[enough]) if enough.any() else []
    few = np.where(enough, "", reasons.TOO_FEW)
    table = result_table(
        "trap_vocabulary",
        {
            "token_id": tokens.token_id,
            "n_in": n_in,
            "n_out": n - n_in,
            "n_prompts": np.bincount(every.of_types.tocoo().col, minlength=n.size),
            "log_odds": log_odds if whole else np.full(n.size, np.nan),
            "log_odds_low": np.where(enough, log_odds - half, np.nan),
            "log_odds_high": np.where(enough, log_odds + half, np.nan),
            "null_p05": lowest,
            "null_p95": highest,
            "p": p,
            "p_adjusted": adjusted,
            "reason": few if whole else np.full(n.size, NO_STRETCH),
        },
        checkpoint=checkpoint.name,
    )
    return _with_texts(table, vocabulary).sort(
        pl.col("p").fill_null(1), "token_id", maintain_order=True
    )


def _null(tokens: _Tokens, cuts: Cuts) -> _Null:
    """Count the tokens that stand in the stretches of shuffled KL."""
    types, prompts = [], []
    cells = tokens.by_cell(np.zeros(tokens.place.size, np.bool_))
    for first, end in zip(cuts.kept, cuts.stretch_end, strict=True):
        which = tokens.inside(first, end)
        by_cell = tokens.by_cell(which)
        types.append(tokens.by_type(by_cell))
        prompts.append(tokens.by_prompt(which))
        cells = cells + by_cell
    sums = np.array(prompts)
    return _Null(np.array(types), sums, _Counts(tokens.matrix(cells), sums.sum(axis=0)))


def _log_odds(
    n_in: Floats, whole: Floats | float, n: Floats, everything: float, prior: Floats
) -> Floats:
    """Compute the log-odds of types in stretches over those outside, shrunken. Shape (..., types).

    Args:
        n_in: Tokens of each type in the stretches.
        whole: All tokens in the stretches.
        n: Tokens of each type.
        everything: All tokens.
        prior: Tokens of each type that are added on both sides.
    """
    sides = []
    for x, m in ((n_in, whole), (n - n_in, everything - whole)):
        sides.append(np.log(x + prior) - np.log(m + PRIOR - x - prior))
    return np.asarray(sides[0] - sides[1])


def _half_widths_and_p(
    every: _Counts, inside: _Counts, drawn: list[_Null], prior: Floats, effective: Floats
) -> tuple[Floats, Floats]:
    """Return half the width of the interval of each type's log-odds, and its p. Shape (types,)."""
    prompts, types = every.of_types.shape
    half, p = np.full(types, np.nan), np.full(types, np.nan)
    step = max(1, MOST_CELLS // prompts)
    for first in range(0, types, step):
        part = slice(first, first + step)
        x, n = (one.of_types[:, part].toarray() for one in (inside, every))
        error = _standard_error(x, n, inside.of_all, every.of_all, prior[part])
        half[part] = stdtrit(np.maximum(effective[part] - 1, 1), 0.975) * error
        p[part] = np.max([_p(x, n, inside, every, null, part) for null in drawn], axis=0)
    return half, p


def _standard_error(
    x: Floats, n: Floats, whole: Floats, everything: Floats, prior: Floats
) -> Floats:
    """Linearise the log-odds in the sums over prompts; independent tokens are the floor.

    Args:
        x: Tokens in stretches, by prompt and type.
        n: All tokens, by prompt and type.
        whole: Tokens of any type in stretches, by prompt.
        everything: All tokens of any type, by prompt.
        prior: Tokens of each type that are added on both sides.
    """
    influence, floor = np.zeros(x.shape), np.zeros(prior.size)
    sides = ((1, x, whole), (-1, n - x, everything - whole))
    for sign, own, total in sides:
        others = total[:, None] - own
        own_sum = own.sum(axis=0) + prior
        others_sum = total.sum() + PRIOR - own_sum
        influence += sign * (own / own_sum - others / others_sum)
        floor += 1 / own_sum + 1 / others_sum
    influence -= influence.mean(axis=0)
    prompts = len(x)
    variance = np.square(influence).sum(axis=0) * prompts / max(prompts - 1, 1)
    return np.asarray(np.sqrt(np.maximum(variance, floor)))


def _p(x: Floats, n: Floats, inside: _Counts, every: _Counts, null: _Null, part: slice) -> Floats:
    """Test whether types stand in the stretches of their prompts as often as under the null.

    What a prompt's stretches should hold of a type is their tokens times the type's share of the
    tokens in the shuffled stretches of that prompt; a type that is bound to some prompts adds
    nothing there.
    """
    shuffled = null.mean.of_types[:, part].toarray()
    share = ratio(shuffled, null.mean.of_all[:, None])
    share = np.where(np.isfinite(share), share, n / every.of_all[:, None])
    excess = x - inside.of_all[:, None] * share
    total = excess.sum(axis=0)
    of_draws = null.types[:, part] - null.prompts @ share
    draws = len(of_draws)
    by_draws = np.sqrt(np.square(of_draws).sum(axis=0) * (1 + 1 / draws) / max(draws - 1, 1))
    by_prompts = np.sqrt(np.square(excess).sum(axis=0))
    below = [
        np.divide(-np.abs(total), error, out=np.zeros(total.size), where=error > 0)
        for error in (by_draws, by_prompts)
    ]
    # A total over its root of squares is what sign flips of whole prompts make of it: lighter in
    # its tails than a normal number where few prompts hold it.
    return np.asarray(2 * np.maximum(stdtr(max(draws - 1, 1), below[0]), ndtr(below[1])))


def _total(matrix: csr_array) -> Floats:
    return np.asarray(matrix.sum(axis=0), np.float64).ravel()


def _with_texts(table: pl.DataFrame, vocabulary: pl.DataFrame | None) -> pl.DataFrame:
    if vocabulary is None:
        return table
    ids = table.select("token_id")
    known = ids.join(vocabulary, on="token_id", how="left", maintain_order="left")
    return table.with_columns(text=known["text"], token_class=token_classes(known).cast(pl.String))
