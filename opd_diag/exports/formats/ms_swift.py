"""ms-swift: messages whose assistant content carries token ids and their loss scales.

Prompt and response stand in one assistant message, the prompt at scale 0, so that no chat template
cuts them again: train with `--template dummy`, which adds nothing to them. Without
`--is_binary_loss_scale false` ms-swift trains every weight above 0 as 1.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from opd_diag.exports.samples import Sample
from opd_diag.tables.files import atomic_path

BINARY = False
LOADED_BY = "--dataset train.jsonl --template dummy --is_binary_loss_scale false"


def write(samples: Iterable[Sample], folder: Path) -> Path:
    """Write `train.jsonl`."""
    path = folder / "train.jsonl"
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for sample in samples:
            scales = [0.0] * len(sample.prompt) + sample.weights
            content = {"token_ids": sample.whole, "loss_scale": scales}
            messages = [
                {"role": "user", "content": ""},
                {"role": "assistant", "content": content},
            ]
            # The ids end where the response ended: no end token is to be added.
            file.write(json.dumps({"messages": messages, "add_eos": False}) + "\n")
    return path
