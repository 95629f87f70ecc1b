"""What the Hopper kernels share besides their rings, in Gluon: sizes, work, output.

Hopper's tensor cores are driven by four warps together, a *warpgroup*, and multiply
straight from shared memory; a consumer here is one warpgroup with 64 rows of queries.
"""

from functools import cache

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels import fast_attention

thread_barrier = getattr(gl, "thread_barrier", None) or gl.barrier  # Triton 3.6, 3.7
ROWS = gl.constexpr(64)  # of a consumer: what one wgmma instruction takes
BLOCK_M = gl.constexpr(128)  # of both
BLOCK_N = gl.constexpr(128)


@gluon.jit
def write_out(o_desc, o_tile, o, batch, head, start_m):
    """Consumer: hand o [ROWS, BLOCK_D] to the copy engine, and go on meanwhile.

    Rows before the first are dropped, as those past the last are.
    """
    tma.store_wait(0)  # the output before has left o_tile:
    thread_barrier()  # one thread knows, now all do
    o_tile.reshape([ROWS, o.shape[1]]).store(o)
    fence_async_shared()
    if start_m >= 0:
        tma.async_copy_shared_to_global(o_desc, [batch, head, start_m, 0], o_tile)


@gluon.jit
def count_blocks(end_m, n_queries, n_keys, IS_CAUSAL: gl.constexpr):
    """How many blocks of keys the rows before end_m see.

    Those that see no key visit one block all the same, masked.
    """
    n_seen = n_keys
    if IS_CAUSAL:
        n_seen = min(end_m + n_keys - n_queries, n_keys)
    return max((n_seen + BLOCK_N - 1) // BLOCK_N, 1)


@gluon.jit
def find_block(i, gap, sizes):
    """Which block of keys is the i-th of those that a tile's rows see, from the left.

    With a window, gap blocks between the first-token sinks' and its own are not seen.
    """
    sink_size = sizes[4]
    if sink_size is not None:
        gap = gl.where(i * BLOCK_N < sink_size, 0, gap)
    return i + gap


@gluon.jit
def find_work(n_queries, n_keys, n_heads, IS_CAUSAL: gl.constexpr):
    """(batch, head, start_m, n_blocks): the rows from start_m on, and their keys.

    Programs start in the order of their ids. Axis 0 is a head among those that run at
    the same time, whose keys and values the L2 cache holds; axis 1 the tile, the last
    and longest first, so that short ones fill the end; axis 2 goes to the next heads.
    """
    head = gl.program_id(2) * gl.num_programs(0) + gl.program_id(0)
    start_m = (gl.num_programs(1) - 1 - gl.program_id(1)) * BLOCK_M
    n_blocks = count_blocks(start_m + BLOCK_M, n_queries, n_keys, IS_CAUSAL)
    return head // n_heads, head % n_heads, start_m, n_blocks


class Descriptor(TensorDescriptor):
    """Gluon's descriptor without its checks, 3 µs each; ``can_describe`` made them."""

    def __post_init__(self):
        pass


@cache
def tile_layout(dtype: torch.dtype, rows: int, block_d: int) -> gl.NVMMASharedLayout:
    """How a tile lies in shared memory: swizzled, so that wgmma reads it at speed."""
    dtype = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16}[dtype]
    return gl.NVMMASharedLayout.get_default_for([1, 1, rows, block_d], dtype)


def describe(x: torch.Tensor, rows: int, block_d: int) -> Descriptor:
    """A descriptor of x (B, H, N, d) for tiles of (rows, block_d) of one head."""
    block = [1, 1, rows, block_d]
    layout = tile_layout(x.dtype, rows, block_d)
    return Descriptor(x, x.shape, x.stride(), block, layout)


def serves(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether these tensors, which the public call has checked, suit the kernel."""
    return q.shape[3] <= 128 and fast_attention.serves(q, k, v)
