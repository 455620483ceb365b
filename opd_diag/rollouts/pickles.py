"""Files that torch has pickled, loaded without running their code unless they are trusted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opd_diag.errors import RolloutError


def read_pickle(path: Path, *, trust_pickle: bool) -> Iterator[tuple[int, Any]]:
    """Yield the samples of a `.pt` file of {rollout_id, samples} with their number, from 1.

    Raises:
        RolloutError: If the file cannot be loaded, or not without running code that it brings.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except Exception as error:  # a pickle can raise whatever it likes
        expected = "a file that torch.load reads"
        if not trust_pickle:
            expected += (
                " without running its code, or trust_pickle (--trust-pickle) if you trust it"
            )
        reason = type(error).__name__
        raise RolloutError(f"{path}: cannot be loaded ({reason}); expected {expected}") from error
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list):
        raise RolloutError(f"{path}: no list of samples; expected {{rollout_id, samples}}")
    shared = {"rollout_id": content.get("rollout_id")}
    for number, sample in enumerate(samples, start=1):
        yield number, {**sample, **shared} if isinstance(sample, dict) else sample
