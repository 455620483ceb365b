"""One part of a run: batches through the models, chunks of rows through the heads, and its files.

Nothing here keeps a state: what is scored, how, and where to are arguments.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from opd_diag.scoring.columns.buffers import Buffers
from opd_diag.scoring.columns.gradients import TypeSums
from opd_diag.scoring.columns.known_teacher import score_known, unpack
from opd_diag.scoring.columns.measures import Columns
from opd_diag.scoring.columns.rows import Rows, score_rows
from opd_diag.scoring.models.forward import LanguageModel, response_states, through_norm
from opd_diag.scoring.models.heads import Head
from opd_diag.scoring.parts.alignment import count_differences, pack
from opd_diag.scoring.parts.batches import plan_batches, with_smaller_batches
from opd_diag.scoring.parts.jobs import Job
from opd_diag.scoring.parts.teacher_audit import (
    TRAINER_COLUMNS,
    compared_with,
    count_audit,
    count_top,
)
from opd_diag.scoring.parts.teacher_states import PartStates, StatesFolder
from opd_diag.scoring.parts.token_frame import flat, key_columns, part_responses, token_frame
from opd_diag.scoring.progress import Counter, Report
from opd_diag.scoring.sequences import Inputs
from opd_diag.scoring.teachers.hidden_states import rows_of
from opd_diag.scoring.teachers.logprobs import DUMP
from opd_diag.stats.ragged import starts_of
from opd_diag.tables.checksums import Checksum, checksum
from opd_diag.tables.columns.tokens import truncated_grid
from opd_diag.tables.gradients import GradientSums, gradients_path, write_gradients
from opd_diag.tables.manifest import Part
from opd_diag.tables.tokens import part_path, write_part

Arrays = dict[str, NDArray[Any]]


class ScoredPart(NamedTuple):
    """A part of one checkpoint.

    Attributes:
        frame: Its token table.
        sums: Sums of the hidden-state gradient.
        statistics: Counts and sums of the part, JSON values.
    """

    frame: pl.DataFrame
    sums: GradientSums
    statistics: dict[str, Any]


class PartPlan(NamedTuple):
    """Which part is scored, and how.

    Attributes:
        number: Its number.
        part: Its rollouts.
        batch_tokens: Most tokens of a batch, padding counted.
        segmenter: Name of the segmenter.
        keep_states: Whether the teacher's hidden states are kept in the run.
        states: Checksum of the file that holds them already, or None.
    """

    number: int
    part: Part
    batch_tokens: int
    segmenter: str
    keep_states: bool = False
    states: Checksum | None = None


def score_and_write_part(
    job: Job, inputs: Inputs, folder: Path, plan: PartPlan, report: Report
) -> None:
    """Score a part under every student of a job, and write its files.

    Args:
        job: The models.
        inputs: Rollouts and vocabulary.
        folder: The run.
        plan: The part.
        report: Told of progress, of files that were written, and of a smaller batch size where
            memory ran out.

    Raises:
        ModelError: If one rollout does not fit into memory.
        StorageError: If a file cannot be written.
    """
    number, part = plan.number, plan.part
    responses = part_responses(job.sequences.responses, part)
    keys = key_columns(inputs.table, part, responses, inputs.vocab, plan.segmenter)
    sampled = flat(inputs.table["sampled_logp"][part.start : part.stop], responses.lengths)
    # What stands for a token that nobody generated, such as a tool's, is no log-prob of it.
    sampled = pl.select(pl.when(keys["in_loss"]).then(sampled)).to_series()
    trainer = {
        name: pl.select(
            pl.when(keys["in_loss"]).then(
                flat(inputs.table[name][part.start : part.stop], responses.lengths)
            )
        )
        .to_series()
        .cast(pl.Float64)
        .to_numpy()
        for name in TRAINER_COLUMNS
    }
    states_folder = StatesFolder(folder)
    known = states_folder.read(number, plan.states)
    if plan.states is not None and known is None:
        report("say", f"{states_folder.path(number)}: damaged; the teacher runs again")
    teacher = PartStates(known, wanted=_keeps_states(plan, job) and known is None)

    def attempt(batch_tokens: int) -> dict[str, ScoredPart]:
        counter = Counter(report, len(job.students))
        try:
            return score_part(
                job, part, keys, batch_tokens=batch_tokens, advance=counter.add, teacher=teacher
            )
        except BaseException:
            counter.take_back()
            raise

    def smaller(batch_tokens: int) -> None:
        report("say", f"out of memory: going on with batches of {batch_tokens} tokens")
        report("resize", (number, batch_tokens))

    longest = int(job.sequences.lengths[part.start : part.stop].max())
    scored = with_smaller_batches(attempt, plan.batch_tokens, longest, smaller)
    if teacher.wanted and teacher.values is not None:
        states_folder.write(number, teacher.values)
        _report_written(report, folder, states_folder.path(number))
    for name, one in scored.items():
        student = one.frame["student_logp"].to_numpy()
        counts = count_differences(sampled.to_numpy(), student, keys["rollout"].to_numpy())
        statistics = {**one.statistics, "sampled_difference": pack(counts)}
        k_grid = job.measures.k_grid
        from_dump = job.logprobs is not None and job.logprobs.where == DUMP
        if not from_dump and (
            audit := count_audit(
                trainer["trainer_teacher_logp"],
                compared_with(one.frame, k_grid, truncated_grid(k_grid)),
                keys["rollout"].to_numpy(),
                count_top(trainer, one.frame["teacher_top_id"].to_numpy()),
            )
        ):
            statistics["trainer_teacher"] = audit.packed()
        write_gradients(one.sums, folder, name, number)
        write_part(
            one.frame,
            folder,
            name,
            number,
            k_grid=k_grid,
            statistics=statistics,
        )
        paths = gradients_path(folder, name, number), part_path(folder, name, number)
        _report_written(report, folder, *paths)


def _keeps_states(plan: PartPlan, job: Job) -> bool:
    """Tell whether the teacher's hidden states are kept; those of several are of several widths."""
    return plan.keep_states and not job.reads_teacher and not job.others


def _report_written(report: Report, folder: Path, *paths: Path) -> None:
    """Tell which files were written: they belong to the run once its manifest lists them."""
    report("wrote", {path.relative_to(folder).as_posix(): checksum(path) for path in paths})


def score_part(
    job: Job,
    part: Part,
    keys: pl.DataFrame,
    *,
    batch_tokens: int,
    advance: Callable[[int], None],
    teacher: PartStates | None = None,
) -> dict[str, ScoredPart]:
    """Score a part under every student of a job.

    Args:
        job: What is scored.
        part: The part.
        keys: Its key columns and `half`. One row per token.
        batch_tokens: Most tokens of a batch, padding counted.
        advance: Told the number of tokens after each batch.
        teacher: Hidden states of the teacher: known, or to be gathered.
    """
    teacher = teacher or PartStates()
    token_id, half = keys["token_id"].to_numpy(), keys["half"].to_numpy()
    in_loss = keys["in_loss"].to_numpy()
    sums = {
        name: TypeSums(token_id, half, in_loss, hidden=student.hidden, device=_device(student))
        for name, student in job.students.items()
    }
    arrays: dict[str, Arrays] = {name: {} for name in job.students}
    lengths = job.sequences.responses.lengths[part.start : part.stop]
    nonempty = np.flatnonzero(lengths)
    starts = starts_of(lengths)
    buffers = Buffers()
    long = job.sequences.lengths[part.start : part.stop]
    batches = [
        (own, nonempty[places[batch]])
        for own, places in job.by_teacher(part.start + nonempty)
        for batch in plan_batches(long[nonempty[places]], batch_tokens)
    ]
    for own, chosen in batches:
        rows = np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in chosen])
        rollouts = part.start + chosen
        if teacher.known:
            states = teacher.at(torch.from_numpy(rows), job.teacher.head.weight.device)
        else:
            states = states_of_teacher(own, rollouts)
            teacher.gather(torch.from_numpy(rows), states, part.rows)
        places = torch.from_numpy(rows).to(states.device)
        chunks: dict[str, list[Columns]] = {name: [] for name in job.students}
        for name, columns, chunk, gradient in _score_batch(
            own, rollouts, token_id[rows], states, buffers
        ):
            sums[name].add(places[chunk], gradient)
            chunks[name].append(columns)
        for name, scored in chunks.items():
            for column, values in _to_host(scored).items():
                shape = (part.rows, *values.shape[1:])
                into = arrays[name].setdefault(column, np.empty(shape, values.dtype))
                into[rows] = values
        advance(len(rows))
    return {name: _as_part(job, keys, arrays[name], sums[name]) for name in job.students}


def score_rollouts(job: Job, rollouts: NDArray[np.integer]) -> dict[str, Arrays]:
    """Score a few rollouts in one batch, or one for each of their teachers.

    Args:
        job: What is scored.
        rollouts: Which rollouts, none of them empty.

    Returns:
        Columns of every student, rows in the order of `rollouts`.
    """
    responses = job.sequences.responses
    scored: dict[str, list[Arrays]] = {name: [] for name in job.students}
    number = []
    for own, places in job.by_teacher(rollouts):
        some = rollouts[places]
        tokens = np.concatenate([responses[i] for i in some])
        chunks: dict[str, list[Columns]] = {name: [] for name in job.students}
        states = states_of_teacher(own, some)
        for name, columns, _, _ in _score_batch(own, some, tokens, states, Buffers()):
            chunks[name].append(columns)
        number.append(np.repeat(places, responses.lengths[some]))
        for name, values in chunks.items():
            scored[name].append(_to_host(values))
    order = np.argsort(np.concatenate(number), kind="stable")
    return {
        name: {key: np.concatenate([one[key] for one in parts])[order] for key in parts[0]}
        for name, parts in scored.items()
    }


def states_of_teacher(job: Job, rollouts: NDArray[np.integer]) -> Tensor:
    """Compute or read the teacher's hidden states at the response tokens of some rollouts.

    Where its log-probs alone are known, these, as `unpack` takes them apart.
    """
    _, prompts, responses = job.sequences
    numbers = [int(rollout) for rollout in rollouts]
    if job.logprobs is not None:
        return job.logprobs.rows(numbers).to(_device(job.teacher))
    if job.given is None:
        return response_states(job.teacher, prompts, responses, numbers)
    return through_norm(job.teacher, rows_of(job.given, prompts, responses, numbers))


def _score_batch(
    job: Job,
    rollouts: NDArray[np.integer],
    tokens: NDArray[np.int32],
    teacher_states: Tensor,
    buffers: Buffers,
) -> Iterator[tuple[str, Columns, slice, Tensor]]:
    """Yield (student, columns, rows of the batch, hidden-state gradient), chunk by chunk."""
    prompts, _, responses = job.sequences
    numbers = [int(rollout) for rollout in rollouts]
    states = {
        name: response_states(student, prompts, responses, numbers)
        for name, student in job.students.items()
    }
    heads = [student.head.cut(0, job.ids) for student in job.students.values()]
    teacher_head = job.teacher.head.cut(0, job.ids)
    targets = torch.from_numpy(tokens.astype(np.int64)).to(teacher_states.device)
    for start in range(0, len(tokens), job.chunk_rows):
        chunk = slice(start, min(start + job.chunk_rows, len(tokens)))
        if job.logprobs is not None:
            known = unpack(teacher_states[chunk])
            for (name, student), head in zip(job.students.items(), heads, strict=True):
                rows = Rows(head, states[name][chunk])
                columns = score_known(targets[chunk], known, rows, job.measures, job.floor)
                inside = columns.pop("student_log_sum")
                outside = student.head.cut(job.ids, student.width)
                columns["student_outside"] = _outside(
                    outside, rows.hidden, inside, job.measures.temperature
                )
                columns["teacher_outside"] = torch.zeros_like(inside)
                # No gradient of the KL is known: what is not finite is left out of its sums.
                shape = (len(inside), student.hidden)
                yield name, columns, chunk, torch.full(shape, torch.nan, device=inside.device)
            continue
        students = [
            Rows(head, own[chunk]) for head, own in zip(heads, states.values(), strict=True)
        ]
        scored = score_rows(
            targets[chunk],
            Rows(teacher_head, teacher_states[chunk]),
            students,
            job.measures,
            buffers,
        )
        for (name, student), rows, result in zip(
            job.students.items(), students, scored, strict=True
        ):
            columns = result.columns
            for role, model, hidden in (
                ("student", student, rows.hidden),
                ("teacher", job.teacher, teacher_states[chunk]),
            ):
                outside = model.head.cut(job.ids, model.width)
                inside = columns.pop(f"{role}_log_sum")
                columns[f"{role}_outside"] = _outside(
                    outside, hidden, inside, job.measures.temperature
                )
            yield name, columns, chunk, result.gradient


def _to_host(chunks: Sequence[Columns]) -> Arrays:
    """Join the columns of a batch and copy them once: a device waits at every copy."""
    arrays = {}
    for name in chunks[0]:
        values = torch.cat([chunk[name] for chunk in chunks])
        single = values.float() if values.dtype == torch.float64 else values
        arrays[name] = single.cpu().numpy()
    return arrays


def _outside(outside: Head, hidden: Tensor, inside: Tensor, temperature: float) -> Tensor:
    """Return the probability that a model gives to ids that no tokenizer decodes."""
    if not len(outside.weight):
        return torch.zeros_like(inside)
    log_sum = torch.logsumexp(outside.logits(hidden) / temperature, 1)
    return torch.sigmoid(log_sum - inside)


def _device(model: LanguageModel) -> str:
    return str(model.head.weight.device)


def _as_part(job: Job, keys: pl.DataFrame, columns: Arrays, sums: TypeSums) -> ScoredPart:
    outside = {role: columns.pop(f"{role}_outside") for role in ("student", "teacher")}
    finite = columns["finite"]
    frame = token_frame(keys, columns, job.measures.k_grid)
    without = len(finite) - int(finite.sum())
    nulls = {name: frame[name].null_count() - without for name in columns if name in frame.columns}
    statistics = {
        "rows": len(finite),
        "rows_not_finite": without,
        "values_not_finite": {name: count for name, count in nulls.items() if count},
        "mass_outside": {
            role: {"sum": float(mass[finite].sum(dtype=np.float64)), "max": _largest(mass[finite])}
            for role, mass in outside.items()
        },
    }
    return ScoredPart(frame, sums.sums(), statistics)


def _largest(mass: NDArray[Any]) -> float:
    return float(mass.max(initial=0.0))
