"""Ask which token types stay far from the teacher, and whether that is more than frequency."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.rock_tokens.context import ETA
from opd_diag.analyses.rock_tokens.controls import match_controls
from opd_diag.analyses.rock_tokens.lists import group_table, list_tables
from opd_diag.analyses.rock_tokens.occurrences import (
    LOSSES,
    Occurrences,
    read_occurrences,
)
from opd_diag.analyses.rock_tokens.outputs import output_counts
from opd_diag.analyses.rock_tokens.persistence import choose_groups
from opd_diag.analyses.rock_tokens.question import Options, Question, in_range, one_of
from opd_diag.analyses.rock_tokens.rows import type_rows
from opd_diag.analyses.rock_tokens.selectors import eligible_types
from opd_diag.analyses.rock_tokens.shown import example_table, output_table
from opd_diag.analyses.rock_tokens.summary import summary_lines
from opd_diag.analyses.rock_tokens.sums import Sums, beside, prompt_sums, total
from opd_diag.errors import OptionError
from opd_diag.stats.ranks import descending_ranks
from opd_diag.tables.arguments import public_analysis
from opd_diag.tables.run import Run
from opd_diag.tables.source import (
    Source,
    Tokens,
    as_source,
    choose_checkpoints,
    choose_rollouts,
    gradient_sums,
    vocabulary,
)

__all__ = ["RockTokens", "rock_tokens", "summary_lines"]

EXCLUDED = {"opd-diag": 0, "paper": 5}


class RockTokens(NamedTuple):
    """The tables of `rock_tokens`.

    Attributes:
        rock_tokens: One row per token type.
        rock_groups: Rocks, controls, high-loss and random types: level and change at every
            checkpoint, on the prompts that did not choose them and on those that did.
        rock_cutoff: What lists of K types cover and how stable they are, for R and frequency.
        rock_selectors: Stability and lift of the list of each selector.
        rock_outputs: One row per rollout: its share of rocks.
        rock_example: One rollout token by token.
    """

    rock_tokens: pl.DataFrame
    rock_groups: pl.DataFrame
    rock_cutoff: pl.DataFrame
    rock_selectors: pl.DataFrame
    rock_outputs: pl.DataFrame
    rock_example: pl.DataFrame


@public_analysis
def rock_tokens(
    run: Run | str | Path | Tokens,
    rollouts: pl.DataFrame | None = None,
    *,
    checkpoint: str | Sequence[str] | None = None,
    policy: str | None = None,
    step: int | None = None,
    second: Run | str | Path | tuple[Tokens, pl.DataFrame] | None = None,
    second_checkpoint: str | None = None,
    preset: str = "opd-diag",
    loss: str = "reverse_kl",
    top: int = 100,
    min_count: int = 2,
    exclude_top_frequent: int | None = None,
    detail: int = 500,
    tau: str = "own",
    eta: float = ETA,
    seed: int = 0,
) -> RockTokens:
    """Find the token types that hold the most loss, and ask if that is more than frequency.

    Types are ranked by R = n m, the summed loss under the first checkpoint. Beside R stands the
    lift, m over the mean of all tokens: a list of frequent types holds much loss at lift 1. Whether
    rocks stay is asked of the prompts that did not choose them, since chosen on the same rows
    they seem to learn when nothing changes.

    Args:
        run: A run, its folder, or a token table with the columns rollout, position, token_id,
            in_loss, grad_logits and those of the loss.
        rollouts: The rollouts (rollout, prompt_id, half), with a token table only.
        checkpoint: Checkpoints to compare, the first of which ranks; None: all.
        policy: Only rollouts of this policy.
        step: Only rollouts of this training step.
        second: Another run (or its token table and rollouts), to compare with in place of later
            checkpoints: its own rollouts under its last checkpoint. Nothing is paired then, and
            every table says so. `policy` and `step` do not filter it.
        second_checkpoint: Its checkpoint; None: the last one.
        preset: `opd-diag`, or `paper`, which drops the 5 most frequent types and takes ranks
            101-200 as controls.
        loss: `reverse_kl`, `forward_kl` or `sampled_log_ratio` (student_logp - teacher_logp).
        top: Types in the list, K.
        min_count: Fewest occurrences of a type that is ranked.
        exclude_top_frequent: Most frequent types left out; None: the preset's, 0 or 5.
        detail: Types by R that get intervals and the context stage.
        tau: Threshold of the context stage: `own` 80th percentile of each checkpoint, or that of
            the `first` for both.
        eta: Share of similar contexts that makes a context a recurring one.
        seed: Seed of every draw.

    Returns:
        Six tables.

    Raises:
        OptionError: If a preset, loss or tau is unknown, or a number is out of range.
        TableError: If a checkpoint, policy or step is unknown, or the tables do not fit.

    Source: arXiv 2605.09253; defaults of `opd-diag` and all controls are ours.
    """
    if second is None and second_checkpoint is not None:
        raise OptionError("second_checkpoint: no second run; expected both")
    one_of("preset", preset, EXCLUDED)
    one_of("loss", loss, LOSSES)
    one_of("tau", tau, ("own", "first"))
    excluded = EXCLUDED[preset] if exclude_top_frequent is None else exclude_top_frequent
    in_range(top=top, min_count=min_count, detail=detail, eta=eta, exclude_top_frequent=excluded)
    source = as_source(run, rollouts)
    options = Options(
        top=top,
        min_count=min_count,
        exclude_top_frequent=excluded,
        next_ranks=preset == "paper",
        detail=detail,
        tau=tau,
        eta=eta,
        signed=loss == "sampled_log_ratio",
        seed=seed,
    )
    other: Source | None = None
    if second is not None:
        other = as_source(*second) if isinstance(second, tuple) else as_source(second)
    names = choose_checkpoints(source, checkpoint)
    chosen = choose_rollouts(source.rollouts, policy, step)
    occurrences = read_occurrences(source, names[:1] if other else names, chosen, loss)
    sums = panel = prompt_sums(occurrences)
    if other is not None:
        last = choose_checkpoints(other, second_checkpoint)[-1:]
        everything = choose_rollouts(other.rollouts)
        panel = beside(sums, prompt_sums(read_occurrences(other, last, everything, loss)))
    asked = _ask(occurrences, sums, panel, loss, options)
    return _answer(asked, source, whole=policy is None and step is None)


def _ask(
    occurrences: Occurrences, sums: Sums, panel: Sums, loss: str, options: Options
) -> Question:
    """Rank the types."""
    several = "paired" if len(sums.names) > 1 else "one checkpoint"
    pairing = several if panel.paired else "unpaired"
    n = total(sums.n[0])
    eligible = eligible_types(n, options.min_count, options.exclude_top_frequent)
    ranks = descending_ranks(np.where(eligible, total(sums.x[0]), -np.inf))
    return Question(
        options=options,
        occurrences=occurrences,
        sums=sums,
        panel=panel,
        eligible=eligible,
        ranks=ranks,
        controls=match_controls(
            n,
            ranks,
            eligible,
            sums.token_id,
            top=options.top,
            next_ranks=options.next_ranks,
            seed=options.seed,
        ),
        pairing=pairing,
        common={"checkpoint": sums.names[0], "pairing": pairing, "loss": loss},
    )


def _answer(asked: Question, source: Source, *, whole: bool) -> RockTokens:
    """Build the tables.

    Args:
        asked: What is asked.
        source: Where gradient sums, texts and noise floor come from.
        whole: Whether all rollouts are asked: gradient sums are known of all only.
    """
    name = asked.sums.names[0]
    texts = vocabulary(source)
    gradients = gradient_sums(source, name) if whole else None
    chosen = _groups(asked)
    noise = _noise_floor(source, name, asked.common["loss"])
    rows = type_rows(asked, chosen[:, 0], gradients, texts, noise)
    counts = output_counts(asked.occurrences, asked.is_rock)
    cutoff, selectors = list_tables(asked)
    return RockTokens(
        rock_tokens=rows,
        rock_groups=group_table(asked, chosen, rows),
        rock_cutoff=cutoff,
        rock_selectors=selectors,
        rock_outputs=output_table(asked, counts),
        rock_example=example_table(asked, counts, texts),
    )


def _noise_floor(source: Source, checkpoint: str, loss: str) -> float | None:
    """Return what the loss moves by when it is scored again, nat; None where that is not known."""
    return source.noise_floor(checkpoint).get(loss) if isinstance(source, Run) else None


def _groups(asked: Question) -> npt.NDArray[np.bool_]:
    """Choose the groups on each half of the prompts."""
    options = asked.options
    return np.stack(
        [
            choose_groups(
                asked.panel,
                half,
                asked.panel_eligible,
                top=options.top,
                min_count=options.min_count,
                next_ranks=options.next_ranks,
                seed=options.seed,
            )
            for half in (0, 1)
        ]
    )
