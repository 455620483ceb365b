"""Where the teacher's part of the scores comes from, and what it leaves without an answer."""

WEIGHTS, STATES, LOGPROBS = "weights", "hidden states", "log-probs"
BY_GROUP = "weights of several teachers, by group"

# Of each analysis what it can still answer where the teacher is known by some log-probs alone.
ANSWERED_FROM_LOGPROBS = {
    "score_summary": "the student's entropy is exact; both KLs have lower bounds at the most "
    "(reverse_kl_low, forward_kl_low in the token table)",
    "loss_audit": "the means of k1, k2 and k3; what is exact of the student's top K where it is "
    "known; nothing beside the exact KL",
    "release_points": "the margin among the student's top K where it is known; nothing about KL",
    "rock_tokens": "nothing: types are ranked by KL",
    "agreement_traps": "nothing: the rule reads KL",
    "teachability": "nothing: gain is a change of KL",
}


def without_weights(where: object, use: str) -> str:
    """Say that a run scored with log-probs does not know the weights that something needs.

    Args:
        where: The run.
        use: What the weights are needed for, after "weights that".
    """
    return (
        f"{where}: scored with log-probs of the teacher, not with its weights; expected "
        f"--teacher FOLDER, weights that {use}"
    )


def unproven_weights(path: str) -> str:
    """Say that nothing tells whether weights are those that gave a run its log-probs."""
    return (
        f"teacher: {path} is taken as it is; the run was scored with log-probs, so that its "
        "weights cannot be compared"
    )


def source_line(source: str, analysis: str) -> str | None:
    """Say what an analysis can answer with this source of the teacher; None: everything."""
    if source != LOGPROBS:
        return None
    left = ANSWERED_FROM_LOGPROBS.get(analysis, "what needs no KL")
    return f"the teacher is known by log-probs alone; what this analysis can answer: {left}"
