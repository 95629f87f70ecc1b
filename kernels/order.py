"""In which order programs start: what a cache holds, and how a launch ends."""

from functools import cache

import triton
import triton.language as tl  # noqa: F401  (the interpreter looks for it)

L2_BYTES = 16 * 2**20  # of K and V that are read at a time: measured on an H200


@cache
def heads_at_a_time(n_heads: int, group: int, kv_bytes: int) -> int:
    """How many of all heads of the batch run together, so that the L2 holds their K, V.

    ``kv_bytes``: of K and V of one head, which ``group`` query heads read.
    """
    fitting = max(1, L2_BYTES // kv_bytes) * group
    return max(h for h in range(1, n_heads + 1) if n_heads % h == 0 and h <= fitting)


@triton.jit
def tile_of_program(program, n_tiles, HEADS):
    """(tile, head) of a program: HEADS heads at a time, their longest tiles first."""
    group = program // (n_tiles * HEADS)
    place = program % (n_tiles * HEADS)
    return n_tiles - 1 - place // HEADS, group * HEADS + place % HEADS
