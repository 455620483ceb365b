"""Make `verl_batch` with verl's own methods, around made-up trajectories.

Needs an environment of its own, with torch==2.13.0 tensordict==0.15.3, and verl 0.9.1 unpacked
(`pip download verl==0.9.1 --no-deps`, unzip):

    python make_verl_batch.py OUT --verl VERL_FOLDER

The trainer around them needs a cluster, so `list_of_dict_to_tensordict`, by which trajectories are
put together, and `prepare_data`, which writes the batch, are run by themselves; the queue between
them is a dict. OUT gets 5/0/tq_batch.pt.
"""

import argparse
import ast
import json
import sys
import types
from pathlib import Path
from typing import Any

PROMPTS = [[1, 20, 21], [1, 22]]
RESPONSES = [[30, 31, 2], [32, 33, 34, 2]]
MASKS = [[1, 1, 1], [1, 0, 0, 1]]
UIDS = ["0b9f6f0e-6a7e-4a52-9a0c-1f2e3d4c5b6a", "1c9f6f0e-6a7e-4a52-9a0c-1f2e3d4c5b6b"]


def take(path: Path, name: str, scope: dict[str, Any]) -> Any:
    """Run the definition of a function, the last of its name, wherever it stands in a file."""
    *_, function = (
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    function.decorator_list = []
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    exec(compile(ast.Module([function], []), path.name, "exec"), scope)
    return scope[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--verl", type=Path, required=True)
    options = parser.parse_args()

    import tensordict
    import torch
    from packaging.version import parse
    from tensordict.tensorclass import NonTensorStack

    together = take(
        options.verl / "verl" / "utils" / "tensordict_utils.py",
        "list_of_dict_to_tensordict",
        {
            "torch": torch,
            "tensordict": tensordict,
            "TensorDict": tensordict.TensorDict,
            "NonTensorStack": NonTensorStack,
            "parse_version": parse,
        },
    )
    fields = []
    for prompt, response, mask, uid in zip(PROMPTS, RESPONSES, MASKS, UIDS, strict=True):
        ids = torch.tensor(prompt + response)
        # Row j of the teacher scores token j + 1; the last one is a dummy.
        best = torch.cat((ids[1:], torch.zeros(1, dtype=ids.dtype)))
        fields.append(
            {
                "prompts": torch.tensor(prompt),
                "responses": torch.tensor(response),
                "response_mask": torch.tensor(mask),
                "loss_mask": torch.tensor(mask),
                "rollout_log_probs": -torch.tensor(response) / 64 * torch.tensor(mask),
                "rm_scores": torch.tensor([0.0] * (len(response) - 1) + [1.0]),
                "input_ids": ids,
                "position_ids": torch.arange(len(ids)),
                "teacher_ids": torch.stack((best + 100, best), 1),
                "teacher_logprobs": torch.stack((best * 0.0, -best / 128), 1),
                "uid": uid,
                "session_id": 1,
                "data_source": "adding",
                "reward_model": {"ground_truth": "7", "style": "rule"},
            }
        )
    data = together(fields)
    sys.modules["transfer_queue"] = types.SimpleNamespace(kv_batch_get=lambda **_: data)
    prepare = take(
        options.verl / "verl" / "utils" / "skip" / "rollout_skip.py",
        "prepare_data",
        {"torch": torch, "json": json},
    )
    batch = types.SimpleNamespace(
        keys=[f"{uid}_1_0" for uid in UIDS],
        tags=[{"status": "success"}] * 2,
        partition_id="train",
    )
    step = options.out.resolve() / "5" / "0"
    skip = types.SimpleNamespace(
        _find_first_missing_inner=lambda _: 0,
        _get_v1_inner_dir=lambda *_: step,
        tq_batch_name="tq_batch.pt",
        meta_name="meta.json",
        print_mark="",
    )
    prepare(skip, 5, batch, 5)


if __name__ == "__main__":
    main()
