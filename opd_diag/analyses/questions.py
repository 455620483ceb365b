"""The questions that findings answer, by the short key that names each in tables and options.

Imports nothing heavy, so that the help of a command can list the keys.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Question(NamedTuple):
    """One question.

    Attributes:
        analysis: The analysis whose result tables answer it.
        text: The question, such that `yes` is the answer that needs evidence.
    """

    analysis: str
    text: str


QUESTIONS: Mapping[str, Question] = MappingProxyType(
    {
        "reverse-kl-fell": Question("teachability", "Did reverse KL fall at fixed contexts?"),
        "forward-kl-fell": Question("teachability", "Did forward KL fall at fixed contexts?"),
        "rocks-carry-more": Question(
            "rock_tokens", "Do rock tokens carry more KL than their frequency explains?"
        ),
        "rocks-persist": Question(
            "rock_tokens", "Do rock tokens stay hard more often than other hard tokens?"
        ),
        "rocks-stay": Question(
            "rock_tokens", "Does the KL of rock tokens stay while that of the rest falls?"
        ),
        "type-tells": Question(
            "rock_tokens", "Does a token's type tell whether it stays hard, given its KL?"
        ),
        "margin-falls": Question(
            "release_points", "Does the teacher's margin fall along the response?"
        ),
        "margin-drops": Question("release_points", "Does it fall abruptly?"),
        "cut-drops-poor": Question(
            "release_points", "Would cutting at the release point drop signal-poor tokens?"
        ),
        "compatibility-matters": Question(
            "teachability",
            "Does compatibility predict the gain, given entropy and divergence?",
        ),
        "selector-beats-divergence": Question(
            "teachability",
            "Does a selector capture more gain than divergence at 10 % of the tokens?",
        ),
        "low-kl-stretches": Question(
            "agreement_traps", "Are low-KL stretches longer than block-shuffled KL makes them?"
        ),
        "loss-off": Question(
            "loss_audit",
            "Is the mean of the trainer's loss off the exact reverse KL by more than 10 %?",
        ),
        "cut-rollouts-wrong": Question(
            "agreement_traps",
            "Are rollouts cut by the low-KL rule wrong more often than others of their prompt?",
        ),
        "rocks-needed": Question(
            "knock_out",
            "Does banning rock tokens cost more accuracy than banning others as frequent?",
        ),
        "cut-is-lost": Question(
            "continuation",
            "Does the teacher fail from the cut more often than from as deep in other rollouts?",
        ),
    }
)
