"""Answer the questions of rock tokens, each by one test, from `rock_evidence`."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from opd_diag.analyses.answers import Finding

LIFT = float(np.log(1.05))  # log ratio: rocks carry 5 % more
SHARE = 0.05  # of hard tokens that stay hard
FALL = 0.10  # of the relative change

MARGINS: Mapping[str, float] = {
    "rocks-carry-more": LIFT,
    "rocks-persist": SHARE,
    "rocks-stay": FALL,
    "type-tells": SHARE,
}
MEANING: Mapping[str, Mapping[str, str]] = {
    "rocks-carry-more": {
        "yes": "On prompts that did not choose them, rock tokens carry more loss than other tokens "
        "at the same places.",
        "no": "On prompts that did not choose them, the mean loss of rock tokens is at most 5 % "
        "above that of all tokens: the list is one of frequent tokens.",
        "undecided": "Whether rock tokens carry more loss than their frequency is not decided.",
    },
    "rocks-persist": {
        "yes": "Of tokens as hard at first, those of rock types are still hard at last more often.",
        "no": "Of tokens as hard at first, those of rock types are still hard at last no more "
        "often than others, up to 5 points.",
        "undecided": "Whether hard tokens of rock types stay hard more often than other hard "
        "tokens is not decided.",
    },
    "rocks-stay": {
        "yes": "The loss of rock tokens fell by less than that of the rest, which fell.",
        "no": "The loss of rock tokens changed no less than that of the rest, up to 10 points of "
        "the relative change, or the rest did not fall.",
        "undecided": "Whether the loss of rock tokens stays while the rest falls is not decided.",
    },
    "type-tells": {
        "yes": "Of tokens as hard, those of some types stay hard more often, also on prompts that "
        "did not choose these types.",
        "no": "Of tokens as hard, those of types that stayed hard elsewhere stay so no more often, "
        "up to 5 points: it is the context, not the type.",
        "undecided": "Whether the type or the context of a token keeps it hard is not decided.",
    },
}
ADVICE: Mapping[str, Mapping[str, str]] = {
    "rocks-carry-more": {
        "yes": "Compare training without the listed tokens (export --rule rock) with its control "
        "of frequency-matched tokens.",
        "no": "Do not mask tokens by this list: it selects by frequency.",
    },
    "rocks-persist": {
        "yes": "Look at rock_persistence for the types, and compare training without them.",
        "no": "Do not mask or weight tokens by this list: tokens of other types that were as hard "
        "stay hard no less often.",
    },
    "rocks-stay": {
        "yes": "Look at the types that rock_tokens labels stagnant, and at what they stand before.",
        "no": "Leave rock tokens in the loss: their KL does not stay behind.",
    },
    "type-tells": {
        "yes": "A list of token types is a sensible thing to act on.",
        "no": "Act on contexts or single tokens, not on a list of types.",
    },
}


def findings(rock_evidence: pl.DataFrame) -> list[Finding]:
    """Ask each question of the table; one without a p is not asked, and its reason says why.

    Rocks are chosen on one half of the prompts and measured on the other. p comes from flipping
    the sign of whole prompts, the smaller of both ways counted twice.
    """
    return [
        Finding(
            question=row["question"],
            checkpoint=row["checkpoint"],
            unit=row["unit"],
            estimate=row["estimate"],
            low=row["estimate_low"],
            high=row["estimate_high"],
            control=row["control"],
            difference=row["difference"],
            difference_low=row["difference_low"],
            difference_high=row["difference_high"],
            p=row["p"],
            margin=MARGINS[row["question"]],
            n_prompts=row["n_prompts"],
            reason=row["reason"],
            meaning=MEANING[row["question"]],
            advice=ADVICE[row["question"]],
            source="rock_evidence",
            filter=f"question = {row['question']}",
        )
        for row in rock_evidence.iter_rows(named=True)
    ]
