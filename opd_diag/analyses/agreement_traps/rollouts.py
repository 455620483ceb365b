"""One row per rollout: whether the rule fired, where, and what stands on both sides of the cut."""

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint
from opd_diag.analyses.agreement_traps.groups import repeats
from opd_diag.analyses.agreement_traps.rule import PHASES, Floats, phase_sizes
from opd_diag.analyses.tables import ratio, result_table
from opd_diag.stats.ragged import starts_of

TOO_SHORT = "too short"
WARM_UP = "warm-up"
TOO_FEW = "too few others"

FACTS = ("rollout", "prompt_id", "step", "correct", "finish_reason")
MEANS = (
    ("kl", "reverse_kl", (0, 1, 2)),
    ("grad_logits", "grad_logits", (0, 1, 2)),
    ("teacher_entropy", "teacher_entropy", (1,)),
    ("teacher_top_prob", "teacher_top_prob", (1,)),
    ("in_repeat", "in_repeat", (1,)),
)


def per_rollout(checkpoint: Checkpoint) -> pl.DataFrame:
    """Write one row per rollout, those on which the rule could not fire with their reason.

    Returns:
        The table `agreement_traps`.
    """
    cuts, lengths = checkpoint.cuts, checkpoint.lengths
    able, fired = checkpoint.eligible, checkpoint.fired
    phases = phase_sizes(cuts, lengths)
    late = WARM_UP if checkpoint.options.mode == "replay" else TOO_FEW
    measured = np.isfinite(checkpoint.least)

    def where(known: np.ndarray, values: np.ndarray) -> Floats:
        return np.where(known, values, np.nan)

    def position(place: np.ndarray) -> Floats:
        """Turn places among the tokens that count into positions of the response."""
        positions = np.full(place.size, np.nan)
        positions[fired] = checkpoint.position[(starts_of(lengths) + place)[fired]]
        return positions

    return result_table(
        "agreement_traps",
        {
            **{name: checkpoint.rollouts[name] for name in FACTS},
            "n_tokens": lengths,
            "n_missing": checkpoint.missing,
            "least_kl": checkpoint.least,
            "threshold": where(measured, checkpoint.threshold),
            "n_others": checkpoint.others,
            "triggered": pl.Series(cuts.triggered).set(pl.Series(~able), None),
            "trigger_token": position(cuts.trigger),
            "cut_token": position(cuts.kept),
            "stretch_end_token": position(cuts.stretch_end - 1),
            "cut_frac": where(fired, ratio(cuts.kept, lengths)),
            "n_pre": where(able, phases[:, 0]),
            "n_agreement": where(able, phases[:, 1]),
            "n_post": where(able, phases[:, 2]),
            "tokens_saved": where(able, lengths - cuts.kept),
            "windows_after": where(fired, cuts.windows_after),
            "below_after": where(fired, cuts.below_after),
            "longest_run": where(able, cuts.longest_run),
            "repeats": repeats(checkpoint),
            **{
                f"{name}_{PHASES[phase]}": _mean(checkpoint, quantity, phase)
                for name, quantity, phases_wanted in MEANS
                for phase in phases_wanted
            },
            "reason": np.select([~measured, ~able], [TOO_SHORT, late], ""),
        },
        checkpoint=checkpoint.name,
    )


def _mean(checkpoint: Checkpoint, quantity: str, phase: int) -> Floats:
    """Average a quantity over a phase; pre is the whole rollout where the rule did not fire."""
    sums, counts = (side[:, phase] for side in checkpoint.quantities[quantity][:2])
    known = checkpoint.fired | (checkpoint.eligible & (phase == 0))
    return np.where(known, ratio(sums, counts), np.nan)
