"""Say in a few lines how far the students are from the teacher."""

from typing import Protocol

import polars as pl

from opd_diag.analyses.groups import GROUP, TRAINED
from opd_diag.analyses.wording import count, estimate
from opd_diag.tables.columns.score_summary import ALL, ANOTHER_PROMPT
from opd_diag.tables.columns.tokens import KL_NAMES


class Tables(Protocol):
    """The tables that are described."""

    @property
    def score_summary(self) -> pl.DataFrame:
        """Means of divergences."""

    @property
    def score_histogram(self) -> pl.DataFrame:
        """How few tokens hold them."""

    @property
    def score_groups(self) -> pl.DataFrame:
        """What each group of the dump holds of them."""

    @property
    def score_first_tokens(self) -> pl.DataFrame:
        """What stands right after prompts that the teacher reads otherwise."""


LARGE = 0.1  # nat; a bin starts here
GROUPS_SHOWN = 8

DROPPED = (
    ("length", "length", "tokens"),
    ("reward", "reward", ""),
    (KL_NAMES["reverse_kl"], "reverse_kl", "nat"),
)


def summary_lines(tables: Tables) -> list[str]:
    """Write the mean divergences of every checkpoint, and how few tokens hold them."""
    lines = ["Means over tokens in the loss, with 95 % intervals over prompts."]
    for (name,), ours in tables.score_summary.group_by("checkpoint", maintain_order=True):
        n = int(ours.filter(pl.col("group") == ALL)["n"].to_numpy().max())
        lines.append(f"{name}: {count(n)} tokens")
        for column, title in KL_NAMES.items():
            of = ours.filter(pl.col("column") == column).iter_rows(named=True)
            rows = {row["group"]: row for row in of}
            values = {group: estimate(row) for group, row in rows.items()}
            if rows[ALL]["value"] is None:
                lines.append(f"  {title}  {estimate(rows[ALL])}")
                continue
            large = _large_tokens(tables.score_histogram, name, column)
            lines.append(f"  {title}  {values.pop(ALL)}; {large}")
            if values:
                words = ", ".join(f"{group} {value}" for group, value in values.items())
                lines.append(f"{'':{len(title) + 4}}{words}")
        lines += _group_lines(tables.score_groups.filter(checkpoint=name))
        lines += _first_lines(tables.score_first_tokens.filter(checkpoint=name))
    return lines


def _first_lines(first: pl.DataFrame) -> list[str]:
    """Write what happens where the teacher's own prompt ends."""
    rows = {row["place"]: row for row in first.filter(group=ANOTHER_PROMPT).iter_rows(named=True)}
    if "0" not in rows:
        return []
    row = rows["0"]
    places = [("first token", row)] + [
        ("after the first 8", rows[key]) for key in rows if key == "later"
    ]
    kl = ", ".join(f"{name} {estimate(at, 'reverse_kl', 'nat')}" for name, at in places)
    return [
        f"  teacher's prompt: another one in {count(row['n_rollouts'])} rollouts, whose last "
        f"{estimate(row, 'shared_end', 'tokens')} are the student's; {KL_NAMES['reverse_kl']}: {kl}"
    ]


def _group_lines(groups: pl.DataFrame) -> list[str]:
    """Write the share of tokens beside the share of KL of the largest groups."""
    groups = groups.drop("reason")  # which is that of the mean KL alone
    lines = [
        f"  {row['group']}: {estimate(row, 'token_share', 'share')} of tokens, "
        f"{estimate(row, 'reverse_kl_share', 'share')} of KL(student ‖ teacher)"
        for row in groups.filter(split=GROUP).head(GROUPS_SHOWN).to_dicts()
    ]
    if (more := groups.filter(split=GROUP).height - GROUPS_SHOWN) > 0:
        lines.append(f"  and {more} more groups")
    for row in groups.filter(split=TRAINED, group="dropped").to_dicts():
        kept = groups.filter(split=TRAINED, group="kept")
        parts = [
            f"{name} {estimate(row, column, unit)}, kept {estimate(other, column, unit)}"
            for other in kept.to_dicts()
            for name, column, unit in DROPPED
            if row[column] is not None
        ]
        lines.append(
            f"  dropped by training: {count(row['n_rollouts'])} rollouts; {'; '.join(parts)}"
        )
    return lines


def _large_tokens(histogram: pl.DataFrame, checkpoint: str, column: str) -> str:
    row = histogram.filter(
        pl.col("checkpoint") == checkpoint,
        pl.col("group") == ALL,
        pl.col("column") == column,
        (pl.col("start") - LARGE).abs() < 1e-9,
    ).row(0, named=True)
    tokens, loss = (estimate(row, f"{of}_share_above", "share") for of in ("token", "loss"))
    return f"{tokens} of tokens have {LARGE} nat or more and hold {loss} of it"
