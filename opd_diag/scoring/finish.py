"""What is known of a checkpoint once all its parts are there: totals, noise floor, alignment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.scoring.alignment import Alignment, add_packed, diagnose
from opd_diag.scoring.models import LanguageModel
from opd_diag.scoring.noise import noise_floor, rescore, sample_rollouts
from opd_diag.scoring.parts import Job
from opd_diag.tables.manifest import Manifest
from opd_diag.tables.tokens import read_part_metadata, scan_tokens

MASS_OUTSIDE = 1e-3


def noise_floors(
    job: Job, folder: Path, manifest: Manifest, *, batch_tokens: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Score a sample of rollouts again and compare it with the run, for each student.

    Args:
        job: The models.
        folder: The run.
        manifest: Its manifest.
        batch_tokens: Most tokens of a batch, padding counted.
        seed: Seed of the sample.

    Returns:
        By student: `rollouts`, `tokens`, and the floor of each column under `p95`.
    """
    chosen = sample_rollouts(job.sequences.responses.lengths, seed)
    again = rescore(job, chosen, batch_tokens)
    rows = [part["rows"] for part in manifest["parts"]]
    floors = {}
    for name in job.students:
        stored = (
            scan_tokens(folder, name, rows)
            .filter(pl.col("rollout").is_in(chosen.tolist()))
            .collect()
        )
        floors[name] = {
            "rollouts": len(chosen),
            "tokens": stored.height,
            "p95": noise_floor(stored, again[name]),
        }
    return floors


def described(model: LanguageModel) -> dict[str, Any]:
    """Return what the manifest says of a model: its dtype and its number of logits."""
    return {"dtype": str(model.model.dtype).removeprefix("torch."), "logits": model.width}


def totals(folder: Path, name: str, parts: int) -> tuple[dict[str, Any], Alignment]:
    """Add up the statistics of all parts of a checkpoint.

    Args:
        folder: The run.
        name: Name of the checkpoint.
        parts: Number of parts.

    Returns:
        Totals, and how the generator's log-probs compare with the student's.
    """
    found = [read_part_metadata(folder, name, part)["statistics"] for part in range(parts)]
    rows = sum(part["rows"] for part in found)
    finite = rows - sum(part["rows_not_finite"] for part in found)
    columns = dict.fromkeys(column for part in found for column in part["values_not_finite"])
    statistics = {
        "rows": rows,
        "rows_not_finite": rows - finite,
        "values_not_finite": {
            column: sum(part["values_not_finite"].get(column, 0) for part in found)
            for column in columns
        },
        "mass_outside": {
            role: {
                "mean": sum(part["mass_outside"][role]["sum"] for part in found) / max(finite, 1),
                "max": max(part["mass_outside"][role]["max"] for part in found),
            }
            for role in ("student", "teacher")
        },
    }
    return statistics, diagnose(add_packed(part["sampled_difference"] for part in found))


def warnings(checkpoints: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what a reader of the run must know.

    Args:
        checkpoints: The finished checkpoints of the manifest, by name.
    """
    found = []
    for name, checkpoint in checkpoints.items():
        statistics = checkpoint["statistics"]
        if statistics["rows_not_finite"]:
            found.append(
                f"checkpoint {name}: logits of {statistics['rows_not_finite']} of "
                f"{statistics['rows']} tokens are not finite; their scores are null"
            )
        for role, mass in statistics["mass_outside"].items():
            if mass["mean"] > MASS_OUTSIDE:
                found.append(
                    f"checkpoint {name}: the {role} gives {mass['mean']:.2g} of its probability to "
                    "ids that no tokenizer decodes; it is left out"
                )
    alignments = {name: checkpoint["alignment"] for name, checkpoint in checkpoints.items()}
    compared = {name: one for name, one in alignments.items() if one["median"] is not None}
    # Only one of the checkpoints can have generated the rollouts, so one that fits is enough.
    if compared and not any(one["diagnosis"] == "aligned" for one in compared.values()):
        name, nearest = min(compared.items(), key=lambda item: item[1]["median"])
        found.append(
            f"the generator's log-probs fit no checkpoint; nearest is {name}: "
            f"{nearest['diagnosis']} ({nearest['detail']}). Unless another model, such as the "
            "teacher, generated them, check the prompts, the template, the temperature and the "
            "checkpoint: `opd-diag check` tells them apart"
        )
    return found
