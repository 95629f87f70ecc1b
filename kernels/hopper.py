"""What the Hopper kernels share, in Gluon: rings of tiles, the softmax, the work.

The copy engine (TMA) moves a tile of a tensor into shared memory by itself, from a
descriptor that holds the tensor's address, shape and strides; what lies outside the
shape is read as zero and never written. A *ring* is a few such tiles in shared memory,
used in turn: tile j takes place j mod PLACES. Each place has two barriers:

    ready    completes when a tile has arrived    the producer loads, consumers wait
    free     completes when all have read it      consumers release, the producer waits

A barrier counts its completions modulo 2, and a wait names the one it waits for: the
tile's lap around the ring, modulo 2.
"""

from functools import cache
from typing import NamedTuple

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels import fast_attention

ROWS = gl.constexpr(64)  # of a consumer: what one wgmma instruction takes
BLOCK_M = gl.constexpr(128)  # of both
BLOCK_N = gl.constexpr(128)


class Ring(NamedTuple):
    """Tiles [PLACES, 1, 1, rows, BLOCK_D] and their barriers [PLACES, 1]."""

    tiles: gl.shared_memory_descriptor
    ready: gl.shared_memory_descriptor
    free: gl.shared_memory_descriptor


@gluon.jit
def make_ring(desc, PLACES: gl.constexpr, READERS: gl.constexpr):
    """A ring for the tiles of ``desc``; each is free once READERS have released it."""
    rows: gl.constexpr = desc.block_type.shape[2]
    shape: gl.constexpr = [PLACES, 1, 1, rows, desc.block_type.shape[3]]
    tiles = gl.allocate_shared_memory(desc.dtype, shape, desc.layout)
    ready = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    for place in gl.static_range(PLACES):
        mbarrier.init(ready.index(place), count=1)
        mbarrier.init(free.index(place), count=READERS)
    return Ring(tiles, ready, free)


@gluon.jit
def load(ring, j, desc, batch, head, row):
    """Producer: start to load the ring's j-th tile, once its place is free.

    The tile begins at ``row`` of that head. Returns at once; ``wait_for`` waits.
    """
    PLACES: gl.constexpr = ring.tiles.shape[0]
    place, lap = j % PLACES, j // PLACES
    mbarrier.wait(ring.free.index(place), (lap & 1) ^ 1)  # on lap 0 it is free already
    ready = ring.ready.index(place)
    mbarrier.expect(ready, desc.block_type.nbytes)
    start = [batch, head, row, 0]
    tma.async_copy_global_to_shared(desc, start, ready, ring.tiles.index(place))


@gluon.jit
def wait_for(ring, j):
    """Consumer: the ring's j-th tile [rows, BLOCK_D], once it has arrived."""
    PLACES: gl.constexpr = ring.tiles.shape[0]
    place, lap = j % PLACES, j // PLACES
    mbarrier.wait(ring.ready.index(place), lap & 1)
    tile = ring.tiles.index(place)
    return tile.reshape([tile.shape[2], tile.shape[3]])


@gluon.jit
def release(ring, j):
    """Consumer: has read the ring's j-th tile."""
    mbarrier.arrive(ring.free.index(j % ring.tiles.shape[0]), count=1)


@gluon.jit
def find_work(n_queries, n_keys, n_heads, IS_CAUSAL: gl.constexpr):
    """(batch, head, start_m, n_blocks): the rows from start_m on, and their keys.

    Programs start in the order of their ids. Axis 0 is a head among those that run at
    the same time, whose keys and values the L2 cache holds; axis 1 the tile, the last
    and longest first, so that short ones fill the end; axis 2 goes to the next heads.
    A tile that sees no key visits one block all the same, masked.
    """
    head = gl.program_id(2) * gl.num_programs(0) + gl.program_id(0)
    start_m = (gl.num_programs(1) - 1 - gl.program_id(1)) * BLOCK_M
    n_seen = n_keys
    if IS_CAUSAL:
        n_seen = min(start_m + BLOCK_M + n_keys - n_queries, n_keys)
    n_blocks = max((n_seen + BLOCK_N - 1) // BLOCK_N, 1)
    return head // n_heads, head % n_heads, start_m, n_blocks


@gluon.jit
def online_softmax(m_i, l_i, qk, qk_scale, visible, IS_MASKED: gl.constexpr):
    """(m_i, l_i, alpha, p) from a block's scores, as in ``online_softmax_step``.

    But l_i [ROWS, 8] keeps eight sums of a row, each over the columns that are equal
    modulo 8. One thread holds all of these, and none has to wait for another in the
    loop; the eight are added up after it.
    """
    if IS_MASKED:
        qk = gl.where(visible, qk, -float("inf"))
    m_new = gl.maximum(m_i, gl.max(qk, 1) * qk_scale)
    shift = m_new
    if IS_MASKED:
        shift = gl.where(m_new == -float("inf"), 0.0, m_new)
    p = gl.exp2(qk * qk_scale - shift[:, None])
    alpha = gl.exp2(m_i - shift)
    sums = gl.sum(gl.reshape(p, [ROWS, BLOCK_N // 8, 8]), 1)
    alpha_l = gl.convert_layout(alpha, gl.SliceLayout(1, sums.type.layout))
    return m_new, l_i * alpha_l[:, None] + sums, alpha, p


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
