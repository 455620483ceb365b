"""Files that torch has pickled, loaded without running their code unless they are trusted."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opd_diag.errors import RolloutError, first_line


def read_pickle(path: Path, *, trust_pickle: bool) -> Iterator[tuple[int, Any]]:
    """Yield the samples of a `.pt` file with their number, from 1.

    Known are {rollout_id, samples} of slime and miles, and {tensordict, keys, tags, global_steps}
    of verl, whose fields become lists of each trajectory.

    Raises:
        RolloutError: If the file cannot be loaded, or not without running code that it brings.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except ModuleNotFoundError as error:
        raise RolloutError(
            f"{path}: made with {error.name}, which is not here; expected it beside opd-diag "
            "(`pip install opd-diag[verl]` for tensordict)"
        ) from error
    except Exception as error:  # a pickle can raise whatever it likes
        expected = "a file that torch.load reads"
        if not trust_pickle:
            expected += (
                " without running its code, or trust_pickle (--trust-pickle) if you trust it"
            )
        reason = type(error).__name__
        raise RolloutError(f"{path}: cannot be loaded ({reason}); expected {expected}") from error
    if isinstance(content, dict) and "tensordict" in content:
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
    return list(field)
