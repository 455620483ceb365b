"""Pickled files, loaded without running their code unless they are trusted."""

import io
import pickle
from collections.abc import Container, Iterator, Mapping
from itertools import compress
from pathlib import Path
from typing import Any

from opd_diag.errors import RolloutError, first_line


def read_pickle(path: Path, *, trust_pickle: bool) -> Iterator[tuple[int, Any]]:
    """Yield the samples of a `.pt` or `.dp` file with their number, from 1.

    Known are {rollout_id, samples} of slime and miles, {tensordict, keys, tags, global_steps} of
    verl, and verl's older DataProto (`.dp`); the fields of the last two become lists of each
    trajectory.

    Raises:
        RolloutError: If the file cannot be loaded, or not without running code that it brings.
    """
    import torch

    if path.suffix == ".dp" and not trust_pickle:
        raise RolloutError(
            f"{path}: a pickle, which can run code; expected trust_pickle (--trust-pickle) if you "
            "trust it"
        )
    try:
        content = (
            _load_proto(path)
            if path.suffix == ".dp"
            else torch.load(path, map_location="cpu", weights_only=not trust_pickle)
        )
    except ModuleNotFoundError as error:
        extra = " (`pip install opd-diag[verl]`)" if error.name == "tensordict" else ""
        raise RolloutError(
            f"{path}: needs {error.name}{extra}; expected it beside opd-diag"
        ) from error
    except Exception as error:  # a pickle can raise whatever it likes
        expected = "a file that torch.load reads"
        if not trust_pickle:
            expected += (
                " without running its code, or trust_pickle (--trust-pickle) if you trust it"
            )
        reason = type(error).__name__
        raise RolloutError(f"{path}: cannot be loaded ({reason}); expected {expected}") from error
    if isinstance(content, _DataProto):
        yield from _proto_rows(path, content)
        return
    if isinstance(content, dict) and "tensordict" in content:
        if not trust_pickle and not isinstance(content["tensordict"], dict):
            # Loads without trust only where something has imported its class before.
            raise RolloutError(
                f"{path}: holds classes of {type(content['tensordict']).__module__.split('.')[0]}; "
                "expected trust_pickle (--trust-pickle) if you trust it"
            )
        yield from _verl_rows(path, content)
        return
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list):
        raise RolloutError(
            f"{path}: no list of samples; expected {{rollout_id, samples}} or {{tensordict, keys}}"
        )
    shared = {"rollout_id": content.get("rollout_id")}
    for number, sample in enumerate(samples, start=1):
        yield number, {**sample, **shared} if isinstance(sample, dict) else sample


def _verl_rows(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
    """Take a batch of fields apart into one row for each trajectory."""
    keys = content.get("keys")
    try:
        batch = content["tensordict"]
        fields = {str(name): _values(batch[name]) for name in list(batch.keys())}
        count = len(keys) if isinstance(keys, list) else len(next(iter(fields.values())))
        tags = content.get("tags") or [None] * count
        lengths = {len(values) for values in (*fields.values(), tags)}
        if lengths != {count}:
            raise ValueError(f"fields of {sorted(lengths)} trajectories for {count} keys")
    except Exception as error:  # what stands there may be of any class
        raise RolloutError(
            f"{path}: no batch of trajectories ({first_line(error)}); expected fields of one "
            "length each"
        ) from error
    for number in range(count):
        row = {name: values[number] for name, values in fields.items()}
        row |= {"tag": tags[number], "key": keys[number] if isinstance(keys, list) else None}
        row.setdefault("global_steps", content.get("global_steps"))
        yield number + 1, row


def _values(field: Any) -> list[Any]:
    """Return one plain value for each trajectory: lists of numbers, texts or objects."""
    import torch

    if isinstance(field, torch.Tensor):
        return [part.tolist() for part in field.unbind()]
    if hasattr(field, "tolist"):
        return list(field.tolist())
    return [part.tolist() if isinstance(part, torch.Tensor) else part for part in field]


class _DataProto:
    """Stands in for verl's class of this name, so that verl need not be installed."""

    state: tuple[Any, Any, Any] = ({}, {}, {})

    def __setstate__(self, state: tuple[Any, Any, Any]) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Take the stand-in for verl's class, and every other class as it is."""
        if name == "DataProto" and module.split(".")[0] == "verl":
            return _DataProto
        return super().find_class(module, name)


def _load_proto(path: Path) -> Any:
    with path.open("rb") as file:
        proto = _Unpickler(file).load()
    if isinstance(proto, _DataProto):
        packed, others, meta = proto.state
        proto.state = _batch(packed), others, meta
    return proto


def _proto_rows(path: Path, proto: _DataProto) -> Iterator[tuple[int, Any]]:
    """Take a DataProto apart into one row for each trajectory, its padding left out."""
    try:
        batch, others, meta = proto.state
        tensors = {name: _values(field) for name, field in batch.items()}
        fields = tensors | {str(name): _values(field) for name, field in others.items()}
        count = len(fields["responses"])
        lengths = {len(values) for values in fields.values()}
        if lengths != {count}:
            raise ValueError(f"fields of {sorted(lengths)} trajectories")
        rows = [{name: values[n] for name, values in fields.items()} for n in range(count)]
        step = meta.get("global_steps") if isinstance(meta, dict) else None
        rows = [_without_padding(row, tensors) | {"global_steps": step} for row in rows]
    except Exception as error:  # what stands there may be of any class
        raise RolloutError(
            f"{path}: no batch of trajectories ({first_line(error)}); expected verl's DataProto "
            "with prompts, responses and attention_mask"
        ) from error
    yield from enumerate(rows, start=1)


def _batch(packed: Any) -> dict[str, Any]:
    """Unpack the tensors of a DataProto, which are bytes of torch or of NumPy by its settings."""
    import torch

    if isinstance(packed, bytes):
        batch = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=False)
        return {str(name): batch[name] for name in list(batch.keys())}
    _, _, items = packed
    return {
        name: _tensor(*item) if len(item) == 3 else [_tensor(*part) for part in item[1]]
        for name, item in items.items()
    }


def _tensor(dtype: str, shape: Any, data: Any) -> Any:
    import torch

    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return flat.view(getattr(torch, dtype)).view(shape)


def _without_padding(row: Mapping[str, Any], tensors: Container[str]) -> dict[str, Any]:
    """Leave out the padding on both sides of the tensors, which `attention_mask` tells."""
    attended = [bool(mark) for mark in row["attention_mask"]]
    width = len(row["prompts"])
    if len(attended) != width + len(row["responses"]):
        raise ValueError(f"{len(attended)} marks in attention_mask")
    own = {len(attended): attended, len(attended) - width: attended[width:]}
    cut: dict[str, Any] = {}
    for name, value in row.items():
        kept = attended[:width] if name == "prompts" else None
        if kept is None and name in tensors and isinstance(value, list):
            kept = own.get(len(value))
        if name != "attention_mask":
            cut[name] = value if kept is None else list(compress(value, kept))
    cut.setdefault("response_mask", [1] * len(cut["responses"]))
    return cut
