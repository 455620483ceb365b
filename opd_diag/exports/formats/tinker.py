"""Tinker: one Datum a line, its targets and weights shifted by one against the input.

With `one = json.loads(line)`: `tinker.Datum(model_input=tinker.ModelInput.model_validate(
one["model_input"]), loss_fn_inputs={n: tinker.TensorData(**t) for n, t in
one["loss_fn_inputs"].items()})`, for the loss `cross_entropy`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from opd_diag.exports.samples import Sample, as_float32
from opd_diag.tables.files import atomic_path

BINARY = False
LOADED_BY = "tinker.Datum of each line, loss cross_entropy"


def write(samples: Iterable[Sample], folder: Path) -> Path:
    """Write `data.jsonl`."""
    path = folder / "data.jsonl"
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for sample in samples:
            file.write(json.dumps(datum(sample)) + "\n")
    return path


def datum(sample: Sample) -> dict[str, Any]:
    """Return a Datum as JSON values: input tokens[:-1], targets and weights of tokens[1:]."""
    tokens = sample.whole
    weights = ([0.0] * len(sample.prompt) + as_float32(sample.weights))[1:]
    return {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": tokens[:-1]}]},
        "loss_fn_inputs": {
            "target_tokens": _tensor(tokens[1:], "int64"),
            "weights": _tensor(weights, "float32"),
        },
    }


def _tensor(data: list[Any], dtype: str) -> dict[str, Any]:
    return {"data": data, "dtype": dtype, "shape": [len(data)]}
