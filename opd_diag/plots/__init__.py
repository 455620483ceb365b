"""Result tables to matplotlib Axes. Nothing is computed here but places on the page.

A figure is named after the table that it draws, or `<table>_<what>`. Two draw something else:
`token_strip` one rollout's text, and `overview` a page with the first figure of each analysis.
For a paper, draw inside `with style("one-column"):` or `"two-columns"`.
"""

from opd_diag.plots.agreement_traps import agreement_traps, trap_map, trap_trace
from opd_diag.plots.findings import findings
from opd_diag.plots.interventions import continuation, knock_out, replacement
from opd_diag.plots.loss_audit import loss_audit, loss_audit_flips, loss_bins
from opd_diag.plots.overview import overview
from opd_diag.plots.release_curves import (
    release_curves,
    release_curves_absolute,
    release_curves_advantage,
    release_curves_entropy,
    release_curves_margin,
    release_curves_overlap,
    release_curves_policy,
)
from opd_diag.plots.release_points import (
    release_budgets,
    release_correlation,
    release_example,
    release_points,
    release_points_positions,
    release_summary,
)
from opd_diag.plots.rock_lists import (
    rock_cutoff,
    rock_example,
    rock_groups,
    rock_outputs,
    rock_selectors,
)
from opd_diag.plots.rock_persistence import (
    rock_composition,
    rock_composition_lift,
    rock_persistence,
    rock_persistence_classes,
    rock_persistence_types,
)
from opd_diag.plots.rock_tokens import rock_tokens, rock_tokens_change, rock_tokens_gradients
from opd_diag.plots.score_summary import (
    score_histogram,
    score_histogram_forward,
    score_positions,
    score_positions_absolute,
    score_positions_forward,
    score_summary,
)
from opd_diag.plots.teachability import (
    teachability,
    teachability_contrast,
    teachability_groups,
    teachability_plane,
    teachability_plane_compatibility,
)
from opd_diag.plots.teachability_selectors import (
    teachability_models,
    teachability_overlap,
    teachability_selectors,
    teachability_selectors_captured,
    teachability_support,
)
from opd_diag.plots.token_strip import token_strip
from opd_diag.plots.trap_controls import (
    trap_cuts,
    trap_cuts_correct,
    trap_outcomes,
    trap_persistence,
    trap_phases,
    trap_phases_gradient,
    trap_phases_shares,
    trap_sensitivity,
    trap_summary,
    trap_vocabulary,
)
from opd_diag.plots.update_alignment import update_alignment, update_tokens

__all__ = [
    "agreement_traps",
    "continuation",
    "findings",
    "knock_out",
    "loss_audit",
    "loss_audit_flips",
    "loss_bins",
    "overview",
    "release_budgets",
    "release_correlation",
    "release_curves",
    "release_curves_absolute",
    "release_curves_advantage",
    "release_curves_entropy",
    "release_curves_margin",
    "release_curves_overlap",
    "release_curves_policy",
    "release_example",
    "release_points",
    "release_points_positions",
    "release_summary",
    "replacement",
    "rock_composition",
    "rock_composition_lift",
    "rock_cutoff",
    "rock_example",
    "rock_groups",
    "rock_outputs",
    "rock_persistence",
    "rock_persistence_classes",
    "rock_persistence_types",
    "rock_selectors",
    "rock_tokens",
    "rock_tokens_change",
    "rock_tokens_gradients",
    "score_histogram",
    "score_histogram_forward",
    "score_positions",
    "score_positions_absolute",
    "score_positions_forward",
    "score_summary",
    "teachability",
    "teachability_contrast",
    "teachability_groups",
    "teachability_models",
    "teachability_overlap",
    "teachability_plane",
    "teachability_plane_compatibility",
    "teachability_selectors",
    "teachability_selectors_captured",
    "teachability_support",
    "token_strip",
    "trap_cuts",
    "trap_cuts_correct",
    "trap_map",
    "trap_outcomes",
    "trap_persistence",
    "trap_phases",
    "trap_phases_gradient",
    "trap_phases_shares",
    "trap_sensitivity",
    "trap_summary",
    "trap_trace",
    "trap_vocabulary",
    "update_alignment",
    "update_tokens",
]
