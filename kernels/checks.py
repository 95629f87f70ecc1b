"""Checks of arguments, made before any kernel runs.

Each error names the argument, what was given and what is allowed.
"""

import torch

from kernels.device import DEVICE, INTERPRETED, tensor_core_dtype

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MIN_HEAD_DIM, MAX_HEAD_DIM = 16, 256
MAX_SINKS = 2**30  # the kernel rounds them up to whole blocks, in 32 bits
MAX_SOFTCAP = 1000  # scores are rounded to about a millionth of it
MAX_GRID = 65535  # CUDA's limit on the second and third axis of a launch


def check_tensor(name: str, value: object, ndim: int) -> None:
    """Raise unless ``value`` is a tensor with ``ndim`` dimensions, none empty."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(value).__name__}")
    if value.ndim != ndim:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; it must have {ndim} dimensions"
        )
    if value.numel() == 0:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; no dimension may be zero"
        )


def check_same(name: str, value: torch.Tensor, other: str, expected: torch.Tensor):
    """Raise unless tensor ``value`` has the dtype and device of ``expected``."""
    if value.dtype != expected.dtype:
        raise TypeError(
            f"{name} is {value.dtype}; it must have {other}'s dtype, {expected.dtype}"
        )
    if value.device != expected.device:
        raise ValueError(
            f"{name} is on {value.device}; it must be on {other}'s device, "
            f"{expected.device}"
        )


def check_runs_here(name: str, value: torch.Tensor) -> None:
    """Raise unless a Triton kernel can take ``value``: its dtype and its device."""
    if value.dtype not in DTYPES:
        allowed = ", ".join(str(dtype) for dtype in DTYPES)
        raise TypeError(f"{name} is {value.dtype}; allowed are {allowed}")
    if value.device.type != DEVICE:
        raise ValueError(
            f"{name} is on {value.device}; the kernels run on {DEVICE!r} here "
            "(kernels.DEVICE)"
        )
    if DEVICE == "cuda" and value.device.index != torch.cuda.current_device():
        raise ValueError(
            f"{name} is on {value.device}; the kernels run on the current device, "
            f"cuda:{torch.cuda.current_device()} (torch.cuda.device changes it)"
        )
    if value.dtype == torch.bfloat16 and INTERPRETED:
        raise TypeError(
            f"{name} is torch.bfloat16, which Triton's interpreter computes wrongly; "
            "allowed without a GPU are torch.float16 and torch.float32"
        )
    if value.dtype == torch.bfloat16 and tensor_core_dtype() != torch.bfloat16:
        raise TypeError(
            f"{name} is torch.bfloat16, which this GPU lacks; "
            "allowed here are torch.float16 and torch.float32"
        )


def check_size(name: str, value: object, least: int) -> None:
    """Raise unless ``value`` is an int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int or None, not {value!r}")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")


def check_mask(is_causal: bool, window_size: object, sink_size: object) -> None:
    """Raise unless the three go together: a window is causal, sinks need a window."""
    if window_size is not None:
        check_size("window_size", window_size, least=1)
        if not is_causal:
            raise ValueError(f"window_size={window_size} needs is_causal=True")
    if sink_size is not None:
        check_size("sink_size", sink_size, least=0)
        if sink_size > MAX_SINKS:
            raise ValueError(
                f"sink_size is {sink_size}; at most {MAX_SINKS} are allowed"
            )
        if window_size is None:
            raise ValueError(f"sink_size={sink_size} needs a window_size")


def check_per_head(name: str, value: object, q: torch.Tensor) -> None:
    """Raise unless ``value`` holds one floating number for each of q's heads."""
    check_tensor(name, value, ndim=1)
    if len(value) != q.shape[1]:
        raise ValueError(
            f"{name} has {len(value)} elements; q has {q.shape[1]} heads, and each "
            "needs one"
        )
    if not value.is_floating_point():
        raise TypeError(f"{name} is {value.dtype}; it must be of a floating dtype")
    if value.device != q.device:
        raise ValueError(
            f"{name} is on {value.device}; it must be on q's device, {q.device}"
        )
    check_no_gradient(name, value)


def check_softcap(softcap: object) -> None:
    """Raise unless ``softcap`` is a positive number up to MAX_SOFTCAP."""
    if isinstance(softcap, bool) or not isinstance(softcap, int | float):
        raise TypeError(f"softcap must be a number or None, not {softcap!r}")
    if not 0 < softcap <= MAX_SOFTCAP:
        raise ValueError(
            f"softcap is {softcap}; it must be positive and at most {MAX_SOFTCAP} "
            "(None turns it off)"
        )


def check_no_gradient(name: str, value: torch.Tensor) -> None:
    """Raise if autograd would expect a gradient through the call."""
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires a gradient, but this is a forward pass alone; "
            "call it under torch.no_grad() or pass detached tensors"
        )


def check_attention(q: object, k: object, v: object) -> None:
    """Raise unless q, k, v fit together: (B, H, N_q, d), (B, H_kv, N_k, d) twice."""
    for name, value in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, value, ndim=4)
    batch, n_heads, _, head_dim = q.shape
    if not MIN_HEAD_DIM <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(
            f"q has head dim {head_dim}; allowed are {MIN_HEAD_DIM} to {MAX_HEAD_DIM}"
        )
    for axis, size in (("batch", batch), ("heads", n_heads)):
        if size > MAX_GRID:
            raise ValueError(f"q has {axis} {size}; at most {MAX_GRID} are allowed")
    n_kv_heads = k.shape[1]
    if tuple(k.shape) != (batch, n_kv_heads, k.shape[2], head_dim):
        raise ValueError(
            f"k has shape {tuple(k.shape)}; with q of shape {tuple(q.shape)} it must "
            f"be ({batch}, heads, any length, {head_dim})"
        )
    if n_heads % n_kv_heads:
        raise ValueError(
            f"k has {n_kv_heads} heads, which do not divide q's {n_heads} heads; "
            "each K/V head serves a group of query heads, all of one size"
        )
    if v.shape != k.shape:
        raise ValueError(
            f"v has shape {tuple(v.shape)}; it must have k's, {tuple(k.shape)}"
        )
    check_runs_here("q", q)
    check_same("k", k, "q", q)
    check_same("v", v, "q", q)
    for name, value in (("q", q), ("k", k), ("v", v)):
        check_no_gradient(name, value)
