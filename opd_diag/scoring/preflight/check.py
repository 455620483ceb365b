"""Preflight: what a scoring job will meet, from its files and from one batch."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from opd_diag.errors import OpdDiagError
from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.models.fingerprints import fingerprint
from opd_diag.scoring.models.forward import LanguageModel, is_out_of_memory
from opd_diag.scoring.models.loading import Loading, default_device, default_dtype
from opd_diag.scoring.options import (
    check_grid,
    check_loading,
    check_numbers,
    named_students,
)
from opd_diag.scoring.overlong import fit_rollouts, overlong_line
from opd_diag.scoring.parts.jobs import Job, Models, load_jobs
from opd_diag.scoring.parts.token_frame import flat
from opd_diag.scoring.preflight.findings import (
    GREEN,
    RED,
    YELLOW,
    Finding,
    rollout_findings,
    tokenizer_findings,
)
from opd_diag.scoring.preflight.one_batch import BatchResult, choose_batch, score_one_batch
from opd_diag.scoring.preflight.resources import cost_findings, plan_findings
from opd_diag.scoring.sequences import Inputs, Origin, read_inputs
from opd_diag.scoring.teachers.by_group import check_several, named_teachers
from opd_diag.scoring.teachers.hidden_states import GivenStates
from opd_diag.scoring.teachers.source import check_source
from opd_diag.tables.columns.tokens import K_GRID
from opd_diag.tables.files import check_path
from opd_diag.tables.rollouts import Rollouts
from opd_diag.text.model_files import base_of_adapter, hub_options

# Mean KL of a student from itself in another batch: rounding of its dtype.
_MOST_SELF_KL = {4: 1e-6, 2: 1e-2}
_LEVELS = {
    "aligned": GREEN,
    "shifted by one": RED,
    "other temperature": YELLOW,
    "other checkpoint": YELLOW,
    "too few tokens": YELLOW,
}
# What the trainer took for the teacher's is a fault of its run, but for how it asked.
_TRAINER_LEVELS = {
    "aligned": GREEN,
    "too few tokens": YELLOW,
    "other temperature": YELLOW,
    "renormalised top K": YELLOW,
}


def check(
    rollouts: Rollouts,
    *,
    teacher: str | Mapping[str, str],
    students: Mapping[str, str] | str,
    teacher_by: str | None = None,
    tokenizer: str | None = None,
    out: str | Path | None = None,
    max_response_tokens: int | None = None,
    overlong: str = "skip",
    temperature: float = 1.0,
    dtype: str | None = None,
    device: str | None = None,
    teacher_states: str | None = None,
    teacher_norm: bool = False,
    teacher_logprobs: str | None = None,
    teacher_floor: float | None = None,
    attn: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    batch_tokens: int | None = None,
    part_tokens: int = 262_144,
) -> list[Finding]:
    """Foresee a scoring job: look at its files, and score one batch.

    Args:
        rollouts: What `read_rollouts` returns.
        teacher: Folder or hub id; of several, by the name of the group that each is for.
        students: Folders or hub ids of the checkpoints by name; a single one is named like its
            folder.
        teacher_by: `group`: each token would be scored by the teacher of its rollout's group; the
            batch is of the teacher that most rollouts have.
        tokenizer: Folder or hub id whose tokenizer the models without one share.
        out: Where the run would be written; the current folder by default.
        max_response_tokens: Only so many tokens of each response would be scored.
        overlong: What would become of a rollout that is longer than a model's context: `skip`,
            `cut` or `error`.
        temperature: Both models' logits are divided by it.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for the saved one; by default float32 on
            the CPU, the saved one on a GPU.
        device: Where both models go; a GPU if there is one.
        teacher_states: Folder of the teacher's final hidden states, as for `score`.
        teacher_norm: Take these states through the teacher's final norm.
        teacher_logprobs: File of the teacher's log-probs, or `dump`, as for `score`.
        teacher_floor: The least log-prob of an id that the file does not tell, as for `score`.
        attn: Attention implementation, as transformers names it.
        revision: Branch, tag or commit of hub ids.
        trust_remote_code: Whether code that comes with a model may run.
        batch_tokens: Most tokens of a batch; by default from free memory.
        part_tokens: Response tokens of a part of the tables, about.

    Returns:
        Findings in the order in which they were made. A red one that leaves nothing to go on with
        is the last.

    Raises:
        OptionError: If an option makes no sense.
    """
    check_path(out or ".")
    check_numbers(
        temperature=temperature,
        part_tokens=part_tokens,
        batch_tokens=batch_tokens,
        max_response_tokens=max_response_tokens,
    )
    check_loading(dtype=dtype, devices=(device,))
    source = check_source(teacher_states, teacher_norm, teacher_logprobs, teacher_floor)
    teachers = named_teachers(teacher, teacher_by)
    first, *others = teachers.values()
    check_several(others, teacher_states, teacher_logprobs)
    names = named_students(students)
    origin = Origin(revision=revision, trust_remote_code=trust_remote_code)
    findings = rollout_findings(rollouts)
    for name, path in names.items():
        for own in teachers.values():
            about = tokenizer_findings(rollouts.table, own, path, fallback=tokenizer, **origin)
            findings += _of_student(about, name, names)
    if any(finding.level == RED for finding in findings):
        return findings
    device = device or default_device()
    how = Loading(dtype=dtype or default_dtype(device), device=device, attn=attn, **origin)
    results: list[BatchResult] = []
    try:
        for path in (*([] if source.logprobs else teachers.values()), *names.values()):
            fingerprint(path, **origin)
        rollouts = fit_rollouts(
            rollouts,
            teachers.values(),
            names,
            overlong=overlong,
            max_response_tokens=max_response_tokens,
            origin=origin,
        )
        if too_long := overlong_line(rollouts.report):
            findings.append(Finding(YELLOW, "overlong", too_long))
        inputs = read_inputs(
            rollouts,
            first,
            names,
            others=others,
            max_response_tokens=max_response_tokens,
            tokenizer=tokenizer,
            origin=origin,
        )
        measures = Measures(check_grid(K_GRID, inputs.vocab.height), 16, temperature)
        models = Models(
            first,
            names,
            how,
            how,
            source,
            others=dict(list(teachers.items())[1:]),
            group=next(iter(teachers)),
        )
        for group in load_jobs(inputs, measures, models):
            for name, student in group.students.items():
                job = group._replace(students={name: student})
                about = [
                    *_model_findings(job, origin),
                    *plan_findings(job, batch_tokens, part_tokens),
                ]
                result = _one_batch(job, inputs)
                if result is None:
                    about.append(
                        Finding(RED, "memory", "one batch does not fit beside the weights")
                    )
                    return findings + _of_student(about, name, names)
                results.append(result)
                findings += _of_student([*about, *_batch_findings(job, result)], name, names)
    except OpdDiagError as error:
        return [*findings, Finding(RED, "models", str(error))]
    return findings + cost_findings(inputs, job, results, out, part_tokens)


def _one_batch(job: Job, inputs: Inputs) -> BatchResult | None:
    """Score one batch of a job with one student; None if that does not fit into memory."""
    scored = job.sequences.responses.lengths
    if job.teacher_of is not None:
        most = np.bincount(job.teacher_of, weights=scored > 0).argmax()
        scored = np.where(job.teacher_of == most, scored, 0)
    batch = choose_batch(job.sequences.lengths, scored)
    ((job, _),) = job.by_teacher(batch)
    try:
        sampled, trainer = (
            _of_tokens(inputs, job, batch, name)
            for name in ("sampled_logp", "trainer_teacher_logp")
        )
        return score_one_batch(job, batch, sampled, trainer)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _of_student(
    findings: Sequence[Finding], name: str, students: Mapping[str, str]
) -> list[Finding]:
    """Name the student in what is said of it, where there are several."""
    if len(students) == 1:
        return list(findings)
    return [finding._replace(what=f"{finding.what} ({name})") for finding in findings]


def _of_tokens(inputs: Inputs, job: Job, batch: np.ndarray, name: str) -> np.ndarray:
    """Return a column of log-probs of the tokens in the loss, NaN elsewhere."""
    lengths = job.sequences.responses.lengths[batch]
    values, in_loss = (
        flat(inputs.table[column].gather(batch), lengths) for column in (name, "loss_mask")
    )
    return pl.select(pl.when(in_loss.fill_null(True)).then(values)).to_series().to_numpy()


def _model_findings(job: Job, origin: Origin) -> list[Finding]:
    (student,) = job.students.values()
    findings = []
    teachers = [("teacher", one) for one in (job.teacher, *job.others)]
    for role, model in (*teachers, ("student", student)):
        if job.logprobs is not None and role == "teacher":
            known = job.logprobs
            told = f"{known.ids.shape[1]} ids a token" if known.ids.shape[1] else "sampled tokens"
            detail = f"log-probs of {known.where} ({told}) for every rollout; no weights are read"
            findings.append(Finding(GREEN, "teacher", detail))
            continue
        if job.given is not None and role == "teacher":
            findings.append(_given_finding(model, job.given))
            continue
        saved = _saved_dtype(model.name, origin)
        findings.append(
            Finding(
                GREEN,
                role,
                f"{type(model.model).__name__}, {_plain(model.model.dtype)} (saved as "
                f"{_plain(saved)}), {model.width:,} logits of which {job.ids:,} are decodable; "
                f"head {_head(model)}, agrees with the model's own logits",
            )
        )
    return findings


def _kl_finding(result: BatchResult) -> Finding:
    if result.reverse_kl is None:
        return Finding(YELLOW, "reverse KL", "the teacher's log-probs bound it at the most")
    return Finding(
        GREEN if result.reverse_kl > 10 * result.self_kl else YELLOW,
        "reverse KL",
        f"mean {result.reverse_kl:.3g} nat on {result.rows:,} tokens",
    )


def _given_finding(teacher: LanguageModel, given: GivenStates) -> Finding:
    normed = "taken through its norm" if len(list(teacher.body.parameters())) else "as they stand"
    return Finding(
        GREEN,
        "teacher",
        f"hidden states of {given.folder} for every rollout, {normed}; its head has "
        f"{teacher.width:,} logits, its layers are not loaded",
    )


def _saved_dtype(name: str, origin: Origin) -> object:
    """Read it from the folder: a loaded model's config tells the dtype that it was loaded with."""
    from transformers import AutoConfig

    source = base_of_adapter(name) or name
    with contextlib.suppress(OSError, ValueError):
        config = AutoConfig.from_pretrained(source, **origin, **hub_options(source))
        return getattr(config, "dtype", None)
    return None


def _plain(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _head(model: LanguageModel) -> str:
    head = model.head
    features = [
        "with bias" if head.bias is not None else "",
        f"scale {head.scale:g}" if head.scale != 1.0 else "",
        f"soft cap {head.soft_cap:g}" if head.soft_cap is not None else "",
        "tied" if model.model.config.get_text_config().tie_word_embeddings else "",
    ]
    return ", ".join(feature for feature in features if feature) or "plain"


def _batch_findings(job: Job, result: BatchResult) -> list[Finding]:
    (student,) = job.students.values()
    limit = _MOST_SELF_KL[student.model.dtype.itemsize]
    aligned, trainer = result.alignment, result.trainer_teacher
    seen = [
        Finding(
            GREEN if result.self_kl <= limit else RED,
            "self-KL",
            f"mean {result.self_kl:.2g} nat of the student from itself in another batch; at most "
            f"{limit:g} expected",
        ),
        _kl_finding(result),
        Finding(
            _LEVELS[aligned.diagnosis],
            "generator's log-probs",
            f"{aligned.diagnosis}: {aligned.detail}",
        ),
    ]
    if trainer is not None:
        level = _TRAINER_LEVELS.get(trainer.diagnosis, RED)
        detail = f"{trainer.diagnosis}: {trainer.detail}"
        seen.append(Finding(level, "trainer's log-probs of the teacher", detail))
    return seen
