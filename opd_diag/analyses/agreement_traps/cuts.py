"""What the cut keeps, against other ways to keep as many tokens."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint, RunningSums
from opd_diag.analyses.agreement_traps.rule import Cuts, Integers, Numbers, Rule, Sums
from opd_diag.analyses.agreement_traps.same_tokens import (
    of_neighbours,
    random_windows,
    rescaled,
    same_number,
    same_share,
)
from opd_diag.analyses.agreement_traps.shuffles import Shuffled
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.reasons import NEEDS_SECOND, NO_OUTCOME
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.stats.ragged import ranges, sequence_sums, starts_of
from opd_diag.tables.source import Source, finished_result

ETAS = (0.1, 0.3, 0.5, 0.7, 0.9)
GAINS = ("gain_reverse_kl", "gain_forward_kl")
SIGNALS = ("reverse_kl", "grad_logits", *GAINS, "grad_logits_other", "correct")
UNITS = {"correct": "share", "reverse_kl": "nat", **dict.fromkeys(GAINS, "nat")}

NO_RELEASE = "no release points of this run: run `analyze release-points` first"


class Keeping(NamedTuple):
    """The window that a rule keeps of each rollout, in one or more draws.

    Attributes:
        start: First token kept. Shape (draws, rollouts).
        stop: End of what is kept, exclusive. Shape (draws, rollouts).
    """

    start: Integers
    stop: Integers


class Comparison(NamedTuple):
    """The cut against one other rule: sum of a signal and tokens, each of shape (rollouts,).

    `missing` says why there is no comparison, "" where there is one.
    """

    facts: dict[str, Any]
    missing: str
    cut: Sums
    other: Sums
    whole: Sums


def cut_rules(checkpoint: Checkpoint) -> list[Rule]:
    """List the rules of the comparison: the one asked for, and others of its kind by eta."""
    rule = checkpoint.options.rule
    if isinstance(checkpoint.options.threshold, float):
        return [rule]
    return [rule._replace(eta=eta) for eta in sorted({*ETAS, rule.eta})]


def tokens_before_release(source: Source, checkpoint: Checkpoint) -> Integers | None:
    """Count the tokens before the release point of each rollout of the control.

    Returns:
        Shape (control,); None where the run has no fresh release points of the checkpoint.
    """
    table = finished_result(source, "release_points")
    if table is None:
        return None
    points = table.filter(checkpoint=checkpoint.name).select("rollout", "release_token")
    if points.is_empty():
        return None
    wanted = checkpoint.rollouts.select("rollout")[checkpoint.sample]
    joined = wanted.join(points, on="rollout", how="left", maintain_order="left")
    end = joined["release_token"].fill_null(np.iinfo(np.uint32).max).to_numpy()
    lengths = checkpoint.sample_lengths
    starts = starts_of(checkpoint.lengths)[checkpoint.sample]
    position = checkpoint.position[ranges(starts, lengths)]
    before, _ = sequence_sums((position < np.repeat(end, lengths)).astype(np.float32), lengths)
    return before.astype(np.int64)


def trap_cuts(
    checkpoint: Checkpoint,
    observed: Mapping[Rule, Cuts],
    shuffled: Mapping[Rule, Shuffled],
    released: Integers | None,
) -> pl.DataFrame:
    """Compare the signal per token that the cut keeps with that of other ways to keep as many.

    Args:
        checkpoint: The checkpoint under the rule.
        observed: Cuts of each rule on the rollouts of the control.
        shuffled: The same where KL is shuffled.
        released: Tokens before the release point of each of them; None: not known.

    Returns:
        The table `trap_cuts`.
    """
    prompts = Prompts(checkpoint.prompt[checkpoint.sample], seed=checkpoint.options.seed)
    comparisons = [
        one
        for rule, cuts in observed.items()
        for one in _comparisons(checkpoint, rule, cuts, shuffled[rule], released)
    ]
    sums = [np.stack([*one.cut, *one.other, *one.whole]) for one in comparisons]
    x, m, x0, m0, x1, m1 = (prompts.sums(side.T) for side in np.stack(sums, axis=1))
    difference = prompts.difference(x, m, x0, m0)
    missing = np.array([one.missing for one in comparisons], np.str_)
    compared = {
        **interval_columns("rule_kept", prompts.ratio(x0, m0)),
        **interval_columns("difference", difference),
    }
    return result_table(
        "trap_cuts",
        {
            **{name: [one.facts[name] for one in comparisons] for name in comparisons[0].facts},
            "n_prompts": difference.clusters,
            **interval_columns("kept", prompts.ratio(x, m)),
            **{name: np.where(missing == "", end, np.nan) for name, end in compared.items()},
            **interval_columns("all_tokens", prompts.ratio(x1, m1)),
            "reason": np.where(missing == "", difference.reason, missing),
        },
        checkpoint=checkpoint.name,
        n=checkpoint.sample.size,
    )


def _comparisons(
    checkpoint: Checkpoint, rule: Rule, cuts: Cuts, shuffled: Shuffled, released: Integers | None
) -> Iterator[Comparison]:
    """Hold every other rule to the tokens that the cut keeps in all."""
    lengths, ends = checkpoint.sample_lengths, (checkpoint.names[0], checkpoint.names[-1])
    cut, whole = _prefixes(cuts.kept), _prefixes(lengths)
    others = _others(checkpoint, cuts.kept, released)
    none = np.zeros(lengths.size), np.zeros(lengths.size)
    free = {"shuffled KL": shuffled.cuts.kept.mean(axis=0), "release points": released}
    placing = {"reverse_kl", "grad_logits", *(GAINS if checkpoint.name in ends else ())}
    for signal, (running, missing) in _signals(checkpoint).items():
        kept, everything = _sums(running, cut), _sums(running, whole)
        for name, keeping in {"shuffled KL": None, **others}.items():
            drawn = name == "shuffled KL"
            own = free.get(name)
            facts = {
                "eta": None if isinstance(checkpoint.options.threshold, float) else rule.eta,
                "is_setting": rule == checkpoint.options.rule,
                "rule": name,
                "signal": signal,
                "unit": UNITS.get(signal, "nat/logit"),
                "used_to_place": signal in placing,
                "draws": checkpoint.options.draws if drawn else len(keeping.stop) if keeping else 0,
                "tokens_kept": _share(cuts.kept, lengths),
                "rule_tokens_kept": None if own is None else _share(own, lengths),
            }
            if drawn:
                other = shuffled.kept.get(signal, none)
            else:
                other = _sums(running, keeping) if keeping else none
            reason = missing if drawn or keeping else NO_RELEASE
            yield Comparison(facts, reason, kept, other, everything)


def _others(
    checkpoint: Checkpoint, kept: Integers, released: Integers | None
) -> dict[str, Keeping | None]:
    """List what the other rules keep; None where it is not known."""
    lengths, total, draws = checkpoint.sample_lengths, int(kept.sum()), checkpoint.options.draws
    rng = np.random.default_rng(checkpoint.options.seed)
    lent = [rescaled(of_neighbours(kept, lengths, rng), lengths, total) for _ in range(draws)]
    windows = [random_windows(kept, lengths, rng) for _ in range(draws)]
    starts, stops = (np.stack(side) for side in zip(*windows, strict=True))
    known = None if released is None else _prefixes(rescaled(released, lengths, total))
    return {
        "random cuts": _prefixes(np.stack(lent)),
        "prefix, same tokens": _prefixes(same_number(lengths, total)),
        "prefix, same share": _prefixes(same_share(lengths, total)),
        "random windows": Keeping(starts, stops),
        "release points": known,
    }


def _signals(checkpoint: Checkpoint) -> dict[str, tuple[RunningSums, str]]:
    """Give the running sums of each signal over the control's tokens, and why it is missing."""
    lengths = checkpoint.sample_lengths
    absent = np.full(int(lengths.sum()), np.nan)
    signals: dict[str, tuple[RunningSums, str]] = {}
    for name in SIGNALS:
        if name in checkpoint.quantities:
            values = checkpoint.quantities[name].sample
            missing = NO_OUTCOME if name == "correct" and np.isnan(values).all() else ""
            signals[name] = RunningSums(values, lengths), missing
        else:
            signals[name] = RunningSums(absent, lengths), NEEDS_SECOND
    return signals


def _sums(signal: RunningSums, keeping: Keeping) -> Sums:
    """Sum a signal over what is kept of each rollout, and its tokens there: mean over draws."""
    x, m = signal.between(keeping.start, keeping.stop)
    return x.mean(axis=0), m.mean(axis=0)


def _prefixes(stop: Integers) -> Keeping:
    stop = np.atleast_2d(stop)
    return Keeping(np.zeros_like(stop), stop)


def _share(kept: Numbers, lengths: Integers) -> float:
    return float(kept.sum() / max(lengths.sum(), 1))
