"""The phases of a rollout: before the low-KL stretch, inside it, after it."""

from typing import TypeAlias

import numpy as np

from opd_diag.analyses.agreement_traps.rule import Cuts, Flags, Floats, Integers, Numbers

PHASES = ("pre", "agreement", "post", "untriggered")

# Sum of a quantity, and the tokens that it is a sum over.
Sums: TypeAlias = tuple[Floats, Floats]


def phase_sizes(cuts: Cuts, lengths: Integers) -> Integers:
    """Count the tokens of pre, agreement and post; all are pre where the rule did not fire.

    Returns:
        Shape (rollouts, 3).
    """
    return np.stack([cuts.kept, cuts.stretch_end - cuts.kept, lengths - cuts.stretch_end], axis=1)


def by_phase(values: Numbers, fired: Flags) -> Floats:
    """Part pre, agreement and post from rollouts on which the rule never fired.

    Args:
        values: Shape (rollouts, 3).
        fired: Shape (rollouts,).

    Returns:
        One column for each of `PHASES`. Shape (rollouts, 4).
    """
    inside = values * fired[:, None]
    return np.column_stack([inside, values[:, 0] * ~fired]).astype(np.float64)
