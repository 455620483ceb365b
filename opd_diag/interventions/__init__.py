"""Generate from a run's models with something changed, and measure what that costs.

The only part that generates: tokens banned (`knock_out`), responses cut and continued
(`continuation`); and one that only scores again: tokens replaced (`replacement`).
"""

from opd_diag.interventions.continuations import Continuation, continuation
from opd_diag.interventions.knock_outs import KnockOut, knock_out
from opd_diag.interventions.replacements import Replacement, replacement
from opd_diag.interventions.report import summary_lines

__all__ = [
    "Continuation",
    "KnockOut",
    "Replacement",
    "continuation",
    "knock_out",
    "replacement",
    "summary_lines",
]
