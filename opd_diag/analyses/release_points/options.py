"""Hold the choices of one call, so that the parts of the analysis can hand them on."""

from typing import NamedTuple

from opd_diag.analyses.release_points.rule import Rule


class Options(NamedTuple):
    """What `release_points` was asked for; its arguments of the same names."""

    rule: Rule
    k: int
    segmenter: str
    token_weighted: bool
    seed: int
