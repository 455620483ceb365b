"""Build `rock_cutoff`: what lists of K types hold and how stable they are, so how many to list."""

import polars as pl

from opd_diag.analyses import reasons
from opd_diag.analyses.rock_tokens.lists import CURVES, enough_prompts, list_notes
from opd_diag.analyses.rock_tokens.ranking import Ranking
from opd_diag.analyses.tables import result_table

NO_STABLE_LIST = "no stable list: too few prompts"


def cutoff_table(ranking: Ranking, lists: pl.DataFrame) -> pl.DataFrame:
    """Build one row per K, for R and for frequency.

    Args:
        ranking: The ranked types.
        lists: `list_rows` of them.
    """
    unstable = pl.col("suggested_K").is_null() & enough_prompts(ranking)
    table = lists.filter(pl.col("selector").is_in(CURVES)).with_columns(
        list_notes(ranking, reasons.note(NO_STABLE_LIST, unstable))
    )
    return result_table("rock_cutoff", table, **ranking.constants)
