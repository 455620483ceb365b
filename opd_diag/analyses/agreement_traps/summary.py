"""How often the rule fires, what it saves and what it would lose, beside shuffled KL."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint
from opd_diag.analyses.agreement_traps.groups import length_quarters, repeats
from opd_diag.analyses.agreement_traps.rule import Cuts, Flags, Floats, Numbers
from opd_diag.analyses.agreement_traps.shuffles import Shuffled
from opd_diag.analyses.groups import parts_of
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.reasons import NEEDS_SECOND
from opd_diag.analyses.tables import interval_columns, result_table, spread
from opd_diag.tables.columns.agreement_traps import LOW

LOST = ("grad_logits", "gain_reverse_kl", "gain_forward_kl")

NO_TOTAL = "the interval of the total is not above 0, so it has no shares"
CRUDE = "crude, between prompts too; see trap_outcomes for the comparison within prompts"
NO_RATIO = "the interval of the shuffled is not above 0"


class Measure(NamedTuple):
    """A ratio over rollouts: its terms as observed, and under shuffled KL on the control.

    Attributes:
        name: Name of the measure.
        group: Which rollouts.
        unit: Unit of the ratio.
        x: Numerator. Shape (rollouts,).
        m: Denominator. Shape (rollouts,).
        control: Both where KL is shuffled, mean over the draws, each of shape (control,); None:
            shuffling says nothing about it.
        note: What a reader has to know.
    """

    name: str
    group: str
    unit: str
    x: Floats
    m: Floats
    control: tuple[Floats, Floats] | None = None
    note: str | None = None


def trap_summary(checkpoint: Checkpoint, shuffled: Shuffled) -> pl.DataFrame:
    """Estimate every measure, and beside it the same where KL is shuffled.

    Args:
        checkpoint: The checkpoint under the rule.
        shuffled: The same rule where KL is shuffled, on the rollouts of the control.

    Returns:
        The table `trap_summary`.
    """
    measures = [
        *_thresholds(checkpoint),
        *_of_cuts(checkpoint, shuffled),
        *_lost(checkpoint, shuffled),
        *_outcomes(checkpoint, shuffled),
        _share("too_short", "all", np.isnan(checkpoint.least), np.ones(checkpoint.least.size)),
    ]
    x, m = (np.stack([getattr(one, side) for one in measures], axis=1) for side in ("x", "m"))
    prompts = Prompts(checkpoint.prompt, seed=checkpoint.options.seed)
    value = prompts.ratio(prompts.sums(x), prompts.sums(m))
    return result_table(
        "trap_summary",
        {
            "measure": [one.name for one in measures],
            "group": [one.group for one in measures],
            "unit": [one.unit for one in measures],
            "n": (m > 0).sum(axis=0),
            "n_prompts": value.clusters,
            **interval_columns("value", value),
            **_against_shuffled(checkpoint, measures),
            "note": [one.note for one in measures],
            "reason": value.reason,
        },
        checkpoint=checkpoint.name,
    )


def _against_shuffled(checkpoint: Checkpoint, measures: Sequence[Measure]) -> dict[str, Any]:
    """Compare the observed with the shuffled, on the rollouts of the control."""
    compared = [i for i, one in enumerate(measures) if one.control is not None]
    controls = [one.control for one in measures if one.control is not None]
    sample = checkpoint.sample
    prompts = Prompts(checkpoint.prompt[sample], seed=checkpoint.options.seed)
    x, m = (
        prompts.sums(np.stack([getattr(measures[i], side)[sample] for i in compared], axis=1))
        for side in ("x", "m")
    )
    x0, m0 = (prompts.sums(np.stack([c[side] for c in controls], axis=1)) for side in (0, 1))
    null, quotient = prompts.ratio(x0, m0), prompts.quotient(x, m, x0, m0)
    of_nothing = null.low <= 0  # a share of a sum with both signs can be 0 or below
    ratio = {
        name: np.where(of_nothing, np.nan, end)
        for name, end in interval_columns("ratio", quotient).items()
    }
    numbers = {
        "n_control": np.full(len(compared), sample.size),
        **interval_columns("observed", prompts.ratio(x, m)),
        **interval_columns("shuffled", null),
        **ratio,
    }
    reason = np.full(len(measures), "", object)
    reason[compared] = np.where(of_nothing, NO_RATIO, quotient.reason)
    return {
        **{
            name: spread(values, np.array(compared), len(measures))
            for name, values in numbers.items()
        },
        "ratio_reason": [text or None for text in reason],
    }


def _thresholds(checkpoint: Checkpoint) -> list[Measure]:
    """Write the threshold, and beside it the KL of a token."""
    eligible = checkpoint.eligible.astype(np.float64)
    threshold = np.where(checkpoint.eligible, checkpoint.threshold, 0)
    kl = checkpoint.quantities["reverse_kl"].sums.sum(axis=1) * eligible
    tokens = checkpoint.lengths * eligible
    note = None
    if tokens.sum() and threshold.sum() > LOW * kl.sum() / tokens.sum() * eligible.sum():
        note = "more than half of the mean KL: a window below it is not low"
    return [
        Measure("threshold", "all", "nat", threshold, eligible, note=note),
        Measure("mean_kl", "all", "nat", kl, tokens, note="of the tokens of the same rollouts"),
    ]


def _of_cuts(checkpoint: Checkpoint, shuffled: Shuffled) -> list[Measure]:
    """Write the measures that follow from the cuts and KL alone."""
    eligible = checkpoint.eligible.astype(np.float64)
    lengths = checkpoint.lengths
    kl = checkpoint.quantities["reverse_kl"].sums
    kept, after = kl[:, 0], kl[:, 1] + kl[:, 2]
    real = _terms(checkpoint.cuts, lengths) | _kl_terms(kept, after, checkpoint.cuts.kept)
    null = {
        name: (x.mean(axis=0), m.mean(axis=0))
        for name, (x, m) in _terms(shuffled.cuts, checkpoint.sample_lengths).items()
    }
    null |= _kl_terms(*_both_sides(shuffled, "reverse_kl"), shuffled.cuts.kept.mean(axis=0))

    def measure(name: str, unit: str, note: str | None = None) -> Measure:
        x, m = (part * eligible for part in real[name])
        return Measure(name, "all", unit, x, m, null[name], note)

    prevalence = [measure("prevalence", "share", _built_in(checkpoint))]
    for quarter in length_quarters(checkpoint):
        here, there = quarter.members, quarter.members[checkpoint.sample]
        prevalence.append(
            _part_of(prevalence[0], quarter.name, here, there)._replace(
                note="a longer rollout has more windows and so more chances"
            )
        )
    saved = measure("tokens_saved", "share")
    kl_after = measure("kl_after_cut", "share", "low by construction")
    whole = prevalence[0]._replace(note=None)
    by_group = [
        _part_of(one, title, here, here[checkpoint.sample])
        for parts in parts_of(checkpoint.rollouts)
        for title, here in zip(parts.titles, parts.members().T, strict=True)
        for one in (whole, saved, kl_after)
    ]
    return [
        *prevalence,
        measure("onset", "share"),
        measure("onset_tokens", "tokens"),
        measure("nothing_kept", "share", "the cut is the first token"),
        saved,
        measure("stretch_tokens", "tokens"),
        measure(
            "windows_below_after",
            "share",
            "windows after the rule fired that stay below; a ratio under 1 comes from clumps of KL",
        ),
        measure("longest_run", "windows", "longest run below the threshold, 0 where there is none"),
        measure("kl_per_token_kept", "nat", "a cut at low KL raises it by construction"),
        kl_after,
        *by_group,
    ]


def _part_of(one: Measure, group: str, here: Flags, there: Flags) -> Measure:
    """Take a measure on some of the rollouts, `there` among those of the control."""
    assert one.control is not None
    x0, m0 = one.control
    return one._replace(
        group=group, x=one.x * here, m=one.m * here, control=(x0 * there, m0 * there)
    )


def _terms(cuts: Cuts, lengths: Numbers) -> dict[str, tuple[Floats, Floats]]:
    """Write numerator and denominator of each measure; shapes (..., rollouts)."""
    fired = cuts.triggered.astype(np.float64)
    one = np.ones_like(fired)
    saved = lengths - cuts.kept
    total = np.maximum(lengths * one, 1)
    return {
        "prevalence": (fired, one),
        "onset": (fired * cuts.kept / total, fired),
        "onset_tokens": (fired * cuts.kept, fired),
        "nothing_kept": (fired * (cuts.kept == 0), fired),
        "tokens_saved": (saved * one, lengths * one),
        "stretch_tokens": (fired * (cuts.stretch_end - cuts.kept), fired),
        "windows_below_after": (cuts.below_after * one, cuts.windows_after * one),
        "longest_run": (cuts.longest_run * one, one),
    }


def _kl_terms(kept: Floats, after: Floats, tokens: Numbers) -> dict[str, tuple[Floats, Floats]]:
    return {
        "kl_per_token_kept": (kept, tokens.astype(np.float64)),
        "kl_after_cut": (after, kept + after),
    }


def _both_sides(shuffled: Shuffled, quantity: str) -> tuple[Floats, Floats]:
    """Sum a quantity before and after the shuffled cuts; shapes (rollouts,)."""
    pre, agreement, post, untriggered = shuffled.phases[quantity][0].T
    return pre + untriggered, agreement + post


def _lost(checkpoint: Checkpoint, shuffled: Shuffled) -> list[Measure]:
    """Write the share of the signals that falls after the cut."""
    eligible = checkpoint.eligible.astype(np.float64)
    signals = [name for name in LOST if name in checkpoint.quantities]
    totals = np.stack(
        [checkpoint.quantities[name].sums.sum(axis=1) * eligible for name in signals], 1
    )
    prompts = Prompts(checkpoint.prompt, seed=checkpoint.options.seed)
    mean = prompts.ratio(prompts.sums(totals), prompts.sums(eligible[:, None]))
    measures = []
    for name in LOST:
        empty = Measure(f"{name}_after_cut", "all", "share", 0 * eligible, 0 * eligible)
        if name not in signals:
            measures.append(empty._replace(note=NEEDS_SECOND))
            continue
        i = signals.index(name)
        if not mean.low[i] > 0:
            measures.append(empty._replace(note=NO_TOTAL))
            continue
        total = totals[:, i]
        control = _both_sides(shuffled, name)[1], total[checkpoint.sample]
        x = total - checkpoint.quantities[name].sums[:, 0] * eligible
        measures.append(empty._replace(x=x, m=total, control=control))
    return measures


def _outcomes(checkpoint: Checkpoint, shuffled: Shuffled) -> list[Measure]:
    """Write how many rollouts are correct and how many repeat themselves, by whether it fired."""
    correct = checkpoint.rollouts["correct"]
    known = correct.is_not_null().to_numpy()
    right = correct.fill_null(False).to_numpy()
    again = repeats(checkpoint)
    fired = checkpoint.fired
    rest = ~checkpoint.cuts.triggered & checkpoint.eligible
    chance = shuffled.cuts.triggered.mean(axis=0)
    measures = []
    for name, flag, base in (
        ("correct", right, known),
        ("repeats", again, np.ones(again.size, np.bool_)),
        ("wrong_and_repeats", again & ~right, known),
    ):
        control = (chance * (flag & base)[checkpoint.sample], chance * base[checkpoint.sample])
        measures += [
            _share(name, "triggered", flag & base & fired, base & fired)._replace(
                control=control, note=CRUDE
            ),
            _share(name, "untriggered", flag & base & rest, base & rest)._replace(note=CRUDE),
        ]
    return measures


def _share(name: str, group: str, x: npt.ArrayLike, m: npt.ArrayLike) -> Measure:
    return Measure(name, group, "share", np.asarray(x, float), np.asarray(m, float))


def _built_in(checkpoint: Checkpoint) -> str:
    options = checkpoint.options
    if isinstance(options.threshold, float):
        return "follows from the threshold given: a setting, no finding"
    share = f"{1 - options.rule.eta:.0%} of the minima lie below the threshold by construction"
    if options.threshold is None:
        return f"about {share}: a setting, no finding"
    return f"at {options.threshold!r}, whose threshold this is, about {share}"
