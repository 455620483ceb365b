"""Answer the questions of release points, each by one test, from `release_summary`."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from opd_diag.analyses.answers import Finding, p_above_0
from opd_diag.tables.columns.release_points import LINE_SEGMENTS, MIN_TOKENS

Row = Mapping[str, Any]

FALL = 0.05  # log nat: 1 + margin changes by 5 %
ABRUPT = 6.0  # nat, the gain that a release point needs
RECOVERS = 0.2  # p at which a recovery forbids a yes: missing one would make a false one
RECOVERY = "the margin recovers after its drops: noise that drops and recovers is not excluded"
KEPT = 0.02  # share of the signal


def findings(release_summary: pl.DataFrame) -> list[Finding]:
    """Ask whether the margin falls, whether abruptly, and whether the cut would drop little.

    The margin falls: mean log(1 + margin) of the first fifth of a response minus that of the last.
    Noise without a trend has a mean difference of 0, whatever its memory, and also where it jumps
    and decays slowly, which upward shifts (the control of the rule) would not show.

    Abruptly: the gain of one shift over a straight line, minus the same after what the line leaves
    over is turned round in time. Beside a straight decline, noise that looks the same backwards has
    a mean difference of 0. The p is the largest of this, of that gain itself, and of the fall: what
    does not fall does not fall abruptly, and what a line describes better neither. Noise that drops
    at once and recovers slowly has a difference above 0 too; so there is no yes where the scores
    recover after the shift more than they rose before it.

    The cut: share of a rollout's KL and gradient norm before its own release point minus that
    before the release points of other rollouts that are as long. The p is the larger of the two.
    """
    asked = []
    for (checkpoint,), rows in release_summary.group_by("checkpoint", maintain_order=True):
        ours = rows.filter(pl.col("split") == "all", pl.col("k").is_null() | _main_k(rows))
        by_name = {row["statistic"]: row for row in ours.iter_rows(named=True)}
        name = str(checkpoint)
        asked += [_falls(name, by_name), _abruptly(name, by_name), _cut(name, by_name)]
    return asked


def _main_k(rows: pl.DataFrame) -> pl.Expr:
    return pl.col("k").is_in(rows.filter(pl.col("statistic") == "accepted")["k"].unique().implode())


def _falls(checkpoint: str, by_name: Mapping[str, Row]) -> Finding:
    return Finding(
        question="margin-falls",
        checkpoint=checkpoint,
        **_numbers(by_name, "margin_early", "margin_late", "margin_early_minus_late"),
        p=by_name["margin_early_minus_late"]["p"],
        margin=FALL,
        reason=_why(by_name["margin_early_minus_late"], f"rollouts of {MIN_TOKENS} tokens"),
        meaning={
            "yes": "The teacher's margin among the student's candidates is larger in the first "
            "fifth of a response than in the last.",
            "no": "The teacher's margin is as large at the end of a response as at its start, up "
            "to 5 % of one plus the margin.",
            "undecided": "A fall of the teacher's margin along the response is neither shown nor "
            "ruled out.",
        },
        advice={
            "yes": "Look where it falls (release_curves_margin) before supervision is cut there.",
            "no": "Leave supervision on the whole response: position tells nothing here.",
        },
    )


def _abruptly(checkpoint: str, by_name: Mapping[str, Row]) -> Finding:
    difference = by_name["gain_over_line_minus_reversed"]
    parts = [_above_0(by_name[name]) for name in ("margin_early_minus_late", "gain_over_line")]
    p, why = difference["p"], _why(difference, f"rollouts of {LINE_SEGMENTS} segments")
    recovery = by_name.get("recovery", {"p": None, "value": None})
    if p is not None and _above_0(recovery) <= RECOVERS:
        p, why = 1.0, RECOVERY
    elif p is not None:
        p = 1.0 if recovery["p"] is None else max(p, *parts)
    return Finding(
        question="margin-drops",
        checkpoint=checkpoint,
        **_numbers(
            by_name, "gain_over_line", "gain_over_line_reversed", "gain_over_line_minus_reversed"
        ),
        p=p,
        margin=ABRUPT,
        reason=why,
        meaning={
            "yes": "One drop describes the fall of the margin better than a straight decline, "
            "better than it would if time ran backwards, and the margin does not recover from it.",
            "no": "The fall of the margin is no more abrupt than noise around a straight decline.",
            "undecided": "Whether the margin drops at once or declines is not decided.",
        },
        advice={
            "yes": "A release point for each rollout has a place to stand.",
            "no": "A fixed fraction of the response does as well as a release point.",
        },
    )


def _above_0(row: Row) -> float:
    return p_above_0(row["p"], row["value"])


def _cut(checkpoint: str, by_name: Mapping[str, Row]) -> Finding:
    names = ("reverse_kl", "grad_logits")
    p = {name: by_name[f"{name}_kept_minus_dealt"]["p"] for name in names}
    weaker = max(names, key=lambda name: -1.0 if p[name] is None else p[name])
    signs = {(by_name[f"{name}_kept_minus_dealt"]["value"] or 0) > 0 for name in names}
    larger = p[weaker] if None not in p.values() else None
    if larger is not None and len(signs) > 1:
        larger = 1.0  # KL and gradient say opposite things
    difference = by_name[f"{weaker}_kept_minus_dealt"]
    what = "KL" if weaker == "reverse_kl" else "gradient norm"
    return Finding(
        question="cut-drops-poor",
        checkpoint=checkpoint,
        **_numbers(by_name, f"{weaker}_kept", f"{weaker}_kept_dealt", f"{weaker}_kept_minus_dealt"),
        p=larger,
        margin=KEPT,
        reason=_why(difference, "released rollouts with others of their length")
        or f"shares of {what}, of the two signals the one that speaks less clearly",
        meaning={
            "yes": "The tokens after a rollout's own release point carry less KL and gradient than "
            "those after the release points of other rollouts.",
            "no": "A rollout's own release point keeps no more of the signal than that of another "
            "rollout of its length does, up to 2 points.",
            "undecided": "Whether the tokens after the release point carry less signal is not "
            "decided.",
        },
        advice={
            "yes": "Compare training with the cut (export --rule release) and with its control.",
            "no": "Do not cut by release points to save signal: a fixed fraction does as well.",
        },
    )


def _numbers(by_name: Mapping[str, Row], own: str, control: str, difference: str) -> dict[str, Any]:
    one, two = by_name[own], by_name[difference]
    return {
        "unit": two["unit"],
        "estimate": one["value"],
        "low": one["value_low"],
        "high": one["value_high"],
        "control": by_name[control]["value"],
        "difference": two["value"],
        "difference_low": two["value_low"],
        "difference_high": two["value_high"],
        "n_prompts": two["n_prompts"],
        "source": "release_summary",
        "filter": f"split = all, statistic = {difference}",
    }


def _why(row: Row, what: str) -> str | None:
    """Say why there is no p: of what there was too little."""
    if row["p"] is not None:
        return None
    return f"{what} of {row['n_prompts']} prompts; 5 of like weight are needed"
