"""prime-rl: annotations by trace, for an algorithm of one's own.

It has no loader of token masks.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from opd_diag.exports.samples import Sample, as_float32
from opd_diag.tables.files import atomic_path

BINARY = False
LOADED_BY = "an algorithm of your own"


def write(samples: Iterable[Sample], folder: Path) -> Path:
    """Write `annotations.jsonl`: trace id, and one weight for each response token."""
    path = folder / "annotations.jsonl"
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for sample in samples:
            annotation = {
                "trace_id": sample.row["rollout_id"],
                "token_weights": as_float32(sample.weights),
            }
            file.write(json.dumps(annotation) + "\n")
    return path
