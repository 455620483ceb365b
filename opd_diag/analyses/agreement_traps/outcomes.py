"""Are rollouts on which the rule fires wrong more often than others of the same prompt?"""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint
from opd_diag.analyses.agreement_traps.rule import Flags, Integers
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.reasons import NO_OUTCOME
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.stats.p_values import stratified_p, weighted_shares
from opd_diag.stats.ragged import run_starts
from opd_diag.tables.columns.agreement_traps import AT_TRIGGER, CRUDE, LANDMARK, WITHIN

LANDMARKS = (0.25, 0.5, 0.75)  # quantiles of the lengths

NOT_ABLE = "the rule could fire on no rollout that says whether it is correct"
ONE_KIND = "no prompt has rollouts of both kinds"


class _Strata(NamedTuple):
    """Rollouts that are compared with each other; every field has shape (strata,).

    Attributes:
        prompt: Their prompt.
        size: How many they are.
        fired: On how many of them the rule has fired.
        wrong: How many of them are wrong.
        both: How many are both.
    """

    prompt: Integers
    size: Integers
    fired: Integers
    wrong: Integers
    both: Integers


def trap_outcomes(checkpoint: Checkpoint) -> pl.DataFrame:
    """Compare the share wrong of rollouts on which the rule fires with that of others.

    Prompts differ in how often answers are wrong and in how low KL gets, so the crude difference
    is no effect of the rule. Within a prompt a longer rollout has more chances to fire, and may be
    wrong more often for its length. So rollouts are compared at landmarks too, those that fired
    before with the rest of those that run for so many tokens; and at the token of every trigger,
    the rollout that fires there with those of its prompt that run and have not fired.

    Args:
        checkpoint: The checkpoint under the rule.

    Returns:
        The table `trap_outcomes`.
    """
    correct = checkpoint.rollouts["correct"]
    known = checkpoint.eligible & correct.is_not_null().to_numpy()
    wrong = ~correct.fill_null(True).to_numpy()[known]
    lengths, fired = checkpoint.lengths[known], checkpoint.fired[known]
    trigger = np.where(fired, checkpoint.cuts.trigger[known], lengths)
    prompts = Prompts(checkpoint.prompt[known], seed=checkpoint.options.seed)
    code, everyone = prompts.code, np.ones(fired.size, np.bool_)
    quantiles = np.quantile(lengths, LANDMARKS) if lengths.size else np.zeros(0)
    landmarks = np.unique(quantiles.astype(np.int64)).tolist()
    within = [
        (WITHIN, None, everyone, fired, _same_prompt(code, fired, wrong, everyone)),
        *(
            (
                LANDMARK,
                at,
                lengths >= at,
                trigger < at,
                _same_prompt(code, trigger < at, wrong, lengths >= at),
            )
            for at in landmarks
        ),
        (AT_TRIGGER, None, everyone, fired, _at_triggers(code, trigger, fired, wrong)),
    ]
    crude = [prompts.sums(part) for part in (fired & wrong, fired, ~fired & wrong, ~fired)]
    sums = [crude, *(_weighted(strata, prompts.count) for *_, strata in within)]
    x, m, x0, m0 = np.stack(sums, axis=2)
    difference = prompts.difference(x, m, x0, m0)
    p = [stratified_p(*strata[1:]) if strata.size.size else np.nan for *_, strata in within]
    nothing = NOT_ABLE if correct.is_not_null().any() else NO_OUTCOME
    nothing = ONE_KIND if fired.size else nothing
    return result_table(
        "trap_outcomes",
        {
            "comparison": [CRUDE, *(name for name, *_ in within)],
            "at_token": [None, *(at for _, at, *_ in within)],
            "n": [fired.size, *(int(some.sum()) for _, _, some, *_ in within)],
            "n_fired": [int(fired.sum()), *(int((f & some).sum()) for _, _, some, f, _ in within)],
            "n_prompts": difference.clusters,
            **interval_columns("wrong_fired", prompts.ratio(x, m), share=True),
            **interval_columns("wrong_others", prompts.ratio(x0, m0), share=True),
            **interval_columns("difference", difference),
            "p": [np.nan, *p],
            "reason": np.where(difference.clusters > 0, difference.reason, nothing),
        },
        checkpoint=checkpoint.name,
    )


def _same_prompt(code: Integers, fired: Flags, wrong: Flags, some: Flags) -> _Strata:
    """Count those of each prompt that have fired, are wrong, or both, among some rollouts."""
    counts = [np.bincount(code[some & flag]) for flag in (some, fired, wrong, fired & wrong)]
    full = np.zeros((len(counts), int(code.max(initial=-1)) + 1), np.int64)
    for row, count in zip(full, counts, strict=True):
        row[: count.size] = count
    mixed = (full[1] > 0) & (full[1] < full[0])
    return _Strata(np.flatnonzero(mixed), *full[:, mixed])


def _at_triggers(code: Integers, trigger: Integers, fired: Flags, wrong: Flags) -> _Strata:
    """Count, at the token of every trigger, the rollouts of the prompt that could have fired there.

    Args:
        code: Prompt of each rollout, from 0. Shape (rollouts,).
        trigger: The token at which the rule fired; the number of its tokens where it did not.
        fired: Whether it did.
        wrong: Whether the answer is wrong.
    """
    last = np.where(fired, trigger, trigger - 1)  # the last token at which it could have fired
    order = np.lexsort((last, code))
    prompt, event, failed = code[order], fired[order], wrong[order]
    starts = run_starts(prompt, last[order])
    ends = np.append(run_starts(prompt), prompt.size)
    end = ends[np.searchsorted(ends, starts, side="right")]
    before = np.concatenate([[0], np.cumsum(failed)])
    strata = _Strata(
        prompt[starts],
        end - starts,
        np.add.reduceat(event, starts, dtype=np.int64) if starts.size else starts,
        before[end] - before[starts],
        np.add.reduceat(event & failed, starts, dtype=np.int64) if starts.size else starts,
    )
    told = (strata.fired > 0) & (strata.fired < strata.size)
    return _Strata(*(field[told] for field in strata))


def _weighted(strata: _Strata, prompts: int) -> list[Any]:
    """Sum weighted shares and weights over the strata of each prompt: x, m, x0, m0."""
    fired, others, weight = (
        np.bincount(strata.prompt, part, prompts) for part in weighted_shares(*strata[1:])
    )
    return [fired, weight, others, weight]
