"""A stand-in for GPUs: tensors in the machine's memory that say that they are on `cuda`.

A torch that was built without CUDA makes no CUDA tensor, not even a fake one. Under this mode every
tensor has a place beside its values. Work on tensors of two places is refused as on a GPU, and so
is a numpy array of a tensor that is not on the CPU; a product of bfloat16 with a float32 result,
which only CUDA has, is there. So a missing `.to(device)` or a wrong dtype is found with real data.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

GIB = 1 << 30
_ACROSS = (
    torch.Tensor.copy_,
    torch.Tensor.__setitem__,
    torch._has_compatible_shallow_copy_type,
)
_ANY_INDEX = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
_NEED_THE_CPU = (torch.Tensor.numpy, torch.Tensor.__array__)


def place_of(tensor: torch.Tensor) -> torch.device:
    """Return where a tensor says that it is."""
    return getattr(tensor, "_place", torch.device("cpu"))


def _full(device: Any) -> torch.device:
    device = torch.device(device)
    whole = device.type != "cuda" or device.index is not None
    return device if whole else torch.device("cuda", 0)


class _Places(TorchFunctionMode):
    """Gives every tensor a place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            own = func(*args)
            return own if own.type == "meta" else place_of(args[0])
        if func == torch.Tensor.is_cuda.__get__:
            return place_of(args[0]).type == "cuda"
        if func == torch.Tensor.data.__set__:
            func(*args)
            args[0]._place = place_of(args[1])
            return None
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            return _moved(func, args, kwargs)
        place = _common_place(func, args, kwargs)
        if func in _NEED_THE_CPU and place.type != "cpu":
            raise TypeError(f"can't convert {place} device type tensor to numpy")
        if kwargs.get("device") is not None:
            place = _full(kwargs["device"])
            kwargs["device"] = "meta" if place.type == "meta" else "cpu"
        if func is torch.mm and "out_dtype" in kwargs:
            result = _low_product(place, *args, **kwargs)
        else:
            result = func(*args, **kwargs)
        return tree_map_only(torch.Tensor, lambda one: _put(one, place), result)


def _put(tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
    if place.type != "meta":
        tensor._place = place  # type: ignore[attr-defined]
    return tensor


def _common_place(func: Any, args: Any, kwargs: Any) -> torch.device:
    """Return where all tensors of a call are, or raise what CUDA raises."""
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    if func == torch.Tensor.__setitem__ and isinstance(args[1], torch.Tensor):
        value = args[2]  # what is put at indices is no copy
        if isinstance(value, torch.Tensor) and value.dim() and place_of(value) != place_of(args[0]):
            raise RuntimeError("Expected all tensors to be on the same device: index_put_")
    if func in _ACROSS or func in _ANY_INDEX:
        return place_of(tensors[0])  # copies, and takes indices of the CPU
    # A number in a tensor of the CPU goes with tensors of any place.
    places = {place_of(one) for one in tensors if one.dim() or place_of(one).type != "cpu"}
    if len(places) > 1:
        named = ", ".join(sorted(map(str, places)))
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {named}")
    return places.pop() if places else torch.device("cpu")


def _moved(func: Any, args: Any, kwargs: Any) -> torch.Tensor:
    """Do `to`, `cpu` and `cuda`: a tensor that comes to another place is a copy."""
    tensor, *others = args
    place = place_of(tensor)
    if func is torch.Tensor.cpu:
        place = torch.device("cpu")
    elif func is torch.Tensor.cuda:
        place = _full("cuda")
    else:
        if kwargs.get("device") is not None:
            place = _full(kwargs.pop("device"))
        kwargs.pop("device", None)
        # `non_blocking` may stand at the end, and no dtype before it.
        others = [one for one in others if one is not None and not isinstance(one, bool)]
        if others and isinstance(others[0], torch.Tensor):
            place, others = place_of(others[0]), [others[0].dtype, *others[1:]]
        elif others and isinstance(others[0], str | int | torch.device):
            place, others = _full(others[0]), others[1:]
    kwargs.pop("non_blocking", None)
    if place.type == "meta":
        return torch.empty_like(tensor, device="meta")
    result = tensor.to(*others, **kwargs) if others or kwargs else tensor
    if place != place_of(tensor) and result is tensor:
        result = tensor.clone()
    return _put(result, place)


def _low_product(
    place: torch.device, a: torch.Tensor, b: torch.Tensor, *, out_dtype: torch.dtype
) -> torch.Tensor:
    if place.type != "cuda":
        raise NotImplementedError("mm with out_dtype: CUDA only")
    if a.dtype != b.dtype or a.dtype == torch.float32 or out_dtype != torch.float32:
        raise RuntimeError(f"mm of {a.dtype} and {b.dtype} to {out_dtype}; expected one low dtype")
    return torch.mm(a.float(), b.float())


@contextlib.contextmanager
def cuda_stand_in(
    gpus: int = 2, free: int = 100 * GIB, total: int = 141 * GIB
) -> Iterator[list[int]]:
    """Let torch have GPUs for the time of a block, in this thread.

    Args:
        gpus: How many.
        free: Bytes that each has free.
        total: Bytes of each.

    Yields:
        The indices that were made the current device.
    """
    current: list[int] = []
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: gpus,
        "mem_get_info": lambda device=None: (free, total),
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: GIB,
        "max_memory_reserved": lambda *_: GIB,
        "set_per_process_memory_fraction": lambda *_: None,
        "reset_peak_memory_stats": lambda *_: None,
        "get_device_name": lambda *_: "a stand-in",
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "set_device": lambda device: current.append(torch.device(device).index),
        "device_of": lambda tensor: contextlib.nullcontext(),
    }
    with contextlib.ExitStack() as patches:
        for name, answer in answers.items():
            patches.enter_context(patch.object(torch.cuda, name, answer))
        patches.enter_context(_Places())
        yield current
