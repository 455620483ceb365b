"""All tables of one checkpoint."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.comparison import cut_rules, trap_cuts
from opd_diag.analyses.agreement_traps.options import Options
from opd_diag.analyses.agreement_traps.phase_table import trap_phases
from opd_diag.analyses.agreement_traps.pictures import trap_map, trap_trace
from opd_diag.analyses.agreement_traps.rows import per_rollout
from opd_diag.analyses.agreement_traps.rule import Integers, find_cuts
from opd_diag.analyses.agreement_traps.sensitivity import trap_sensitivity
from opd_diag.analyses.agreement_traps.shuffles import shuffled_study
from opd_diag.analyses.agreement_traps.study import Study, study
from opd_diag.analyses.agreement_traps.summary import trap_summary
from opd_diag.analyses.agreement_traps.tokens import ranges, tiled_sums
from opd_diag.tables.source import Source, finished_result


def of_checkpoint(
    source: Source, checkpoint: str, rollouts: pl.DataFrame, options: Options
) -> Mapping[str, pl.DataFrame]:
    """Make the tables of one checkpoint, by name, without the column `checkpoint`."""
    found = study(source, checkpoint, rollouts, options)
    rules = cut_rules(found)
    kl, lengths = found.sample_kl, found.sample_lengths
    thresholds = found.sample_thresholds(rules)
    observed = find_cuts(kl, lengths, rules, thresholds)
    shuffled = shuffled_study(
        {name: quantity.sample for name, quantity in found.quantities.items()},
        lengths,
        thresholds,
        {rule: int(cuts.kept.sum()) for rule, cuts in observed.items()},
        draws=options.draws,
        seed=options.seed,
    )
    main = shuffled[options.rule]
    return {
        "agreement_traps": per_rollout(found),
        "trap_phases": trap_phases(found, main),
        "trap_summary": trap_summary(found, main),
        "trap_cuts": trap_cuts(found, observed, shuffled, _released(source, checkpoint, found)),
        "trap_sensitivity": trap_sensitivity(found),
        "trap_map": trap_map(found),
        "trap_trace": trap_trace(found),
    }


def _released(source: Source, checkpoint: str, found: Study) -> Integers | None:
    """Count the tokens before the release point of each rollout of the control, if known."""
    table = finished_result(source, "release_points")
    if table is None:
        return None
    points = table.filter(pl.col("checkpoint") == checkpoint).select("rollout", "release_token")
    wanted = found.rollouts.select("rollout")[found.sample]
    joined = wanted.join(points, on="rollout", how="left", maintain_order="left")
    if points.is_empty():
        return None
    end = joined["release_token"].fill_null(np.iinfo(np.uint32).max).to_numpy()
    lengths = found.sample_lengths
    starts = (np.cumsum(found.tokens.lengths) - found.tokens.lengths)[found.sample]
    position = found.tokens.position[ranges(starts, lengths)]
    before, _ = tiled_sums((position < np.repeat(end, lengths)).astype(np.float32), lengths)
    return before.astype(np.int64)
