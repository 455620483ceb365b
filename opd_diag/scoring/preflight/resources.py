"""What a scoring job costs: memory, batches, time and disk."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opd_diag.scoring.parts.batches import default_batch_tokens, free_memory, plan_batches
from opd_diag.scoring.parts.jobs import Job
from opd_diag.scoring.preflight.findings import GREEN, RED, YELLOW, Finding
from opd_diag.scoring.preflight.one_batch import BatchResult
from opd_diag.scoring.sequences import Inputs, plan_parts

BYTES_PER_TOKEN = 120


def plan_findings(job: Job, batch_tokens: int | None, part_tokens: int) -> list[Finding]:
    """Look at memory and at the batches that a job would run.

    Args:
        job: The models, with one student.
        batch_tokens: Most tokens of a batch, or None to size it from free memory.
        part_tokens: Response tokens of a part.
    """
    (student,) = job.students.values()
    lengths, scored = job.sequences.lengths, job.sequences.responses.lengths
    size = batch_tokens or default_batch_tokens(job.models)
    parts = plan_parts(scored, part_tokens)
    batches = sum(
        len(plan_batches(own[scored[part.start : part.stop] > 0], size))
        for part in parts
        for own in [lengths[part.start : part.stop]]
    )
    weights = sum(int(model.model.get_memory_footprint()) for model in job.models)
    free = free_memory(student.model.device)
    return [
        Finding(
            GREEN,
            "memory",
            f"weights {_size(weights)}; about {_size(free)} free on {student.model.device} beside "
            "them",
        ),
        Finding(
            YELLOW if lengths.max() > size else GREEN,
            "plan",
            f"{len(parts):,} parts, {batches:,} batches of at most {size:,} tokens; longest "
            f"rollout {lengths.max():,} tokens",
        ),
    ]


def cost_findings(
    inputs: Inputs,
    job: Job,
    results: Sequence[BatchResult],
    out: str | Path | None,
    part_tokens: int,
) -> list[Finding]:
    """Foresee time and disk.

    Args:
        inputs: Rollouts and vocabulary.
        job: The models, with one student.
        results: What one batch showed of each student.
        out: Where the run would be written.
        part_tokens: Response tokens of a part.
    """
    (student,) = job.students.values()
    responses = job.sequences.responses
    tokens = int(responses.offsets[-1])
    # With several students this counts the teacher once for each, as if none fitted beside another.
    per_token = sum(result.seconds / result.rows for result in results)
    seconds = tokens * per_token
    students = f" for {len(results)} students" if len(results) > 1 else ""
    parts = plan_parts(responses.lengths, part_tokens)
    kinds = sum(
        2 * len(np.unique(responses.values[responses.offsets[p.start] : responses.offsets[p.stop]]))
        for p in parts
    )
    rollouts = int(inputs.table.estimated_size())
    needed = len(results) * (BYTES_PER_TOKEN * tokens + 4 * kinds * student.hidden) + rollouts
    folder = _existing(Path(out or ".").resolve())
    free = shutil.disk_usage(folder).free
    return [
        Finding(
            GREEN,
            "time",
            f"{tokens:,} tokens at {1 / per_token:,.0f} tokens/s: about {_duration(seconds)}"
            f"{students}",
        ),
        Finding(
            GREEN if needed < free else RED,
            "disk",
            f"about {_size(needed)} in {folder}; {_size(free)} are free there",
        ),
    ]


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _existing(folder: Path) -> Path:
    """Return the nearest folder that exists."""
    return folder if folder.exists() else _existing(folder.parent)
