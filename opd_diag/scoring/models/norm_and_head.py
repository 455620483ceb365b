"""The final norm and the output head of a model, read by name: its layers stay on disk."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from opd_diag.errors import ModelError, first_line
from opd_diag.scoring.models.forward import HeadOnly, LanguageModel
from opd_diag.scoring.models.heads import Head, as_head
from opd_diag.scoring.models.loading import Loading, head_settings
from opd_diag.text.model_files import base_of_adapter, check_model_folder, hub_options

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


def load_norm_and_head(name: str, how: Loading, *, norm: bool) -> LanguageModel:
    """Load the output head of a model, and its final norm.

    Args:
        name: Model folder or hub id, with safetensors files.
        how: How it is loaded.
        norm: Whether hidden states are to go through the final norm; else it is not read.

    Returns:
        A model whose `body` is the norm, or nothing.

    Raises:
        ModelError: If the folder holds no such weights, or the head is of no known kind.
    """
    check_model_folder(name)
    if base_of_adapter(name) is not None:
        raise ModelError(
            f"{name}: an adapter; expected a whole model, whose head is read without its layers"
        )
    skeleton = _skeleton(name, how)
    names = {id(value): key for key, value in skeleton.named_parameters(remove_duplicate=False)}
    layer = skeleton.get_output_embeddings()
    weight = getattr(layer, "weight", None)
    if weight is None or weight.ndim != 2:
        raise ModelError(f"{name}: no linear output head; expected one of floating-point weights")
    files = _Files(name, how.revision)
    dtype = _dtype(how, skeleton)
    tied = skeleton.get_input_embeddings()
    keys = [names.get(id(weight), ""), "lm_head.weight"]
    if skeleton.config.get_text_config().tie_word_embeddings and tied is not None:
        keys.append(names.get(id(tied.weight), "model.embed_tokens.weight"))
        keys.append("embed_tokens.weight")
    values = files.read(keys, tuple(weight.shape))
    bias = getattr(layer, "bias", None)
    if bias is not None:
        bias = files.read([names[id(bias)], "lm_head.bias"], tuple(bias.shape)).to(dtype)
    scale, soft_cap = head_settings(skeleton.config)
    device = how.head_device or how.device
    head = as_head(values.to(dtype), bias, scale=scale, soft_cap=soft_cap, device=device)
    body = _final_norm(name, skeleton, files, dtype, how.device) if norm else torch.nn.Identity()
    size = sum(p.numel() * p.element_size() for p in body.parameters()) + _size(head)
    stand_in = HeadOnly(skeleton.config, dtype, torch.device(how.device), size)
    return LanguageModel(name, cast("PreTrainedModel", stand_in), body, head)


def without_weights(name: str, how: Loading) -> LanguageModel:
    """Return what stands for a model of which no weights are read: its number of logits.

    Args:
        name: Folder or hub id with its config.
        how: Where it would be loaded.

    Raises:
        ModelError: If the config cannot be read.
    """
    check_model_folder(name)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            name,
            revision=how.revision,
            trust_remote_code=how.trust_remote_code,
            **hub_options(name),
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name}: no config ({first_line(error)}); expected a folder or hub id with the "
            "teacher's config and tokenizer, or those of the student"
        ) from error
    device = torch.device(how.head_device or how.device)
    head = Head(torch.empty(config.get_text_config().vocab_size, 0, device=device))
    stand_in = HeadOnly(config, torch.float32, device, 0)
    return LanguageModel(name, cast("PreTrainedModel", stand_in), torch.nn.Identity(), head)


def _size(head: Head) -> int:
    return int(head.weight.numel() * head.weight.element_size())


def _dtype(how: Loading, skeleton: "PreTrainedModel") -> torch.dtype:
    if how.dtype == "auto":
        saved = getattr(skeleton.config, "dtype", None)
        return saved if isinstance(saved, torch.dtype) else torch.float32
    dtype: torch.dtype = getattr(torch, how.dtype)
    return dtype


def _skeleton(name: str, how: Loading) -> "PreTrainedModel":
    """Build the model without any weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    options = {"trust_remote_code": how.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(
            name, revision=how.revision, **options, **hub_options(name)
        )
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, **options)
    except Exception as error:  # what model code raises has no bounds
        raise ModelError(
            f"{name}: cannot be built ({first_line(error)}); expected a causal language model"
        ) from error
    return model


def _final_norm(
    name: str, skeleton: "PreTrainedModel", files: "_Files", dtype: torch.dtype, device: str
) -> torch.nn.Module:
    """Find the norm after the last layer, and read its weights."""
    body = skeleton.get_decoder()
    norms = [
        (key, child)
        for key, child in body.named_children()
        if "norm" in type(child).__name__.lower() and "embed" not in key
    ]
    if not norms:
        raise ModelError(f"{name}: no final norm in its body; expected one, or states after it")
    key, norm = norms[-1]
    prefix = next(path for path, module in skeleton.named_modules() if module is norm)
    wanted = {inner: tuple(value.shape) for inner, value in norm.named_parameters()}
    norm = norm.to_empty(device=device).to(dtype)
    for inner, shape in wanted.items():
        value = files.read([f"{prefix}.{inner}", f"{key}.{inner}"], shape)
        norm.get_parameter(inner).data.copy_(value)
    final: torch.nn.Module = norm.eval().requires_grad_(False)
    return final


class _Files:
    """Tensors of a model by name, read one at a time."""

    def __init__(self, name: str, revision: str | None) -> None:
        self._name, self._revision = name, revision
        index = self._file(_INDEX)
        if index is not None:
            self._place: dict[str, str] = json.loads(Path(index).read_bytes())["weight_map"]
            return
        single = self._file(_SINGLE)
        if single is None:
            raise ModelError(f"{name}: no {_SINGLE}; expected weights as safetensors")
        from safetensors import safe_open

        with safe_open(single, "pt") as reader:
            self._place = dict.fromkeys(reader.keys(), _SINGLE)

    def _file(self, file: str) -> str | None:
        from transformers.utils import cached_file

        path: str | None = cached_file(
            self._name,
            file,
            revision=self._revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **hub_options(self._name),
        )
        return path

    def read(self, keys: list[str], shape: tuple[int, ...]) -> Tensor:
        """Read the tensor that stands under one of some names, or under one that ends like it.

        Raises:
            ModelError: If there is none, or it has another shape.
        """
        from safetensors import safe_open

        known = [key for key in keys if key in self._place]
        if not known:
            ends = tuple(f".{key}" for key in keys if key)
            known = [key for key in self._place if key.endswith(ends) and ".layers." not in key]
        if len(known) != 1 and not (known and known[0] in keys):
            raise ModelError(
                f"{self._name}: no {' or '.join(filter(None, keys))} in its weights; expected it"
            )
        path = self._file(self._place[known[0]])
        assert path is not None
        with safe_open(path, "pt") as reader:
            value: Tensor = reader.get_tensor(known[0])
        if tuple(value.shape) != shape:
            raise ModelError(
                f"{self._name}: {known[0]} of shape {tuple(value.shape)}; expected {shape}"
            )
        return value
