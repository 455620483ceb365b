"""One row per rollout: whether the rule fired, where, and what stands on both sides of the cut."""

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.agreement_traps.estimates import filled, nulls
from opd_diag.analyses.agreement_traps.groups import repeats
from opd_diag.analyses.agreement_traps.phases import PHASES, phase_sizes
from opd_diag.analyses.agreement_traps.rule import Integers
from opd_diag.analyses.agreement_traps.study import Study

TOO_SHORT = "too short"
WARM_UP = "warm-up"
TOO_FEW = "too few others"

MEANS = (
    ("kl", "reverse_kl", (0, 1, 2)),
    ("grad_logits", "grad_logits", (0, 1, 2)),
    ("teacher_entropy", "teacher_entropy", (1,)),
    ("teacher_top_prob", "teacher_top_prob", (1,)),
    ("in_repeat", "in_repeat", (1,)),
)


def per_rollout(study: Study) -> pl.DataFrame:
    """Write one row per rollout, those on which the rule could not fire with their reason.

    Returns:
        Rows of `AGREEMENT_TRAPS` without `checkpoint`.
    """
    cuts, able, tokens = study.cuts, study.eligible, study.tokens
    fired = cuts.triggered & able
    lengths = tokens.lengths
    phases = phase_sizes(cuts, lengths)
    late = WARM_UP if study.options.mode == "replay" else TOO_FEW
    measured = lengths >= study.options.rule.window
    means = {
        f"{name}_{PHASES[phase]}": _mean(study, quantity, phase, fired)
        for name, quantity, places in MEANS
        for phase in places
    }
    return study.rollouts.select("rollout", "prompt_id", "step", "correct", "finish_reason").hstack(
        pl.DataFrame(
            {
                "n_tokens": lengths,
                "n_missing": tokens.missing,
                "least_kl": nulls(study.least),
                "threshold": nulls(np.where(measured, study.threshold, np.nan)),
                "n_others": study.others,
                "triggered": filled(able, cuts.triggered),
                "trigger_token": _position(study, cuts.trigger, fired),
                "cut_token": _position(study, cuts.kept, fired),
                "cut_frac": nulls(np.where(fired, cuts.kept / np.maximum(lengths, 1), np.nan)),
                "n_pre": filled(able, phases[:, 0]),
                "n_agreement": filled(able, phases[:, 1]),
                "n_post": filled(able, phases[:, 2]),
                "tokens_saved": filled(able, lengths - cuts.kept),
                "windows_after": filled(fired, cuts.windows_after),
                "below_after": filled(fired, cuts.below_after),
                "longest_run": filled(able, cuts.longest_run),
                "repeats": repeats(study),
                **means,
                "reason": np.select([~measured, ~able], [TOO_SHORT, late], "").tolist(),
            },
            strict=False,
        ).with_columns(pl.col("reason").replace("", None))
    )


def _mean(study: Study, quantity: str, phase: int, fired: npt.NDArray[np.bool_]) -> list[float]:
    """Average a quantity over a phase; pre is the whole rollout where the rule did not fire."""
    sums, counts = (side[:, phase] for side in study.quantities[quantity][:2])
    known = (counts > 0) & (fired | (study.eligible & (phase == 0)))
    return nulls(np.divide(sums, counts, out=np.full(sums.size, np.nan), where=known))


def _position(study: Study, place: Integers, fired: npt.NDArray[np.bool_]) -> list[int | None]:
    """Turn places among the counted tokens into positions of the response."""
    starts = np.cumsum(study.tokens.lengths) - study.tokens.lengths
    position = np.zeros(place.size, np.int64)
    position[fired] = study.tokens.position[(starts + place)[fired]]
    return filled(fired, position)
