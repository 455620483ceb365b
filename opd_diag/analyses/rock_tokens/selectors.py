"""Build `rock_selectors`: how stable the list of each score is, and what it holds."""

import polars as pl
import polars.selectors as cs

from opd_diag.analyses.rock_tokens.lists import list_notes
from opd_diag.analyses.rock_tokens.ranking import Ranking
from opd_diag.analyses.tables import result_table

NOT_PAIRED = "needs two checkpoints on the same tokens"


def selector_table(ranking: Ranking, lists: pl.DataFrame) -> pl.DataFrame:
    """Build one row per selector, for lists of the size asked for.

    Args:
        ranking: The ranked types.
        lists: `list_rows` of them.
    """
    table = lists.filter(pl.col("K") == ranking.options.top).drop(
        "suggested_K", "J_second", "J_c_second"
    )
    table = table.with_columns(list_notes(ranking))
    if ranking.pairing != "paired":
        joint = pl.col("selector") == "joint"
        table = table.with_columns(
            pl.when(~joint).then(cs.float()),
            reason=pl.when(joint).then(pl.lit(NOT_PAIRED)).otherwise("reason"),
        )
    return result_table("rock_selectors", table, **ranking.constants)
