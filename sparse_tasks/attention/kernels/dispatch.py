"""Choice of a kernel's implementation (Triton on a GPU, else the torch twin), and checks of inputs."""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from sparse_tasks.core.errors import UsageError

Implementation: TypeAlias = Literal["auto", "triton", "torch"]

FLOATS: Final = (torch.bfloat16, torch.float16, torch.float32)

LATENT: Final = 576
"""Numbers of the longest key in decoding: a latent of 512, and a part of 64 that knows its position (DeepSeek-V2)."""

EIGHT_BITS: Final = torch.float8_e4m3fn
"""Type of cached keys and values in 8 bits, which kernels turn into that of the queries as they read them."""


class TwinWarning(UserWarning):
    """A slow torch twin runs because no kernel is available."""


_CHECKING: Final[ContextVar[bool]] = ContextVar("checking", default=True)


def checking() -> bool:
    """Whether inputs are checked before a kernel runs."""
    return _CHECKING.get()


@contextmanager
def checks(on: bool) -> Iterator[None]:
    """Turn checks on or off within a block: in decoding they can take longer than attention.

    Turn them off only for inputs known to be valid, such as those already checked for another layer.
    """
    before = _CHECKING.set(on)
    try:
        yield
    finally:
        _CHECKING.reset(before)


def power_of_2(number: int) -> int:
    """Smallest power of 2 that is at least ``number``, which is at least 1."""
    return 1 << (number - 1).bit_length()


def has_kernels(device: str) -> bool:
    """Whether kernels run on a device, including in Triton's interpreter."""
    return _has_triton() and (device.startswith("cuda") or interpreted())


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on the CPU (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def implementation(impl: str, tensor: Tensor) -> Literal["triton", "torch"]:
    """Implementation for a tensor's device.

    Args:
        impl: "auto" takes Triton on a GPU and the torch twin elsewhere, with one warning; "triton" and "torch" are
            forced.
        tensor: One of the inputs.

    Raises:
        UsageError: The implementation is unknown, or Triton cannot run on the device.
    """
    if impl not in get_args(Implementation):
        raise UsageError("impl", impl, f"is unknown; choose from {', '.join(get_args(Implementation))}")
    if impl == "torch":
        return "torch"
    if tensor.is_cuda and _has_triton():
        return "triton"
    if impl == "triton":
        if interpreted() and _has_triton():
            return "triton"
        raise UsageError("impl", impl, f"needs a GPU and triton, and the tensors are on {tensor.device}; use 'torch'")
    _warn_once(str(tensor.device.type))
    return "torch"


def prefill_implementation(
    impl: str, q: Tensor, v: Tensor, block_q: int, block_k: int
) -> Literal["gluon", "triton", "torch"]:
    """As ``implementation``, for prefill attention with these tiles: Gluon's kernel on Hopper, where supported.

    Raises:
        UsageError: As ``implementation``.
    """
    chosen = implementation(impl, q)
    if chosen == "torch" or interpreted():
        return chosen
    from sparse_tasks.attention.kernels.gluon.block_sparse import serves

    return "gluon" if serves(q, v, block_q, block_k) else chosen


def check_floats(**tensors: Tensor) -> None:
    """Refuse tensors that do not share one floating type supported by the kernels.

    Raises:
        UsageError: Names the first tensor that does not fit.
    """
    first = next(iter(tensors.values()))
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            known = ", ".join(map(str, FLOATS))
            raise UsageError(name, str(tensor.dtype), f"is not a supported type; use {known}")
        if tensor.dtype != first.dtype:
            raise UsageError(name, str(tensor.dtype), f"differs from {first.dtype} of the other inputs; convert it")


def check_cached(**tensors: Tensor) -> None:
    """Refuse cached tensors that do not share one type: a floating type of the kernels, or 8 bits.

    Raises:
        UsageError: Names the first tensor that does not fit.
    """
    if any(tensor.dtype != EIGHT_BITS for tensor in tensors.values()):
        check_floats(**tensors)


def check_written(keys: Tensor, slots: Tensor, *, kv_heads: int, head_size: int, of: str) -> None:
    """Refuse keys just written to a cache, and their slots, that do not fit what is kept of them.

    Args:
        keys: ``[tokens, kv_heads, head_size]``.
        slots: int64 or int32 ``[tokens]``.
        kv_heads: Of what is kept.
        head_size: Of what is kept.
        of: Its name, in the plural.

    Raises:
        UsageError: Shapes or the type of slots do not match.
    """
    if keys.ndim != 3 or tuple(keys.shape[1:]) != (kv_heads, head_size):
        expected = f"[tokens, {kv_heads}, {head_size}]"
        raise UsageError("keys", tuple(keys.shape), f"has to be {expected}, as the {of} are")
    if slots.shape != keys.shape[:1]:
        raise UsageError("slots", tuple(slots.shape), f"has to be [{len(keys)}], one for each key")
    if slots.dtype not in (torch.int32, torch.int64):
        raise UsageError("slots", str(slots.dtype), "has to be torch.int64 or torch.int32")


def check_same(what: str, **tensors: Tensor) -> None:
    """Refuse tensors that differ in an attribute, as "device".

    Raises:
        UsageError: Names the first tensor that differs from the first of all.
    """
    first, expected = next((name, getattr(tensor, what)) for name, tensor in tensors.items())
    for name, tensor in tensors.items():
        value = getattr(tensor, what)
        if value != expected:
            raise UsageError(name, str(value), f"is not the {what} of {first}, {expected}")


def check_sequence(q: Tensor, k: Tensor, v: Tensor | None = None) -> None:
    """Check q ``[n_q, query_heads, head_size]``, k and v ``[n_k, kv_heads, size]`` of q's and any size, ``n_q <= n_k``.

    Raises:
        UsageError: Names the tensor, its shape and what would work.
    """
    for name, tensor in (("q", q), ("k", k)):
        if not isinstance(tensor, Tensor):
            raise UsageError(
                name, type(tensor).__name__, "is not a torch tensor; torch.as_tensor makes one of an array"
            )
        if tensor.ndim != 3 or 0 in tensor.shape:
            raise UsageError(name, tuple(tensor.shape), "has to be [tokens, heads, head_size], none of them 0")
    if q.shape[2] != k.shape[2]:
        raise UsageError("k", tuple(k.shape), f"has to end in the head size of q, {q.shape[2]}")
    check_heads(q.shape[1], k.shape[1])
    check_size("head_size", q.shape[2], device=q.device.type)
    if q.shape[0] > k.shape[0]:
        raise UsageError("q", tuple(q.shape), f"has more tokens than k, {k.shape[0]}; queries are the last of the keys")
    others = {} if v is None else {"v": v}
    if v is not None:
        check_values("v", v, k)
    check_floats(q=q, k=k, **others)
    check_same("device", q=q, k=k, **others)


def check_heads(query_heads: int, kv_heads: int) -> None:
    """Refuse query heads that are not a multiple of KV heads.

    Raises:
        UsageError: They are not.
    """
    if query_heads % kv_heads:
        raise UsageError("q", query_heads, f"query heads have to be a multiple of the {kv_heads} KV heads")


def check_size(name: str, size: int, most: int = 256, *, device: str | None = None) -> None:
    """Refuse a size of keys or values that kernels have no tiles for.

    Args:
        name: Its name, as "head_size".
        size: Size of a key or a value.
        most: The largest that kernels take.
        device: Device type: the twins, used where no kernels run, take any size.

    Raises:
        UsageError: Kernels do not take it.
    """
    if (device is None or has_kernels(device)) and not takes_head_size(size, most):
        raise UsageError(name, size, f"has to be a multiple of 16 from 16 to {most}")


def check_values(name: str, values: Tensor, keys: Tensor, most: int = 256) -> None:
    """Refuse values whose number differs from the keys', and sizes without tiles. Their size may differ from the keys'.

    Raises:
        UsageError: Their number or size is not valid.
    """
    if values.shape[:-1] != keys.shape[:-1]:
        expected = ", ".join(map(str, keys.shape[:-1]))
        raise UsageError(name, tuple(values.shape), f"has to be [{expected}, value_size], one for each of the keys")
    check_size("value_size", values.shape[-1], most, device=values.device.type)


def takes_head_size(size: int, most: int = 256) -> bool:
    """Whether kernels have tiles for a head size: up to 256 in prefill, up to ``LATENT`` in decoding."""
    return size % 16 == 0 and 16 <= size <= most


def checked_scale(scale: float | None, head_size: int) -> float:
    """Scale of the scores; ``head_size ** -0.5`` if None.

    Raises:
        UsageError: The factor is not positive and finite.
    """
    scale = head_size**-0.5 if scale is None else scale
    if not 0 < scale < float("inf"):
        raise UsageError("scale", scale, "has to be above 0 and finite")
    return scale


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _warn_once(device: str) -> None:
    reason = f"no kernel for {device}" if device != "cuda" else "triton is not installed"
    warnings.warn(f"{reason}: using the torch twins, which are correct but slow", TwinWarning, stacklevel=4)
