"""Where a model's files come from: a folder on this machine, or an id of the hub."""

import json
import os
import re
import socket
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opd_diag.errors import ModelError
from opd_diag.text.model_settings import check_settings

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# What checkpoints of sharded training hold in place of weights, and what merges them.
_SHARDS = (
    (
        "model_world_size_*_rank_*.pt",
        "verl",
        "python -m verl.model_merger merge --backend fsdp --local_dir {0} --target_dir MERGED",
    ),
    ("*.distcp", "FSDP", "accelerate merge-weights {0} MERGED"),
    ("*/*.distcp", "FSDP", "accelerate merge-weights {1} MERGED"),
    ("global_step*/*_model_states.pt", "DeepSpeed", "python zero_to_fp32.py {0} MERGED"),
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
_HUB_SECONDS = 3.0
# The kinds of weights, in the order in which transformers looks for them.
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
# What trainers leave beside them under the same ending.
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin")


def check_model_folder(name: str) -> None:
    """Refuse a path that is no folder of a model, before a hub is asked for it.

    Args:
        name: Folder, or hub id, which is not looked at.

    Raises:
        ModelError: If `name` is a path to no folder, or to the shards of a sharded training,
            which have to be merged first; if `check_settings` refuses it, or an adapter is its own
            base.
    """
    check_settings(name)
    _check_bases(name)
    folder = Path(name)
    if not folder.is_dir():
        if looks_local(name):
            raise ModelError(f"{name}: no such folder; expected a model folder or a hub id")
        return
    if weights_files(folder) or (folder / "adapter_config.json").exists():
        return
    for pattern, trainer, command in _SHARDS:
        shard = next(folder.glob(pattern), None)
        if shard is not None:
            raise ModelError(
                f"{name}: shards of {trainer}, no model; expected one folder of whole weights "
                f"(merge them first: {command.format(name, shard.parent)})"
            )


def weights_files(folder: Path) -> list[Path]:
    """Return the files that hold a model's weights, sorted; none where there are no weights.

    A folder may hold the same weights in two formats: those of the kind that transformers takes.
    """
    for pattern in _WEIGHTS:
        files = [path for path in folder.glob(pattern) if path.name not in _NO_WEIGHTS]
        if files:
            return sorted(files)
    return []


def _check_bases(name: str) -> None:
    """Refuse an adapter whose base is itself, or leads back to it."""
    seen, model = [Path(name).resolve()], name
    while (base := base_of_adapter(model)) is not None:
        if Path(base).resolve() in seen:
            raise ModelError(
                f"{name}: an adapter whose base {base} is itself or goes back to it; expected a "
                "whole model as base"
            )
        seen.append(Path(base).resolve())
        model = base


def looks_local(name: str) -> bool:
    """Tell whether a name can only be a path, or is one in a folder that exists."""
    if name.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(name):
        return True
    return "/" in name and Path(name).parent.is_dir()


def has_tokenizer(name: str) -> bool:
    """Tell whether a folder holds the files of a tokenizer."""
    return any((Path(name) / file).is_file() for file in _TOKENIZER_FILES)


def base_of_adapter(name: str) -> str | None:
    """Return the folder or hub id of the model that an adapter changes.

    A path counts from the adapter's folder, else from the folder that the program runs in.

    Args:
        name: Folder or hub id of a model.

    Returns:
        The base model; None where the folder holds no adapter.

    Raises:
        ModelError: If the adapter does not say what its base is, or that is a path to no folder.
    """
    path = Path(name) / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        base = json.loads(path.read_bytes())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise ModelError(f"{path}: no base_model_name_or_path; expected that of the base model")
    beside = path.parent / base
    if beside.is_dir():
        return str(beside)
    if not Path(base).is_dir() and looks_local(base):
        raise ModelError(
            f"{name}: an adapter to {base}, which is no folder here; expected the folder or the "
            "hub id of its base model in adapter_config.json"
        )
    return base


def hub_options(name: str) -> dict[str, Any]:
    """Return the options of `from_pretrained` that keep a hub id from being retried for a minute.

    Without a way to the hub only the files that were downloaded before are asked for.

    Args:
        name: Folder or hub id.
    """
    return {} if Path(name).is_dir() or _hub_answers() else {"local_files_only": True}


@cache
def _hub_answers() -> bool:
    """Tell whether the hub, or the proxy that leads to it, takes a connection."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return False
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    try:
        address = urlsplit(proxy or hub)
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=_HUB_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True
