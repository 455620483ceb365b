"""What is known of a checkpoint once all its parts are there: totals, and warnings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from opd_diag.errors import TableError
from opd_diag.scoring.parts.alignment import Alignment, add_packed, diagnose
from opd_diag.scoring.parts.teacher_audit import add_audits, diagnose_audit
from opd_diag.tables.manifest import Checkpoint, Manifest
from opd_diag.tables.tokens import part_path, read_part_metadata

MASS_OUTSIDE = 1e-3
_NO_FAULT = ("aligned", "too few tokens")


class Totals(NamedTuple):
    """What is known of a checkpoint once all its parts are there.

    Attributes:
        statistics: Totals over its parts.
        alignment: How the generator's log-probs compare with the student's.
        trainer_teacher: How the trainer's log-probs of the teacher compare with the teacher's;
            None where the dump holds none.
    """

    statistics: dict[str, Any]
    alignment: Alignment
    trainer_teacher: Alignment | None


def totals(folder: Path, checkpoint: str, manifest: Manifest) -> Totals:
    """Add up the statistics of all parts of a checkpoint.

    Args:
        folder: The run.
        checkpoint: Name of the checkpoint.
        manifest: Its manifest.

    Raises:
        TableError: If a part was edited by a program that drops what it does not know.
    """
    of_parts = []
    for number in range(len(manifest.parts)):
        of_parts.append(read_part_metadata(folder, checkpoint, number, manifest)["statistics"])
        if not of_parts[-1]:
            raise TableError(
                f"{part_path(folder, checkpoint, number)}: edited, and without the statistics of "
                "the part; expected it as it was scored, or no such file and the same command again"
            )
    rows = sum(part["rows"] for part in of_parts)
    finite = rows - sum(part["rows_not_finite"] for part in of_parts)
    columns = dict.fromkeys(column for part in of_parts for column in part["values_not_finite"])
    statistics = {
        "rows": rows,
        "rows_not_finite": rows - finite,
        "values_not_finite": {
            column: sum(part["values_not_finite"].get(column, 0) for part in of_parts)
            for column in columns
        },
        "mass_outside": {
            role: {
                "mean": sum(part["mass_outside"][role]["sum"] for part in of_parts)
                / max(finite, 1),
                "max": max(part["mass_outside"][role]["max"] for part in of_parts),
            }
            for role in ("student", "teacher")
        },
    }
    audit = add_audits(part.get("trainer_teacher") for part in of_parts)
    floor = manifest.checkpoints[checkpoint].noise_floor
    noise = None if floor is None else floor.p95.get("teacher_logp")
    return Totals(
        statistics,
        diagnose(add_packed(part["sampled_difference"] for part in of_parts)),
        None if audit is None else diagnose_audit(audit, noise=noise),
    )


def warnings(checkpoints: Mapping[str, Checkpoint]) -> list[str]:
    """Say what a reader of the run must know of its finished checkpoints, by name."""
    said = []
    alignments = {}
    for name, checkpoint in checkpoints.items():
        if checkpoint.statistics is None or checkpoint.alignment is None:
            continue
        statistics, alignments[name] = checkpoint.statistics, checkpoint.alignment
        if statistics["rows_not_finite"]:
            said.append(
                f"checkpoint {name}: logits of {statistics['rows_not_finite']} of "
                f"{statistics['rows']} tokens are not finite; their scores are null"
            )
        for role, mass in statistics["mass_outside"].items():
            if mass["mean"] > MASS_OUTSIDE:
                said.append(
                    f"checkpoint {name}: the {role} gives {mass['mean']:.2g} of its probability to "
                    "ids that no tokenizer decodes; it is left out"
                )
    compared = {name: one for name, one in alignments.items() if one["median"] is not None}
    # Only one of the checkpoints can have generated the rollouts, so one that fits is enough.
    if compared and not any(one["diagnosis"] == "aligned" for one in compared.values()):
        name, nearest = min(compared.items(), key=lambda item: item[1]["median"])
        said.append(
            f"the generator's log-probs fit no checkpoint; nearest is {name}: "
            f"{nearest['diagnosis']} ({nearest['detail']}). Unless another model, such as the "
            "teacher, generated them, check the prompts, the template, the temperature and the "
            "checkpoint: `opd-diag check` tells them apart"
        )
    audits = {name: one.trainer_teacher for name, one in checkpoints.items() if one.trainer_teacher}
    wrong = {name: one for name, one in audits.items() if one["diagnosis"] not in _NO_FAULT}
    if wrong:
        # Of several students one may be what the trainer took for the teacher.
        name = min(wrong, key=lambda name: wrong[name]["diagnosis"] != "equals the student")
        said.append(
            "the trainer's log-probs of the teacher are not this teacher's: "
            f"{wrong[name]['diagnosis']} ({wrong[name]['detail']}; student {name}). "
            "`opd-diag check` compares other temperatures, too"
        )
    return said
