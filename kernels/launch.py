"""Launch a kernel at little cost to the host.

To find the compiled kernel for a call, Triton looks at each of its arguments: some
25 µs on an H200's host, half of what a small attention takes altogether. Here the
caller says what the compiled code depends on.
"""

from collections.abc import Hashable

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
    place = kernel, key
    if place not in _COMPILED:
        _COMPILED[place] = kernel.warmup(*args, grid=grid, **options)
    return _COMPILED[place][grid](*args)
