"""verl's cached batches (`skip.rollout_tq`): `tq_batch.pt`, a TensorDict of jagged tensors.

`loss_mask` and `response_mask` are int64 there, so weights have to be 0 or 1. Groups of rollouts
are told by their keys, `{uid}_{session}_{index}`, where the uid has no underscore.
"""

import json
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from opd_diag.errors import OptionError
from opd_diag.exports.samples import Sample, by_step
from opd_diag.tables.files import atomic_path

BINARY = True
LOADED_BY = "skip.rollout_tq: the folder"


def write(samples: Iterable[Sample], folder: Path) -> Path:
    """Write `<step>/0/tq_batch.pt` for each training step; returns the folder.

    Raises:
        OptionError: If the `tensordict` library is not installed.
    """
    import torch

    try:
        from tensordict import TensorDict
    except ImportError:
        raise OptionError(
            "to: verl's batches are saved by the `tensordict` library; expected it "
            "(pip install 'opd-diag[verl]')"
        ) from None

    def jagged(rows: list[list[Any]], dtype: Any) -> Any:
        parts = [torch.tensor(row, dtype=dtype) for row in rows]
        return torch.nested.as_nested_tensor(parts, layout=torch.jagged)

    for step, members in by_step(iter(samples)).items():
        columns = {
            "prompts": jagged([s.prompt for s in members], torch.int64),
            "responses": jagged([s.response for s in members], torch.int64),
            "input_ids": jagged([s.whole for s in members], torch.int64),
            "position_ids": jagged([list(range(len(s.whole))) for s in members], torch.int64),
            "response_mask": jagged([[1] * len(s.response) for s in members], torch.int64),
            "loss_mask": jagged([s.mask for s in members], torch.int64),
        }
        logps = [s.row["sampled_logp"] for s in members]
        if all(logp is not None for logp in logps):
            columns["rollout_log_probs"] = jagged([list(logp) for logp in logps], torch.float32)
        inner = folder / str(step) / "0"
        content = {
            "tensordict": TensorDict(columns, batch_size=[len(members)]),
            "keys": [_key(sample) for sample in members],
            "tags": [
                {"rollout_id": sample.row["rollout_id"], "global_steps": step} for sample in members
            ],
            "global_steps": step,
        }
        with atomic_path(inner / "tq_batch.pt") as temporary:
            torch.save(content, temporary)
        about = {"global_steps": step, "num_trajectories": len(members)}
        with atomic_path(inner / "meta.json") as temporary:
            temporary.write_text(json.dumps(about))
    return folder


def _key(sample: Sample) -> str:
    uid = blake2b(str(sample.row["prompt_id"]).encode(), digest_size=16).hexdigest()
    return f"{uid}_{sample.row['sample']}_0"
