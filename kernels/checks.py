"""Checks of arguments, made before any kernel runs.

Each error names the argument, what was given and what is allowed.
"""

import torch

from kernels.device import DEVICE, INTERPRETED, tensor_core_dtype

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MIN_HEAD_DIM, MAX_HEAD_DIM = 16, 256
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


def check_attention(q: object, k: object, v: object) -> None:
    """Raise unless q, k, v fit together: (B, H, N_q, d), (B, H, N_k, d) twice."""
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
    expected = (batch, n_heads, k.shape[2], head_dim)
    if tuple(k.shape) != expected:
        raise ValueError(
            f"k has shape {tuple(k.shape)}; with q of shape {tuple(q.shape)} it must "
            f"be ({batch}, {n_heads}, any length, {head_dim})"
        )
    if v.shape != k.shape:
        raise ValueError(
            f"v has shape {tuple(v.shape)}; it must have k's, {tuple(k.shape)}"
        )
    check_runs_here("q", q)
    check_same("k", k, "q", q)
    check_same("v", v, "q", q)
    for name, value in (("q", q), ("k", k), ("v", v)):
        if value.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name} requires a gradient, but this is a forward pass alone; "
                "call it under torch.no_grad() or pass detached tensors"
            )
