"""Launch a kernel, and find memory for its results, at little cost to the host.

To find the compiled kernel for a call, Triton looks at each of its arguments: some
25 µs on an H200's host, half of what a small attention takes altogether. Here the
caller says what the compiled code depends on.
"""

from collections.abc import Hashable
from functools import cache

import torch

from kernels.device import INTERPRETED

_COMPILED = {}


def launch(kernel, grid: tuple[int, int, int], args: tuple, key: Hashable, **options):
    """Launch ``kernel`` over ``grid``; the first call with a ``key`` compiles it.

    args : all arguments in order, compile-time ones included. The kernel must not
        specialise its numbers (``do_not_specialize``), and tensors must begin at
        multiples of 16 bytes.
    key : what else the compiled code depends on: dtypes, sizes of tiles, compile-time
        arguments, the device.
    options : ``num_warps`` and ``num_stages``.
    """
    if INTERPRETED:
        return kernel[grid](*args, **options)
    compiled = _COMPILED.get((kernel, key))
    if compiled is None:
        compiled = _COMPILED[kernel, key] = kernel.warmup(*args, grid=grid, **options)
    return compiled[grid](*args)


@cache
def one_for_all(device: torch.device, shape: torch.Size) -> torch.Tensor:
    """A float32 tensor of that shape, all of it one element in memory."""
    return torch.empty(1, dtype=torch.float32, device=device).expand(shape)


def empty_lse(q: torch.Tensor) -> torch.Tensor:
    """Memory for the log-sum-exp of q's rows (B, H, N), float32.

    To allocate like another tensor costs the host less than by dtype and device: some
    4 µs of 40 in a trial.
    """
    like = one_for_all(q.device, q.shape[:3])
    return torch.empty_like(like, memory_format=torch.contiguous_format)
