"""What the cut keeps, against other ways to keep as many tokens."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.estimates import Prompts, columns, reasons
from opd_diag.analyses.agreement_traps.keeping import (
    of_neighbours,
    random_windows,
    rescaled,
    same_number,
    same_share,
)
from opd_diag.analyses.agreement_traps.phases import Sums
from opd_diag.analyses.agreement_traps.quantities import Running
from opd_diag.analyses.agreement_traps.rule import Cuts, Integers, Numbers, Rule
from opd_diag.analyses.agreement_traps.shuffles import Shuffled
from opd_diag.analyses.agreement_traps.study import Study

ETAS = (0.1, 0.3, 0.5, 0.7, 0.9)
SIGNALS = ("reverse_kl", "grad_logits", "gain", "grad_logits_other", "correct")
UNITS = {"correct": "share", "reverse_kl": "nat", "gain": "nat"}
ENDS = ("", "_low", "_high")

NO_SECOND = "needs a second checkpoint"
NO_OUTCOME = "no rollout says whether it is correct"
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
    """The cut against one other rule: sum of a signal and tokens, each of shape (rollouts,)."""

    facts: dict[str, Any]
    cut: Sums
    other: Sums
    whole: Sums


def cut_rules(study: Study) -> list[Rule]:
    """List the rules of the comparison: the one asked for, and others of its kind by eta."""
    rule = study.options.rule
    if isinstance(study.options.threshold, float):
        return [rule]
    return [rule._replace(eta=eta) for eta in sorted({*ETAS, rule.eta})]


def trap_cuts(
    study: Study,
    observed: Mapping[Rule, Cuts],
    shuffled: Mapping[Rule, Shuffled],
    released: Integers | None,
) -> pl.DataFrame:
    """Compare the signal per token that the cut keeps with that of other ways to keep as many.

    Args:
        study: The checkpoint under the rule.
        observed: Cuts of each rule on the rollouts of the control.
        shuffled: The same where KL is shuffled.
        released: Tokens before the release point of each of them; None: not known.

    Returns:
        Rows of `TRAP_CUTS` without `checkpoint`.
    """
    prompts = Prompts(study.prompt[study.sample], seed=study.options.seed)
    found = [
        one
        for rule, cuts in observed.items()
        for one in _comparisons(study, rule, cuts, shuffled[rule], released)
    ]
    sums = [np.stack([*one.cut, *one.other, *one.whole]) for one in found]
    x, m, x0, m0, x1, m1 = (prompts.sums(side.T) for side in np.stack(sums, axis=1))
    difference = prompts.difference(x, m, x0, m0)
    table = pl.DataFrame(
        {
            "n": [study.sample.size] * len(found),
            "n_prompts": difference.clusters,
            **columns("kept", prompts.ratio(x, m)),
            **columns("rule_kept", prompts.ratio(x0, m0)),
            **columns("difference", difference),
            **columns("all_tokens", prompts.ratio(x1, m1)),
            "reason": reasons(difference),
        },
        strict=False,
    )
    facts = pl.DataFrame([one.facts for one in found], infer_schema_length=None)
    table = pl.concat([facts, table], how="horizontal")
    compared = [f"{name}{end}" for name in ("rule_kept", "difference") for end in ENDS]
    return table.with_columns(
        pl.coalesce("missing", "reason").alias("reason"),
        *(pl.when(pl.col("missing").is_null()).then(pl.col(name)).alias(name) for name in compared),
    ).drop("missing")


def _comparisons(
    study: Study, rule: Rule, cuts: Cuts, shuffled: Shuffled, released: Integers | None
) -> Iterator[Comparison]:
    """Hold every other rule to the tokens that the cut keeps in all."""
    lengths, ends = study.sample_lengths, (study.checkpoints[0], study.checkpoints[-1])
    cut, whole = _prefixes(cuts.kept), _prefixes(lengths)
    others = _others(study, cuts.kept, released)
    none = np.zeros(lengths.size), np.zeros(lengths.size)
    free = {"shuffled KL": shuffled.cuts.kept.mean(axis=0), "release points": released}
    placing = {"reverse_kl", "grad_logits"} | ({"gain"} if study.checkpoint in ends else set())
    for signal, (running, missing) in _signals(study).items():
        kept, everything = _sums(running, cut), _sums(running, whole)
        for name, keeping in {"shuffled KL": None, **others}.items():
            drawn = name == "shuffled KL"
            own = free.get(name)
            facts = {
                "eta": None if isinstance(study.options.threshold, float) else rule.eta,
                "is_setting": rule == study.options.rule,
                "rule": name,
                "signal": signal,
                "unit": UNITS.get(signal, "nat/logit"),
                "used_to_place": signal in placing,
                "draws": study.options.draws if drawn else len(keeping.stop) if keeping else 0,
                "tokens_kept": _share(cuts.kept, lengths),
                "rule_tokens_kept": None if own is None else _share(own, lengths),
                "missing": missing if drawn or keeping else NO_RELEASE,
            }
            if drawn:
                other = shuffled.kept.get(signal, none)
            else:
                other = _sums(running, keeping) if keeping else none
            yield Comparison(facts, kept, other, everything)


def _others(study: Study, kept: Integers, released: Integers | None) -> dict[str, Keeping | None]:
    """List what the other rules keep; None where it is not known."""
    lengths, total, draws = study.sample_lengths, int(kept.sum()), study.options.draws
    rng = np.random.default_rng(study.options.seed)
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


def _signals(study: Study) -> dict[str, tuple[Running, str | None]]:
    """Give the running sums of each signal over the control's tokens, and why it is missing."""
    lengths = study.sample_lengths
    absent = np.full(int(lengths.sum()), np.nan)
    found: dict[str, tuple[Running, str | None]] = {}
    for name in SIGNALS:
        if name in study.quantities:
            values = study.quantities[name].sample
            missing = NO_OUTCOME if name == "correct" and np.isnan(values).all() else None
            found[name] = Running(values, lengths), missing
        else:
            found[name] = Running(absent, lengths), NO_SECOND
    return found


def _sums(signal: Running, keeping: Keeping) -> Sums:
    """Sum a signal over what is kept of each rollout, and its tokens there: mean over draws."""
    x, m = signal.between(keeping.start, keeping.stop)
    return x.mean(axis=0), m.mean(axis=0)


def _prefixes(stop: Integers) -> Keeping:
    stop = np.atleast_2d(stop)
    return Keeping(np.zeros_like(stop), stop)


def _share(kept: Numbers, lengths: Integers) -> float:
    return float(kept.sum() / max(lengths.sum(), 1))
