"""Models: loading them, and their output heads."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from opd_diag.errors import ModelError, first_line
from opd_diag.scoring.heads import Head, as_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Largest difference, in units of the largest logit, between our logits and the model's own,
# which are rounded to its dtype.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}

_LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError)


@dataclass(frozen=True)
class LanguageModel:
    """A model ready for scoring.

    Attributes:
        name: Folder or hub id.
        model: The whole model.
        body: What turns ids into final hidden states.
        head: The whole output head, on the device where logits are compared.
    """

    name: str
    model: "PreTrainedModel"
    body: torch.nn.Module
    head: Head

    @property
    def width(self) -> int:
        """Number of logits, padding ids included."""
        return len(self.head.weight)

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return int(self.head.weight.shape[1])

    @property
    def state_bytes(self) -> int:
        """Bytes of the hidden state of one token."""
        return int(self.hidden * self.model.dtype.itemsize)

    def hidden_states(self, ids: Tensor) -> Tensor:
        """Run the body. Shape (batch, tokens) -> (batch, tokens, hidden).

        Neither a mask nor positions are given: attention is causal and rows start at the left, so
        that no real token sees the padding after it, and no mask has to be held in memory.
        """
        ids = ids.to(self.model.device)
        states: Tensor = self.body(input_ids=ids, use_cache=False).last_hidden_state
        return states


def default_device() -> str:
    """Return `cuda` where there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """Return `float32` for the CPU and `auto`, the saved dtype, for a GPU."""
    return "float32" if torch.device(device).type == "cpu" else "auto"


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    head_device: str | None = None,
    device_map: str | None = None,
    attn: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    bits: int | None = None,
) -> LanguageModel:
    """Load a model for scoring.

    Args:
        name: Model folder, adapter folder (merged into its base model) or hub id.
        dtype: Name of a torch dtype, or `auto` for the saved one.
        device: Where the model goes.
        head_device: Where its logits are computed; `device` by default.
        device_map: `auto` spreads the model over all devices through accelerate.
        attn: Attention implementation of transformers.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Whether code that comes with the model may run.
        bits: 4 or 8 quantises the weights through bitsandbytes.

    Raises:
        ModelError: If it cannot be loaded, or its output head is of no known kind.
    """
    options: dict[str, Any] = {"dtype": dtype, "revision": revision}
    if attn is not None:
        options["attn_implementation"] = attn
    if device_map is not None or bits is not None:
        options["device_map"] = device_map or {"": device}
    if bits is not None:
        options["quantization_config"] = _quantisation(bits)
    try:
        with _no_bar():
            model = _load(name, trust_remote_code=trust_remote_code, **options)
            if "device_map" not in options:
                model.to(device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"{name}: does not fit into memory; expected more of it, or another device or dtype"
        ) from error
    except (*_LOADING_ERRORS, SafetensorError) as error:
        expected = "a causal language model"
        if "trust_remote_code" in str(error):
            expected += ", or trust_remote_code (--trust-remote-code) if you trust its code"
        raise ModelError(
            f"{name}: cannot be loaded ({first_line(error)}); expected {expected}"
        ) from error
    model.eval()
    head = find_head(name, model, head_device or device)
    return LanguageModel(name, model, _body(name, model), head)


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
    """Keep transformers' own progress bar off stderr, which may be a file."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load(name: str, *, trust_remote_code: bool, **options: Any) -> "PreTrainedModel":
    if (Path(name) / "adapter_config.json").exists():
        try:
            from peft import AutoPeftModelForCausalLM
        except ImportError:
            raise ModelError(
                f"{name}: an adapter; expected peft beside it (`pip install opd-diag[adapters]`)"
            ) from None
        adapted = AutoPeftModelForCausalLM.from_pretrained(
            name, trust_remote_code=trust_remote_code, **options
        )
        merged: PreTrainedModel = adapted.merge_and_unload()
        return merged
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        name, trust_remote_code=trust_remote_code, output_loading_info=True, **options
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, first {missing[0]}")
    loaded: PreTrainedModel = model
    return loaded


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
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0 / getattr(config, "logits_scaling", 1.0)
    soft_cap = getattr(config, "final_logit_softcapping", None)
    bias = getattr(layer, "bias", None)
    if weight.device.type == "meta":
        from accelerate.utils import align_module_device

        with align_module_device(layer, execution_device=torch.device(device)):
            return as_head(layer.weight, bias, scale=scale, soft_cap=soft_cap, device=device)
    return as_head(weight, bias, scale=scale, soft_cap=soft_cap, device=device)


@torch.inference_mode()
def verify_head(model: LanguageModel, ids: Tensor) -> float:
    """Compare the logits of our head with the model's own.

    Args:
        model: The model.
        ids: A few tokens of a real sequence. Shape (tokens,).

    Returns:
        The largest difference, over logits that are finite on both sides; 0 if none is.

    Raises:
        ModelError: If they differ by more than the rounding of the model's dtype.
    """
    ids = ids[None]
    own = model.model(input_ids=ids.to(model.model.device), use_cache=False).logits[0]
    ours = model.head.logits(model.hidden_states(ids)[0].to(model.head.weight.device))
    size = min(own.shape[1], ours.shape[1])
    own, ours = own[:, :size].to(device=ours.device), ours[:, :size]
    finite = own.isfinite() & ours.isfinite()
    if not finite.any():
        return 0.0
    difference = float((ours - own.float())[finite].abs().max())
    largest = float(own[finite].float().abs().max())
    if difference > _TOLERANCE[own.dtype] * max(largest, 1.0):
        raise ModelError(
            f"{model.name}: logits differ from the model's own by up to {difference:.3g}; expected "
            "an output head made of a weight, a bias, a scale and a soft cap"
        )
    return difference
