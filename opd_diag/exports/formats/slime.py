"""slime and miles: saved rollout data, loaded by `--load-debug-rollout-data DIR/{rollout_id}.pt`.

A loss mask is cast to whole numbers there, which would turn 0.5 into 0 without a word, so weights
have to be 0 or 1. Each sample's loss is divided by the sum of its own mask.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from opd_diag.exports.samples import Sample, as_float32, by_step
from opd_diag.tables.files import atomic_path

BINARY = True
LOADED_BY = "--load-debug-rollout-data FOLDER/{rollout_id}.pt"

STATUS = {"stop": "completed", "length": "truncated"}


def write(samples: Iterable[Sample], folder: Path) -> Path:
    """Write one `.pt` a training step (`0.pt` where the dump names none); returns the folder."""
    import torch

    groups: dict[str, int] = {}
    for step, members in by_step(iter(samples)).items():
        content = [_sample(sample, i, groups) for i, sample in enumerate(members)]
        with atomic_path(folder / f"{step}.pt") as temporary:
            torch.save({"rollout_id": step, "samples": content}, temporary)
    return folder


def _sample(sample: Sample, index: int, groups: dict[str, int]) -> dict[str, Any]:
    row = sample.row
    logp = row["sampled_logp"]
    return {
        "group_index": groups.setdefault(row["prompt_id"], len(groups)),
        "index": index,
        "tokens": sample.whole,
        "response_length": len(sample.response),
        "reward": row["reward"],
        "loss_mask": sample.mask,
        "rollout_log_probs": None if logp is None else as_float32(logp),
        "status": STATUS.get(row["finish_reason"], "completed"),
        "metadata": {"opd_diag_rollout_id": row["rollout_id"]},
    }
