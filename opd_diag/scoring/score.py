"""Score saved rollouts under a teacher and one or more students."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.engines.choice import choose_engine
from opd_diag.scoring.engines.scheduler import Choices, Scheduler
from opd_diag.scoring.engines.worker import WorkerSpec
from opd_diag.scoring.models.fingerprints import fingerprint
from opd_diag.scoring.models.loading import Loading, default_dtype
from opd_diag.scoring.options import (
    check_fused,
    check_grid,
    check_loading,
    check_noise_floor,
    check_numbers,
    check_workers,
    named_students,
)
from opd_diag.scoring.overlong import fit_rollouts, overlong_line
from opd_diag.scoring.parts.jobs import Models
from opd_diag.scoring.parts.noise import sample_rollouts
from opd_diag.scoring.progress import Progress, StderrProgress
from opd_diag.scoring.record import RunRecord, open_record
from opd_diag.scoring.sequences import Inputs, Origin, plan_parts, read_inputs
from opd_diag.scoring.teachers.by_group import (
    check_several,
    fingerprint_teachers,
    named_teachers,
    teacher_of_rollouts,
    written,
)
from opd_diag.scoring.teachers.source import check_source
from opd_diag.tables.checksums import checksum, digest_table
from opd_diag.tables.columns.tokens import K_GRID
from opd_diag.tables.files import check_path, remove_leftovers, run_lock
from opd_diag.tables.manifest import SCHEMA_VERSION, Model
from opd_diag.tables.parquet import write_table
from opd_diag.tables.rollouts import (
    ROLLOUTS_NAME,
    VOCAB_NAME,
    Rollouts,
    read_rollouts_table,
    read_vocab,
    without_empty,
)
from opd_diag.tables.run import Run, open_run
from opd_diag.tables.teacher_sources import BY_GROUP
from opd_diag.text.segments import segmenter_spec


def score(
    rollouts: Rollouts,
    *,
    teacher: str | Mapping[str, str],
    students: Mapping[str, str] | str,
    teacher_by: str | None = None,
    out: str | Path,
    tokenizer: str | None = None,
    limit: int | None = None,
    max_response_tokens: int | None = None,
    overlong: str = "skip",
    temperature: float = 1.0,
    k_grid: Sequence[int] = K_GRID,
    union_k: int = 16,
    segmenter: str = "punkt",
    dtype: str | None = None,
    device: str | None = None,
    teacher_device: str | None = None,
    teacher_bits: int | None = None,
    teacher_states: str | None = None,
    teacher_norm: bool = False,
    teacher_logprobs: str | None = None,
    teacher_floor: float | None = None,
    device_map: str | None = None,
    devices: Sequence[str] | None = None,
    engine: str = "local",
    workers: int | None = None,
    attn: str | None = None,
    fused: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    batch_tokens: int | None = None,
    part_tokens: int = 262_144,
    keep_teacher_states: bool = False,
    noise_floor: str = "on",
    seed: int = 0,
    progress: Progress | None = None,
) -> Run:
    """Score saved rollouts with the teacher and each student checkpoint.

    The run is written part by part. The same call on the same folder goes on at the first missing
    part; a call with another checkpoint name adds it to the run, after those that are there. A
    call that names all checkpoints of the run sets their order.

    Args:
        rollouts: What `read_rollouts` returns.
        teacher: Folder or hub id of the teacher; of several, by the name of the group that each is
            for, `default` for all other rollouts.
        students: Folders or hub ids of the checkpoints by name, in order; a single one is named
            like its folder.
        teacher_by: `group`: each token is scored by the teacher of its rollout's group. All have
            one tokenizer.
        out: Folder of the run.
        tokenizer: Folder or hub id whose tokenizer the models without one share.
        limit: Score at most this many rollouts.
        max_response_tokens: Score at most this many tokens of each response.
        overlong: What becomes of a rollout that is longer than a model's context: `skip`, `cut`
            (its response) or `error`.
        temperature: Both models' logits are divided by it.
        k_grid: The K of the columns with one value per K, rising, from 2; cut at the size of the
            vocabulary.
        union_k: K of union_kl.
        segmenter: `punkt`, `newline` or `block:N`.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for the saved one; by default float32 on
            the CPU, the saved one on a GPU.
        device: Device of the students and of all logits; a GPU if there is one.
        teacher_device: Device of the teacher; by default that of the students.
        teacher_bits: 4 or 8 quantises the teacher's weights (bitsandbytes).
        teacher_states: Folder of the teacher's final hidden states, one safetensors file for each
            rollout with `token_ids` and `hidden_states`; of the teacher only norm and head are
            then read.
        teacher_norm: Take these states through the teacher's final norm: they were written before
            it.
        teacher_logprobs: File of the teacher's log-probs of the responses (JSON lines or Parquet;
            `opd_diag.scoring.teachers.logprobs` describes it), or `dump` for those that the
            rollouts hold. Of the teacher only config and tokenizer are then read. What they do not
            decide is bounded or null.
        teacher_floor: The least log-prob that the teacher gives to an id that the file does not
            tell (nat), for an upper bound of reverse_kl.
        device_map: `auto` spreads the teacher over all devices (accelerate).
        devices: Devices of this machine that share the parts, a process for each, such as
            `("cuda:0", "cuda:1")`. One that dies costs the part that it was scoring.
        engine: `ray` shares the parts among the workers of a Ray cluster (that of `RAY_ADDRESS`,
            else one of this machine). All of its machines see `out` and the models.
        workers: Number of Ray's workers; by default one for each GPU, or one for each machine
            where there is none. `device` and `device_map` are what a worker sees.
        attn: Attention implementation, as transformers names it.
        fused: Sum over the vocabulary in one Triton kernel (CUDA), not in plain torch: the same
            numbers but for rounding. Not measured on a GPU yet.
        revision: Branch, tag or commit of hub ids.
        trust_remote_code: Whether code that comes with a model may run.
        batch_tokens: Most tokens of a batch, padding counted; by default from free memory. A run
            that goes on keeps its own.
        part_tokens: Response tokens of a part of the tables, about.
        keep_teacher_states: Keep the teacher's final hidden states in the run, so that a
            checkpoint added later costs the student only. They are written in any case while
            students do not all fit into memory; a call without this removes them at its end.
        noise_floor: `on` scores 4 to 32 rollouts again, 5 % of the tokens at most, to learn how far
            each column moves when other rollouts share a batch; `off` leaves that out.
        seed: Seed of the sample for the noise floor.
        progress: Where progress and warnings go; by default stderr.

    Returns:
        The run, opened.

    Raises:
        RolloutError: If an id lies outside the vocabulary, or there is nothing to score.
        ModelError: If a model cannot be loaded or used, or one rollout does not fit into memory.
        ModelMismatchError: If tokenizers differ, or the folder holds another run.
        StorageError: If the folder cannot be written or another process writes to it.
        OptionError: If an option makes no sense, such as an unknown segmenter or device.
    """
    check_path(out)
    check_numbers(
        temperature=temperature,
        part_tokens=part_tokens,
        batch_tokens=batch_tokens,
        max_response_tokens=max_response_tokens,
        limit=limit,
        union_k=union_k,
        seed=seed,
    )
    check_noise_floor(noise_floor)
    check_grid(k_grid)
    placed = {"device": device, "teacher_device": teacher_device, "device_map": device_map}
    check_workers(engine=engine, devices=devices, workers=workers, others=placed)
    here = () if engine == "ray" else (device, teacher_device, *(devices or ()))
    check_loading(dtype=dtype, devices=here, bits=teacher_bits, device_map=device_map)
    source = check_source(teacher_states, teacher_norm, teacher_logprobs, teacher_floor)
    teachers = named_teachers(teacher, teacher_by)
    first, *others = teachers.values()
    check_several(others, teacher_states, teacher_logprobs, keep_states=keep_teacher_states)
    segments = segmenter_spec(segmenter)
    folder, names = Path(out), named_students(students)
    origin = Origin(revision=revision, trust_remote_code=trust_remote_code)
    rollouts = fit_rollouts(
        rollouts,
        teachers.values(),
        names,
        overlong=overlong,
        max_response_tokens=max_response_tokens,
        origin=origin,
    )
    inputs = read_inputs(
        rollouts,
        first,
        names,
        others=others,
        limit=limit,
        max_response_tokens=max_response_tokens,
        tokenizer=tokenizer,
        origin=origin,
    )
    teacher_of_rollouts(inputs.table, tuple(teachers))
    k_grid = check_grid(k_grid, inputs.vocab.height)
    scorers = choose_engine(engine, devices, workers)
    device = device or scorers.device
    if fused:
        check_fused(device)
    dtype = dtype or default_dtype(device)
    teacher_loading = Loading(
        dtype=dtype,
        device=teacher_device or device,
        head_device=device,
        device_map=device_map,
        attn=attn,
        bits=teacher_bits,
        **origin,
    )
    student_loading = Loading(dtype=dtype, device=device, attn=attn, **origin)
    with run_lock(folder), progress or StderrProgress() as display:
        if too_long := overlong_line(rollouts.report):
            display.say(f"warning: rollouts {too_long}")
        record = open_record(
            folder,
            fingerprint={
                "schema_version": SCHEMA_VERSION,
                "rollouts": digest_table(without_empty(inputs.table)),
                "teacher": {} if source.logprobs else fingerprint_teachers(teachers, **origin),
                "teacher_bits": teacher_bits,
                **source.fingerprint(),
                "tokenizer": digest_table(inputs.vocab),
                "k_grid": list(k_grid),
                "union_k": union_k,
                "temperature": temperature,
                "dtype": dtype,
                "max_response_tokens": max_response_tokens,
                "segmenter": segments | _at_spans(inputs),
                "part_tokens": part_tokens,
            },
            parts=plan_parts(inputs.sequences.responses.lengths, part_tokens),
            teacher=Model(written(teachers), source=BY_GROUP if teacher_by else source.name),
            rollouts=rollouts.report,
            say=display.say,
        )
        remove_leftovers(folder, ("tokens", "gradients", "teacher"))
        weights = {name: fingerprint(path, **origin) for name, path in names.items()}
        for path in record.drop_changed(names):
            display.say(f"{folder / path}: not as it was written; it is made again")
        before = list(record.manifest.checkpoints)
        for name in record.add_checkpoints(names, weights, trusted=trust_remote_code):
            display.say(f"checkpoint {name}: no part of it was finished; its claim is dropped")
        order = list(record.manifest.checkpoints)
        if before and order != before and len(order) > 1:
            display.say(
                f"order of the checkpoints: {', '.join(order)} (a call that names all of them "
                "sets it)"
            )
        inputs = _store(record, inputs)
        pending = {name: path for name, path in names.items() if record.is_pending(name)}
        if pending:
            spec = WorkerSpec(
                folder=folder.resolve(),
                parts=record.parts,
                max_response_tokens=max_response_tokens,
                shared=inputs.shared,
                segmenter=segmenter,
                measures=Measures(k_grid, union_k, temperature, fused),
                models=Models(
                    first,
                    pending,
                    teacher_loading,
                    student_loading,
                    source,
                    others=dict(list(teachers.items())[1:]),
                    group=next(iter(teachers)),
                ),
            )
            lengths = inputs.sequences.responses.lengths
            sample = sample_rollouts(lengths if noise_floor == "on" else lengths[:0], seed)
            choices = Choices(batch_tokens, keep_teacher_states, sample, int(lengths[sample].sum()))
            missing = set().union(*(record.missing(name) for name in pending))
            try:
                with scorers.start(spec, inputs, max(1, len(missing))) as pool:
                    Scheduler(pool, record, list(pending), choices, display).run()
            except KeyboardInterrupt:
                display.say(f"interrupted: {record.state()}; the same command goes on from there")
                raise
        if not keep_teacher_states:
            record.remove_teacher_states()
    return open_run(folder)


def _at_spans(inputs: Inputs) -> dict[str, object]:
    """Tell whether segments end where the loss does, which runs before schema version 3 ignored."""
    masks = inputs.table["loss_mask"]
    return {"ends_at_spans": True} if masks.null_count() < len(masks) else {}


def _store(record: RunRecord, inputs: Inputs) -> Inputs:
    """Write rollouts and vocabulary where the run lacks them, and return those of the run.

    They are other ones only if they were edited by hand and accepted.
    """
    folder, manifest = record.folder, record.manifest
    for name, table in ((ROLLOUTS_NAME, inputs.table), (VOCAB_NAME, inputs.vocab)):
        if name not in manifest.files:
            write_table(table, folder / name)
            record.add_files({name: checksum(folder / name)})
    if not manifest.edits:
        return inputs
    return inputs._replace(
        table=read_rollouts_table(folder, manifest), vocab=read_vocab(folder, manifest)
    )
