"""Answer the questions of `teachability` from its result tables."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from opd_diag.analyses.answers import Finding
from opd_diag.tables.columns.teachability import DIVERGENCE, MATCHED, RANDOM

SMALL_CHANGE = 0.05  # of KL: less is too small to matter
SMALL_SHARE = 0.05  # of all gain
BUDGET = 0.10

Row = Mapping[str, Any]

FELL = {
    "yes": "On the same tokens the student is closer to the teacher than before.",
    "no": f"On the same tokens KL did not fall by {SMALL_CHANGE:.0%} or more; compare the two "
    "means: it may have risen.",
    "undecided": "On the same tokens KL may have fallen or not.",
}
AFTER_FALL = {
    "yes": "Gains can be read: look at which tokens they come from.",
    "no": "Find out why before choosing tokens: shares of a gain that is not there mean nothing.",
}
PREDICTS = {
    "yes": "Of tokens alike in entropy, divergence and position the {more} compatible ones gained "
    "more.",
    "no": "Tokens alike in entropy, divergence and position gained nearly alike, whatever their "
    "compatibility.",
    "undecided": "A difference this small cannot be told from none with this run.",
}
AFTER_PREDICTS = {
    "yes": "Compatibility may enter the choice of tokens: compare selectors on held-out prompts.",
    "no": "Choose tokens by divergence and entropy; compatibility adds nothing to them.",
}
BEATS = {
    "yes": "{selector} holds more of the gain than the same number of tokens of the largest "
    "divergence.",
    "no": "No selector holds notably more of the gain than divergence alone.",
    "undecided": "{selector} is the best, but may hold no more of the gain than divergence alone.",
}
AFTER_BEATS = {
    "yes": "Train on the tokens of {selector}, beside a control arm of equal budget.",
    "no": "If tokens are to be selected, divergence is the simplest rule; train a control arm of "
    "equal budget beside it.",
}


def findings(
    teachability: pl.DataFrame,
    teachability_kl: pl.DataFrame,
    teachability_contrast: pl.DataFrame,
    teachability_selectors: pl.DataFrame,
) -> list[Finding]:
    """Ask whether KL fell, whether compatibility tells the gain, and whether a selector does.

    Args:
        teachability: The table of that name.
        teachability_kl: See there.
        teachability_contrast: See there.
        teachability_selectors: See there.
    """
    return [
        _fell(teachability_kl, "reverse_kl"),
        _fell(teachability_kl, "forward_kl"),
        _predicts(teachability, teachability_contrast),
        _beats(teachability_selectors),
    ]


def _fell(table: pl.DataFrame, kl: str) -> Finding:
    rows = table.filter(kl=kl, group="all").to_dicts()
    first, last = rows[0], rows[-1]
    change = {
        end: None if last[f"change{of}"] is None else -last[f"change{of}"]
        for end, of in (("", ""), ("_low", "_high"), ("_high", "_low"))
    }
    return Finding(
        question=f"{kl.replace('_', '-')}-fell",
        checkpoint=last["checkpoint"],
        unit="nat",
        estimate=last["mean"],
        low=last["mean_low"],
        high=last["mean_high"],
        control=first["mean"],
        difference=change[""],
        difference_low=change["_low"],
        difference_high=change["_high"],
        p=last["p"] if last["change_low"] is not None else None,
        margin=None if first["mean"] is None else SMALL_CHANGE * first["mean"],
        n_prompts=last["n_prompts"],
        reason=last["reason"],
        meaning=FELL,
        advice=AFTER_FALL,
        source="teachability_kl",
        filter=f"kl = {kl}, group = all, checkpoint = {last['checkpoint']}",
    )


def _predicts(gains: pl.DataFrame, contrast: pl.DataFrame) -> Finding:
    row = contrast.filter(contrast=MATCHED).row(0, named=True)
    whole = gains.filter(group="all", feature="all", kl=row["kl"]).row(0, named=True)
    more = "more" if (row["adjusted"] or 0) > 0 else "less"
    return Finding(
        question="compatibility-matters",
        checkpoint=row["checkpoint"],
        unit="nat",
        estimate=row["adjusted"],
        low=row["adjusted_low"],
        high=row["adjusted_high"],
        control=0.0,
        difference=row["adjusted"],
        difference_low=row["adjusted_low"],
        difference_high=row["adjusted_high"],
        p=row["p"],
        direction=0,
        margin=None if whole["base"] is None else SMALL_CHANGE * whole["base"],
        n_prompts=row["n_prompts"],
        reason=row["reason"],
        meaning={answer: text.format(more=more) for answer, text in PREDICTS.items()},
        advice=AFTER_PREDICTS,
        source="teachability_contrast",
        filter=f"contrast = {MATCHED}, kl = {row['kl']}",
    )


def _beats(table: pl.DataFrame) -> Finding:
    """Ask of the best selector; `no` needs that none can be better by the margin."""
    lead = table["kl"][0]
    near = (pl.col("budget") - BUDGET).abs()
    rows = table.filter(kl=lead).filter(near == near.min())
    others = rows.filter(~pl.col("selector").is_in([DIVERGENCE, RANDOM]), pl.col("n") > 0)
    asked = others.filter(pl.col("over_divergence").is_not_null())
    if asked.is_empty():
        row = others.row(0, named=True) if others.height else rows.row(0, named=True)
    else:
        row = asked.sort("over_divergence", descending=True, maintain_order=True).row(0, named=True)
    p = row["p_adjusted"]
    if p is not None and (row["over_divergence"] or 0) <= 0:
        p = 1.0  # what captures less does not beat divergence, however surely it captures less
    highs = asked["over_divergence_high"]
    alone = rows.filter(selector=DIVERGENCE).row(0, named=True)
    return Finding(
        question="selector-beats-divergence",
        checkpoint=row["checkpoint"],
        unit="share",
        estimate=row["captured"],
        low=row["captured_low"],
        high=row["captured_high"],
        control=alone["captured"],
        difference=row["over_divergence"],
        difference_low=row["over_divergence_low"],
        difference_high=None if highs.null_count() else highs.max(),  # type: ignore[arg-type]
        p=p,
        margin=SMALL_SHARE,
        n_prompts=row["n_prompts"],
        reason=row["reason"],
        meaning={key: text.format(selector=row["selector"]) for key, text in BEATS.items()},
        advice={key: text.format(selector=row["selector"]) for key, text in AFTER_BEATS.items()},
        source="teachability_selectors",
        filter=f"kl = {lead}, budget = {row['budget']}, selector = {row['selector']}",
    )
