"""Ask which token types stay far from the teacher, and whether that is more than frequency."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from opd_diag.analyses.rock_tokens.by_group import group_share_table
from opd_diag.analyses.rock_tokens.changes import choose_groups
from opd_diag.analyses.rock_tokens.composition import composition_table
from opd_diag.analyses.rock_tokens.evidence import evidence_table
from opd_diag.analyses.rock_tokens.example import example_table
from opd_diag.analyses.rock_tokens.findings import findings
from opd_diag.analyses.rock_tokens.groups import group_table
from opd_diag.analyses.rock_tokens.hardness import find_hard
from opd_diag.analyses.rock_tokens.lift import response_places
from opd_diag.analyses.rock_tokens.lists import cutoff_table, list_rows, selector_table
from opd_diag.analyses.rock_tokens.occurrences import (
    Cells,
    Occurrences,
    beside,
    prompt_cells,
    prompt_sums,
    read_occurrences,
)
from opd_diag.analyses.rock_tokens.options import ETA, Options
from opd_diag.analyses.rock_tokens.outputs import output_table
from opd_diag.analyses.rock_tokens.persistence import persistence_table
from opd_diag.analyses.rock_tokens.ranking import rank_types
from opd_diag.analyses.rock_tokens.report import summary_lines
from opd_diag.analyses.rock_tokens.types import type_table
from opd_diag.errors import OptionError
from opd_diag.tables.arguments import public_analysis
from opd_diag.tables.run import Run
from opd_diag.tables.source import (
    Source,
    Tokens,
    as_source,
    choose_checkpoints,
    choose_rollouts,
    finished_result,
    gradient_sums,
    vocabulary,
)
from opd_diag.text.token_classes import token_classes

__all__ = ["RockTokens", "findings", "rock_tokens", "summary_lines"]


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
        rock_persistence: Whether the same occurrences stay hard, by checkpoint and group, class
            or type.
        rock_composition: Classes of tokens by group and place in the response.
        rock_evidence: The test of each question, one row each.
        rock_by_group: What rocks hold of the tokens and of the loss of each group of the dump, and
            of what training kept and dropped, where the dump tells.
    """

    rock_tokens: pl.DataFrame
    rock_groups: pl.DataFrame
    rock_cutoff: pl.DataFrame
    rock_selectors: pl.DataFrame
    rock_outputs: pl.DataFrame
    rock_example: pl.DataFrame
    rock_persistence: pl.DataFrame
    rock_composition: pl.DataFrame
    rock_evidence: pl.DataFrame
    rock_by_group: pl.DataFrame


@public_analysis
def rock_tokens(
    run: Run | str | Path | Tokens,
    rollouts: pl.DataFrame | None = None,
    *,
    checkpoint: str | Sequence[str] | None = None,
    policy: str | None = None,
    step: int | None = None,
    group: str | None = None,
    second: Run | str | Path | tuple[Tokens, pl.DataFrame] | None = None,
    second_checkpoint: str | None = None,
    preset: str = "opd-diag",
    loss: str = "reverse_kl",
    rank_by: str = "last",
    top: int = 100,
    min_count: int = 2,
    exclude_top_frequent: int | None = None,
    detail: int = 500,
    tau: str = "own",
    eta: float = ETA,
    seed: int = 0,
) -> RockTokens:
    """Find the token types that hold the most loss, and ask if that is more than frequency.

    Types are ranked by R = n m, the summed loss under the last checkpoint. Beside R stands the
    lift, m over the mean of all tokens: a list of frequent types holds much loss at lift 1. Whether
    rocks stay is asked of the prompts that did not choose them, since chosen on the same rows
    they seem to learn when nothing changes.

    Args:
        run: A run, its folder, or a token table with the columns rollout, position, token_id,
            in_loss, grad_logits and those of the loss.
        rollouts: The rollouts (rollout, prompt_id, half), with a token table only.
        checkpoint: Checkpoints to compare, in the order that is given; None: all.
        policy: Only rollouts of this policy.
        step: Only rollouts of this training step.
        group: Only rollouts of this group, such as a domain or an environment.
        second: A run of other rollouts (or its token table and rollouts), to compare the first
            checkpoint with in place of later ones: its rollouts under its last checkpoint. Nothing
            is paired then, and every table says so. `policy` and `step` do not filter it.
        second_checkpoint: Its checkpoint; None: the last one.
        preset: `opd-diag`, or `paper`, which drops the 5 most frequent types and takes ranks
            101-200 as controls.
        loss: `reverse_kl`, `forward_kl` or `sampled_log_ratio` (student_logp - teacher_logp).
        rank_by: Checkpoint whose loss ranks: the `last`, after saturation; the `first`; or `joint`,
            the smaller R of both.
        top: Types in the list, K.
        min_count: Fewest occurrences of a type that is ranked.
        exclude_top_frequent: Most frequent types left out; None: the preset's, 0 or 5.
        detail: Types by R that get intervals and the context stage.
        tau: Threshold of the context stage: `own` 80th percentile of each checkpoint, or that of
            the `first` for both.
        eta: Share of similar contexts that makes a context a recurring one.
        seed: Seed of every draw.

    Returns:
        Ten tables.

    Raises:
        OptionError: If a preset, loss, rank_by or tau is unknown, a number is out of range, or the
            second run holds the rollouts of the run itself.
        TableError: If a checkpoint, policy, step or group is unknown, or the tables do not fit.

    Source: arXiv 2605.09253; defaults of `opd-diag` and all controls are ours.
    """
    if second is None and second_checkpoint is not None:
        raise OptionError("second_checkpoint: no second run; expected both")
    options = Options(
        preset=preset,
        loss=loss,
        rank_by=rank_by,
        top=top,
        min_count=min_count,
        exclude_top_frequent=exclude_top_frequent,
        detail=detail,
        tau=tau,
        eta=eta,
        seed=seed,
    )
    source = as_source(run, rollouts)
    names = choose_checkpoints(source, checkpoint, as_asked=True)
    chosen = choose_rollouts(source.rollouts, policy, step, group)

    read = names[:1] if second is not None else names
    occurrences = read_occurrences(source, read, chosen, loss, rank_by=rank_by)
    cells = prompt_cells(occurrences)
    sums = panel = prompt_sums(occurrences, cells)
    other = None
    if second is not None:
        other = _second_run(occurrences, second, second_checkpoint, loss)
        panel = beside(sums, prompt_sums(*other))

    ranking = rank_types(occurrences, sums, panel, options)
    ranked = occurrences.names[occurrences.ranked]
    noise = _noise_floor(source, ranked, loss)
    places = response_places(occurrences, noise)
    texts = vocabulary(source)
    # Gradient sums are those of all rollouts: of a part they are not known.
    whole = policy is None and step is None and group is None
    gradients = gradient_sums(source, ranked) if whole else None
    groups = choose_groups(ranking)
    types = type_table(ranking, places, gradients, texts, noise)
    lists = list_rows(ranking)
    outputs = output_table(ranking)
    hardness = find_hard(occurrences)
    classes = _classes(occurrences, texts)
    return RockTokens(
        rock_tokens=types,
        rock_groups=group_table(ranking, groups, types),
        rock_cutoff=cutoff_table(ranking, lists),
        rock_selectors=selector_table(ranking, lists),
        rock_outputs=outputs,
        rock_example=example_table(ranking, outputs, texts),
        rock_persistence=persistence_table(
            ranking,
            cells=cells,
            hardness=hardness,
            groups=groups,
            classes=classes,
            types=types,
            second=other,
        ),
        rock_composition=composition_table(
            ranking,
            classes,
            released=_result_of(source, "release_points", ranked),
            trapped=_result_of(source, "agreement_traps", ranked),
        ),
        rock_evidence=evidence_table(
            ranking,
            places=places,
            hardness=hardness,
            groups=groups,
            lists=lists,
        ),
        rock_by_group=group_share_table(ranking, chosen),
    )


def _second_run(
    occurrences: Occurrences,
    second: Run | str | Path | tuple[Tokens, pl.DataFrame],
    checkpoint: str | None,
    loss: str,
) -> tuple[Occurrences, Cells]:
    """Read the second run, which must hold other rollouts."""
    source = as_source(*second) if isinstance(second, tuple) else as_source(second)
    names = choose_checkpoints(source, checkpoint)[-1:]
    other = read_occurrences(source, names, choose_rollouts(source.rollouts), loss)
    ours, theirs = (one.token_id[one.kind] for one in (occurrences, other))
    if np.array_equal(ours, theirs) and np.array_equal(occurrences.rollout, other.rollout):
        raise OptionError(
            "second: the same rollouts as the run; expected a run of other rollouts (checkpoints "
            "of one run are compared without it)"
        )
    return other, prompt_cells(other)


def _classes(occurrences: Occurrences, vocabulary: pl.DataFrame | None) -> pl.Series | None:
    """Give the class of each type that occurs, or None without a vocabulary."""
    if vocabulary is None:
        return None
    ids = pl.DataFrame({"token_id": occurrences.token_id})
    return token_classes(ids.join(vocabulary, on="token_id", how="left", maintain_order="left"))


def _result_of(source: Source, name: str, checkpoint: str) -> pl.DataFrame | None:
    """Return the rows of a finished result under one checkpoint, or None."""
    table = finished_result(source, name)
    return None if table is None else table.filter(pl.col("checkpoint") == checkpoint)


def _noise_floor(source: Source, checkpoint: str, loss: str) -> float | None:
    """Return what the loss moves by when it is scored again, nat; None where that is not known."""
    return source.noise_floor(checkpoint).get(loss) if isinstance(source, Run) else None
