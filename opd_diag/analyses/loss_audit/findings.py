"""Ask whether the trainer's loss is the reverse KL on average, from `loss_audit`."""

from collections.abc import Mapping

import polars as pl

from opd_diag.analyses.answers import Finding
from opd_diag.tables.columns.loss_audit import MARGIN

QUESTION = "loss-off"

MEANING: Mapping[str, str] = {
    "yes": "On average {loss} is off the reverse KL of the same tokens by more than 10 %.",
    "no": "On average {loss} is the reverse KL of the same tokens, up to 10 % of it.",
    "undecided": "Whether {loss} is the reverse KL on average, up to 10 %, is not decided.",
}
ADVICE: Mapping[str, str] = {
    "yes": "Compare the estimators in loss_audit: without the clamp, with a larger K, with the "
    "tail as a bucket.",
    "no": "If training is noisy, look at the variance and at the flipped signs in loss_audit "
    "rather than at a bias.",
}


def findings(loss_audit: pl.DataFrame) -> list[Finding]:
    """Ask about the trainer's loss under one checkpoint, with signs of whole prompts flipped.

    It is the last checkpoint that sampled the tokens, for a loss of sampled tokens, which is asked
    about of no other; for a loss of whole sets of tokens the last one.
    """
    rows = loss_audit.filter("trainer_loss")
    loss = rows["estimator"][-1]
    if loss.startswith("k"):
        known = rows.filter("sampled_here")
        if known.is_empty():
            return [_not_asked(rows["checkpoint"][-1], loss, rows["reason"][-1])]
        rows = known
    row = rows.row(-1, named=True)
    if row["p"] is None or row["relative"] is None:
        reason = row["reason"] or "no exact KL of these tokens"
        return [_not_asked(row["checkpoint"], loss, reason)]

    def beyond_1(name: str) -> float | None:
        return None if row[name] is None else row[name] - 1

    return [
        Finding(
            question=QUESTION,
            checkpoint=row["checkpoint"],
            unit="of the exact KL",
            estimate=row["relative"],
            low=row["relative_low"],
            high=row["relative_high"],
            control=1.0,
            difference=beyond_1("relative"),
            difference_low=beyond_1("relative_low"),
            difference_high=beyond_1("relative_high"),
            p=row["p"],
            direction=0,
            margin=MARGIN,
            n_prompts=row["n_prompts"],
            reason=row["reason"],
            meaning={key: text.format(loss=loss) for key, text in MEANING.items()},
            advice=ADVICE,
            source="loss_audit",
            filter=f"estimator = {loss}",
        )
    ]


def _not_asked(checkpoint: str, loss: str, reason: str) -> Finding:
    return Finding(
        question=QUESTION,
        checkpoint=checkpoint,
        reason=reason,
        meaning={},
        advice={},
        source="loss_audit",
        filter=f"estimator = {loss}",
    )
