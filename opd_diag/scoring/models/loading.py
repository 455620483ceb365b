"""Loading models for scoring, and finding their bodies and output heads."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from opd_diag.errors import ModelError, first_line
from opd_diag.scoring.models.forward import LanguageModel
from opd_diag.scoring.models.heads import Head, as_head
from opd_diag.text.model_files import (
    base_of_adapter,
    check_model_folder,
    has_tokenizer,
    hub_options,
)
from opd_diag.text.tokenizers import load_tokenizer
from opd_diag.text.vocabulary import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# With these, a config's positions are those before they are stretched.
_STRETCHED = ("linear", "dynamic", "yarn")


def default_device() -> str:
    """Return `cuda` where there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """Return `float32` for the CPU and `auto`, the saved dtype, for a GPU."""
    return "float32" if torch.device(device).type == "cpu" else "auto"


@dataclass(frozen=True)
class Loading:
    """How a model is loaded.

    Attributes:
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for the saved one.
        device: Where the model goes.
        head_device: Where its logits are computed; `device` by default.
        device_map: `auto` spreads the model over all devices through accelerate.
        attn: Attention implementation of transformers.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Whether code that comes with the model may run.
        bits: 4 or 8 quantises the weights through bitsandbytes.
    """

    dtype: str = "float32"
    device: str = "cpu"
    head_device: str | None = None
    device_map: str | None = None
    attn: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    bits: int | None = None


def load_model(name: str, how: Loading | None = None) -> LanguageModel:
    """Load a model for scoring.

    Args:
        name: Model folder, adapter folder (merged into its base model) or hub id.
        how: How it is loaded; by default in float32 on the CPU.

    Raises:
        ModelError: If it cannot be loaded, or its output head is of no known kind.
    """
    how = how or Loading()
    check_model_folder(name)
    options: dict[str, Any] = {"dtype": how.dtype, "revision": how.revision}
    if how.attn is not None:
        options["attn_implementation"] = how.attn
    if how.device_map is not None or how.bits is not None:
        options["device_map"] = how.device_map or {"": how.device}
    if how.bits is not None:
        options["quantization_config"] = _quantisation(how.bits)
    try:
        with _no_bar():
            model = _load(name, trust_remote_code=how.trust_remote_code, **options)
            if "device_map" not in options:
                model.to(how.device)
    except ModelError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"{name}: does not fit into memory; expected more of it, or another device or dtype"
        ) from error
    except Exception as error:  # what model code and readers of weights raise has no bounds
        expected = "a causal language model"
        if "trust_remote_code" in str(error):
            expected += ", or trust_remote_code (--trust-remote-code) if you trust its code"
        raise ModelError(
            f"{name}: cannot be loaded ({first_line(error)}); expected {expected}"
        ) from error
    model.eval()
    head = find_head(name, model, how.head_device or how.device)
    return LanguageModel(name, model, _body(name, model), head)


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
    """Keep transformers' own progress bar off stderr, which may be a file."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _load(name: str, *, trust_remote_code: bool, **options: Any) -> "PreTrainedModel":
    base = base_of_adapter(name)
    if base is not None:
        return _load_adapter(name, base, trust_remote_code=trust_remote_code, **options)
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        name,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        **hub_options(name),
        **options,
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, first {missing[0]}")
    loaded: PreTrainedModel = model
    return loaded


def _load_adapter(name: str, base: str, **options: Any) -> "PreTrainedModel":
    """Load the base model of an adapter, and merge the adapter into it."""
    try:
        from peft import PeftModel
    except ImportError:
        raise ModelError(
            f"{name}: an adapter; expected peft beside it (`pip install opd-diag[adapters]`)"
        ) from None
    check_model_folder(base)
    try:
        model = _load(base, **options)
    except ValueError as error:
        raise ValueError(f"its base model {base}: {first_line(error)}") from error
    if has_tokenizer(name):  # it may have learnt tokens that its base does not have
        size = vocabulary_size(load_tokenizer(name))
        if size > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(size)
    merged: PreTrainedModel = PeftModel.from_pretrained(model, name).merge_and_unload()
    return merged


def _quantisation(bits: int) -> object:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)


def _body(name: str, model: "PreTrainedModel") -> torch.nn.Module:
    body = model.get_decoder()
    if not isinstance(body, torch.nn.Module) or body is model:
        raise ModelError(f"{name}: no body without its output head; expected a decoder model")
    return body


def find_head(name: str, model: "PreTrainedModel", device: str) -> Head:
    """Find the output head of a model, with its bias, logit scale and soft cap.

    Raises:
        ModelError: If it is no linear layer.
    """
    layer = model.get_output_embeddings()
    weight = getattr(layer, "weight", None)
    if weight is None or weight.ndim != 2 or not weight.is_floating_point():
        raise ModelError(f"{name}: no linear output head; expected one of floating-point weights")
    scale, soft_cap = head_settings(model.config)
    bias = getattr(layer, "bias", None)
    if weight.device.type == "meta":
        from accelerate.utils import align_module_device

        with align_module_device(layer, execution_device=torch.device(device)):
            return as_head(layer.weight, bias, scale=scale, soft_cap=soft_cap, device=device)
    return as_head(weight, bias, scale=scale, soft_cap=soft_cap, device=device)


def head_settings(config: Any) -> tuple[float, float | None]:
    """Return the scale of a model's logits, and their soft cap, None without one.

    Args:
        config: The model's config, as transformers reads it.
    """
    config = config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0 / getattr(config, "logits_scaling", 1.0)
    return scale, getattr(config, "final_logit_softcapping", None)


def context_of(config: Any) -> int | None:
    """Return the number of positions that a model was made for, or None if it does not say.

    Args:
        config: The model's config, as transformers reads it.
    """
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) in _STRETCHED and rope.get("factor"):
        before = rope.get("original_max_position_embeddings") or positions
        positions = max(positions, int(rope["factor"] * before))
    return positions
