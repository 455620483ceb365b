"""opd-diag analyze score-summary."""

from opd_diag.cli import analyze


@analyze.analyses.command(
    "score-summary", epilog="Example: opd-diag analyze score-summary run --checkpoint step40"
)
def score_summary(
    run: analyze.RunFolder,
    checkpoint: analyze.Checkpoint = None,
    policy: analyze.Policy = None,
    step: analyze.Step = None,
    group: analyze.Group = None,
    seed: analyze.Seed = 0,
    out: analyze.Out = None,
) -> None:
    """Show how far each student is from the teacher, where in responses, and in which tokens."""
    analyze.run_analysis("score_summary", **locals())
