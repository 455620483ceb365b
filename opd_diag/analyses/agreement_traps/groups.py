"""Groups of rollouts that are looked at together."""

from typing import NamedTuple

import numpy as np

from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint
from opd_diag.analyses.agreement_traps.rule import Flags


class Group(NamedTuple):
    """Rollouts on which the rule could fire, with something in common."""

    split: str
    name: str
    members: Flags


def groups(checkpoint: Checkpoint) -> list[Group]:
    """List the groups: all, by outcome, by how they ended, by whether they repeat themselves."""
    correct = checkpoint.rollouts["correct"]
    outcome = np.select(
        [correct.is_null().to_numpy(), correct.fill_null(False).to_numpy()],
        ["unknown", "correct"],
        "wrong",
    )
    finish = checkpoint.rollouts["finish_reason"].fill_null("unknown")
    splits = {
        "all": np.full(outcome.size, "all"),
        "correct": outcome,
        "finish_reason": finish.to_numpy().astype(str),
        "repeat": np.where(repeats(checkpoint), "repeats", "no repeats"),
    }
    return [
        Group(split, str(name), (values == name) & checkpoint.eligible)
        for split, values in splits.items()
        for name in np.unique(values[checkpoint.eligible])
    ]


def repeats(checkpoint: Checkpoint) -> Flags:
    """Tell of each rollout whether a long n-gram occurs in it twice. Shape (rollouts,)."""
    return np.asarray(checkpoint.quantities["in_repeat"].sums.sum(axis=1) > 0)


def length_quarters(checkpoint: Checkpoint) -> list[Group]:
    """Cut the rollouts into four by their number of tokens; equal lengths stay together."""
    lengths = checkpoint.lengths
    if not checkpoint.eligible.any():
        return []
    edges = np.quantile(lengths[checkpoint.eligible], [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, lengths, side="left")
    quarters = []
    for i in range(4):
        members = (quarter == i) & checkpoint.eligible
        if members.any():
            low, high = lengths[members].min(), lengths[members].max()
            quarters.append(Group("length", f"quarter {i + 1}: {low}-{high} tokens", members))
    return quarters
