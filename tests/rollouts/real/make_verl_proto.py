"""Make `verl_proto` with verl's own DataProto, around made-up trajectories.

Needs an environment of its own, with torch==2.13.0 tensordict==0.15.3, and verl 0.9.1 unpacked
(`pip download verl==0.9.1 --no-deps`, unzip):

    python make_verl_proto.py OUT --verl VERL_FOLDER

What verl's protocol imports from Ray and from its own helpers is not called when a batch is
written, and is left out. OUT gets 5/gen_batch.dp, and numpy/5/gen_batch.dp as it is written with
VERL_DATAPROTO_SERIALIZATION_METHOD=numpy: prompts padded on the left, responses on the right.
"""

import argparse
import os
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

PROMPTS = [[0, 1, 20, 21], [0, 0, 1, 22]]
RESPONSES = [[30, 31, 2, 0, 0], [32, 33, 34, 2, 0]]
MASKS = [[1, 1, 1, 0, 0], [1, 0, 0, 1, 0]]
UIDS = ["0b9f6f0e-6a7e-4a52-9a0c-1f2e3d4c5b6a", "1c9f6f0e-6a7e-4a52-9a0c-1f2e3d4c5b6b"]
UNUSED = ("ray", *(f"verl.utils.{name}" for name in (
    "device", "py_functional", "torch_functional", "transferqueue_utils",
)))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--verl", type=Path, required=True)
    options = parser.parse_args()
    for name in ("verl", "verl.utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(options.verl.joinpath(*name.split(".")))]
        sys.modules[name] = package
    sys.modules |= {name: MagicMock() for name in UNUSED}

    import numpy as np
    import torch
    from verl.protocol import DataProto

    prompts, responses, masks = map(torch.tensor, (PROMPTS, RESPONSES, MASKS))
    ids = torch.cat((prompts, responses), 1)
    # Row j of the teacher scores token j + 1; the last one is a dummy.
    best = torch.cat((ids[:, 1:], torch.zeros_like(ids[:, :1])), 1)
    proto = DataProto.from_dict(
        tensors={
            "prompts": prompts,
            "responses": responses,
            "input_ids": ids,
            "attention_mask": (ids > 0).long(),
            "position_ids": torch.cumsum(ids > 0, 1) - 1,
            "response_mask": masks,
            "rollout_log_probs": -responses / 64 * masks,
            "rm_scores": torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0]]),
            "teacher_ids": torch.stack((best + 100, best), 2),
            "teacher_logprobs": torch.stack((best * 0.0, -best / 128), 2),
        },
        non_tensors={
            "uid": np.array(UIDS, dtype=object),
            "data_source": np.array(["adding"] * 2, dtype=object),
            "reward_model": np.array([{"ground_truth": "7", "style": "rule"}] * 2, dtype=object),
            "__num_turns__": np.array([2, 4], dtype=np.int32),
        },
    )
    for method, folder in (("", options.out), ("numpy", options.out / "numpy")):
        os.environ["VERL_DATAPROTO_SERIALIZATION_METHOD"] = method
        step = folder / "5"
        step.mkdir(parents=True, exist_ok=True)
        proto.save_to_disk(step / "gen_batch.dp")


if __name__ == "__main__":
    main()
