"""Ask which tokens an update of the student served, by derivatives of every token's KL along it."""

from collections.abc import Mapping
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple

import polars as pl

from opd_diag.errors import OptionError
from opd_diag.scoring.models.fingerprints import require_scored, scored_student
from opd_diag.scoring.models.forward import LanguageModel
from opd_diag.scoring.models.loading import Loading, load_model
from opd_diag.scoring.progress import Progress, StderrProgress
from opd_diag.tables.arguments import at_least, public_analysis
from opd_diag.tables.columns.update_alignment import TABLES
from opd_diag.tables.manifest import digest
from opd_diag.tables.run import Run, open_run
from opd_diag.tables.schema import empty_table
from opd_diag.tables.source import choose_rollouts
from opd_diag.tables.teacher_sources import BY_GROUP, LOGPROBS, unproven_weights, without_weights
from opd_diag.updates.report import summary_lines
from opd_diag.updates.subspace import choose_matrices, subspace_table
from opd_diag.updates.summary import label_tokens, summarise
from opd_diag.updates.tokens import (
    Pair,
    TokenDerivatives,
    affordable,
    sample_rollouts,
    seconds_per_rollout,
    write_tokens,
)

__all__ = ["UpdateAlignment", "summary_lines", "update_alignment"]


class UpdateAlignment(NamedTuple):
    """The tables of `update_alignment`.

    Attributes:
        update_alignment: First-order and realised change by group of tokens, beside its controls.
        update_tokens: The same for every token of the sample.
        update_subspace: Share of the groups' gradients in the leading directions of the update.
    """

    update_alignment: pl.DataFrame
    update_tokens: pl.DataFrame
    update_subspace: pl.DataFrame


@public_analysis
def update_alignment(
    run: Run | str | Path,
    *,
    teacher: str | None = None,
    students: Mapping[str, str] | None = None,
    group: str | None = None,
    rollouts: int | None = None,
    max_tokens: int | None = None,
    without_random: bool = False,
    subspace: int = 0,
    matrices: str = "*",
    trust_remote_code: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> UpdateAlignment:
    """Find which tokens an update of the parameters served, to first order.

    For consecutive checkpoints a and b, the derivative of a token's KL at a along b - a is how much
    of the first-order change of that token's loss the update brought; it adds over tokens. Beside
    it stand the change that was realised, the same derivative along random directions as long as
    the update in every matrix, and shares with the groups moved inside the rollouts. A later pair
    of checkpoints is the control for tokens that an earlier update was trained on.

    Args:
        run: A run with two or more checkpoints, or its folder.
        teacher: Folder or hub id of the teacher; None: as scored. Needed where the run was scored
            with log-probs of the teacher, which do not tell its weights.
        students: Folders or hub ids by checkpoint; None: as scored. Weights other than those that
            were scored are refused.
        group: Only rollouts of this group, such as a domain or an environment.
        rollouts: Rollouts to differentiate, spread over prompts; None: as many as take about ten
            minutes under all updates. More of them are added to those that are there.
        max_tokens: First tokens of a response to differentiate; None: all. Memory grows with the
            square of the longest sequence.
        without_random: Leave out the 20 random directions, which take 20 times the work.
        subspace: Leading directions of the update on which gradients are projected; 0: none.
        matrices: Pattern of the names of matrices for `subspace`, such as `*.o_proj.weight`.
        trust_remote_code: Whether code that comes with a model may run.
        seed: Seed of the sample, the shifts and the intervals.
        progress: Where progress goes; by default stderr.

    Returns:
        Three tables; the last is empty without `subspace`.

    Raises:
        OptionError: If the run has one checkpoint or lacks that of a student, the teacher's
            weights are not known, a number is out of range, or the longest response does not fit
            into memory.
        ModelError: If a model cannot be loaded, or derivatives fail the check by central
            differences on the first rollout.
        ModelMismatchError: If weights are not those that were scored.
        TableError: If there is no such group.

    Source: arXiv 2606.09471 (projection of phase gradients); the first-order form and all controls
        are opd-diag's.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    names = opened.checkpoints
    if len(names) < 2:
        raise OptionError("run: one checkpoint; expected two or more, an update lies between them")
    at_least(1, rollouts=rollouts, max_tokens=max_tokens)
    at_least(0, subspace=subspace, seed=seed)
    known, identity = opened.manifest.checkpoints, opened.manifest.fingerprint
    if "teacher_states" in identity:
        raise OptionError(
            f"{opened.path}: scored with hidden states of the teacher; expected a run scored with "
            "its weights, which are needed again"
        )
    if opened.teacher_source == BY_GROUP:
        raise OptionError(
            f"{opened.path}: scored with several teachers; expected a run of one, under which the "
            "update is differentiated"
        )
    if opened.teacher_source == LOGPROBS and teacher is None:
        raise OptionError(without_weights(opened.path, "the update is differentiated under"))
    scored_tokens = [n for n in (max_tokens, identity.get("max_response_tokens")) if n is not None]
    max_tokens = min(scored_tokens, default=None)
    paths = {
        name: scored_student(known, name, students, trust_remote_code=trust_remote_code)
        for name in names
    }
    big_path = teacher or opened.manifest.teacher.path
    big_print = digest(identity["teacher"]) if identity.get("teacher") else None
    require_scored(
        big_path,
        big_print,
        "teacher",
        recorded=opened.manifest.teacher.path,
        option="--teacher FOLDER",
        trust_remote_code=trust_remote_code,
    )
    how = Loading(attn="eager", trust_remote_code=trust_remote_code)
    big = load_model(big_path, how)
    sample = sample_rollouts(choose_rollouts(opened.rollouts, group=group), seed=seed)
    temperature = float(identity.get("temperature", 1.0))
    count = rollouts
    pairs: list[tuple[pl.DataFrame, pl.DataFrame]] = []
    projected = []
    with progress or StderrProgress() as tell:
        if opened.teacher_source == LOGPROBS:
            tell.say(unproven_weights(big_path))
        models: dict[str, LanguageModel] = {}
        for pair_names in pairwise(names):
            for name in list(models):
                if name not in pair_names:
                    del models[name]
            for name in pair_names:
                if name not in models:
                    models[name] = load_model(paths[name], how)
            before, after = (models[name] for name in pair_names)
            pair = Pair(before, after, big, opened.vocab.height, temperature)
            maker = TokenDerivatives(opened, pair, draws=not without_random, max_tokens=max_tokens)
            maker.require_memory(sample[: count or 1])
            worst = maker.check(sample[0])
            if count is None:
                seconds = seconds_per_rollout(maker, sample[0]) * (len(names) - 1)
                count = affordable(seconds, len(sample))
            chosen = sample[: min(count, len(sample))]
            maker.require_memory(chosen)
            tell.say(
                f"{pair_names[0]} to {pair_names[1]}: {len(chosen)} of {len(sample)} rollouts; "
                f"derivatives agree with central differences within {worst:.1e} of the largest"
            )
            tell.start("update alignment", int(maker.tokens_of(chosen)))
            weights = {
                "before": known[pair_names[0]].fingerprint,
                "after": known[pair_names[1]].fingerprint,
                "teacher": big_print,
                "temperature": temperature,
            }
            tokens = write_tokens(opened, pair_names, maker, chosen, tell, weights=weights)
            labels = label_tokens(opened, tokens, pair_names[0])
            pairs.append((tokens, labels))
            if subspace:
                projected.append(
                    subspace_table(
                        maker,
                        maker.update,
                        labels,
                        pair_names,
                        directions=subspace,
                        matrices=choose_matrices(maker.update, matrices),
                        seed=seed,
                    )
                )
    later = [tokens for tokens, _ in pairs[1:]]
    tables = {
        "update_alignment": [
            summarise(tokens, labels, later=following, seed=seed)
            for (tokens, labels), following in zip_longest(pairs, later)
        ],
        "update_tokens": [tokens for tokens, _ in pairs],
        "update_subspace": projected,
    }
    return UpdateAlignment(
        **{
            name: pl.concat(frames) if frames else empty_table(TABLES[name])
            for name, frames in tables.items()
        }
    )
