"""Groups of rollouts that are looked at together."""

from typing import NamedTuple

import numpy as np

from opd_diag.analyses.agreement_traps.rule import Flags
from opd_diag.analyses.agreement_traps.study import Study


class Group(NamedTuple):
    """Rollouts on which the rule could fire, with something in common."""

    split: str
    name: str
    members: Flags


def groups(study: Study) -> list[Group]:
    """List the groups: all, by outcome, by how they ended, by whether they repeat themselves."""
    correct = study.rollouts["correct"]
    outcome = np.select(
        [correct.is_null().to_numpy(), correct.fill_null(False).to_numpy()],
        ["unknown", "correct"],
        "wrong",
    )
    finish = study.rollouts["finish_reason"].fill_null("unknown")
    splits = {
        "all": np.full(outcome.size, "all"),
        "correct": outcome,
        "finish_reason": finish.to_numpy().astype(str),
        "repeat": np.where(repeats(study), "repeats", "no repeats"),
    }
    return [
        Group(split, str(name), (values == name) & study.eligible)
        for split, values in splits.items()
        for name in np.unique(values[study.eligible])
    ]


def repeats(study: Study) -> Flags:
    """Tell of each rollout whether a long n-gram occurs in it twice. Shape (rollouts,)."""
    return np.asarray(study.quantities["in_repeat"].sums.sum(axis=1) > 0)


def length_quarters(study: Study) -> list[Group]:
    """Cut the rollouts into four by their number of tokens; equal lengths stay together."""
    lengths = study.tokens.lengths
    if not study.eligible.any():
        return []
    edges = np.quantile(lengths[study.eligible], [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, lengths, side="left")
    found = []
    for i in range(4):
        members = (quarter == i) & study.eligible
        if members.any():
            low, high = lengths[members].min(), lengths[members].max()
            found.append(Group("length", f"quarter {i + 1}: {low}-{high} tokens", members))
    return found
