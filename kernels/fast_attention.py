"""The top of the ladder in portable Triton: chapter 10's kernel for Hopper and later.

It computes what the kernels of chapters 05 and 06 compute, with grouped queries, and
does five things otherwise (chapter 10 takes them one by one):

    small tiles          two or three programs fill a multiprocessor and its gaps
    longest tiles first  the long rows start early, the short ones fill in at the end
    heads in groups      as many heads at a time as their K and V fit in the L2 cache
    descriptors          Hopper's copy engine loads the tiles
    partial row sums     each thread adds up its own columns until the end

The options of chapters 07 to 09 are left to ``kernels.model_attention``.
"""

import math
from functools import cache

import torch
import triton
import triton.language as tl

from kernels.descriptors import can_describe, rows_of_a_head
from kernels.launch import launch
from kernels.order import heads_at_a_time, tile_of_program
from kernels.step import LOG2_E, finish
from kernels.tiles import Tiles

SUMS = tl.constexpr(8)  # partial sums of a row: of the columns 0, 8, …; 1, 9, …; …


@cache
def fast_tiles(head_dim: int, n_keys: int) -> Tiles:
    """The fastest of the sizes that ``python -m kernels.benchmark tiles`` tried."""
    block_d = max(16, 1 << (head_dim - 1).bit_length())  # the next power of two
    if block_d <= 32:
        return Tiles(64, 128, block_d, num_warps=4, num_stages=3)
    if block_d == 64:
        block_n = 64 if n_keys <= 1024 else 128
        return Tiles(64, block_n, block_d, num_warps=4, num_stages=2)
    if block_d == 128:
        return Tiles(64, 64, block_d, num_warps=4, num_stages=3)
    return Tiles(128, 64, block_d, num_warps=8, num_stages=2)


@triton.jit
def partial_sums_step(m_i, l_i, acc, qk, v, qk_scale, visible, IS_MASKED: tl.constexpr):
    """``kernels.step.online_softmax_step``, but l_i is [BLOCK_M, SUMS].

    A thread holds every eighth column or two of them, so these sums need no other
    thread; the kernel adds them up once, at the end.
    """
    if IS_MASKED:
        qk = tl.where(visible, qk, -float("inf"))
    m_new = tl.maximum(m_i, tl.max(qk, 1) * qk_scale)
    shift = m_new
    if IS_MASKED:
        shift = tl.where(m_new == -float("inf"), 0.0, m_new)
    p = tl.exp2(qk * qk_scale - shift[:, None])
    alpha = tl.exp2(m_i - shift)
    columns = tl.reshape(p, [p.shape[0], p.shape[1] // SUMS, SUMS])
    l_i = l_i * alpha[:, None] + tl.sum(columns, 1)
    acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None])
    return m_new, l_i, acc


@triton.jit
def load_rows(desc, batch, head, row):
    """The block [rows, BLOCK_D] of a head that begins at a row."""
    block = desc.load([batch, head, row, 0])
    return block.reshape(desc.block_shape[2], desc.block_shape[3])


@triton.jit
def attend(
    m_i, l_i, acc, q, k_desc, v_desc, batch, kv_head, start, end, position, n_keys,
    qk_scale, IS_CAUSAL: tl.constexpr, IS_MASKED: tl.constexpr,
):  # fmt: skip
    """Take the state past the keys start … end − 1, block by block."""
    BLOCK_N: tl.constexpr = k_desc.block_shape[2]
    for start_n in range(start, end, BLOCK_N):
        k = load_rows(k_desc, batch, kv_head, start_n)
        qk = tl.dot(q, k.T)
        v = load_rows(v_desc, batch, kv_head, start_n)
        offs_n = start_n + tl.arange(0, BLOCK_N)
        visible = (offs_n < n_keys)[None, :]
        if IS_CAUSAL:
            visible = offs_n[None, :] <= position[:, None]
        m_i, l_i, acc = partial_sums_step(
            m_i, l_i, acc, qk, v, qk_scale, visible, IS_MASKED
        )
    return m_i, l_i, acc


@triton.jit
def attention_tile(
    tile, head, n_heads, q_desc, k_desc, v_desc, o_desc, LSE,
    n_queries, n_keys, sm_scale,
    group, IS_CAUSAL: tl.constexpr, HAS_EDGE: tl.constexpr,
):  # fmt: skip
    """The BLOCK_M queries of a tile of one head, from Q to O and the log-sum-exp."""
    BLOCK_M: tl.constexpr = q_desc.block_shape[2]
    BLOCK_N: tl.constexpr = k_desc.block_shape[2]
    BLOCK_D: tl.constexpr = q_desc.block_shape[3]
    batch, head_of_batch = head // n_heads, head % n_heads
    kv_head = head_of_batch // group
    start_m = tile * BLOCK_M
    offs_m = start_m + tl.arange(0, BLOCK_M)
    position = offs_m + n_keys - n_queries
    q = load_rows(q_desc, batch, head_of_batch, start_m)
    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M, SUMS], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    first = start_m + n_keys - n_queries
    below, seen = n_keys // BLOCK_N * BLOCK_N, n_keys
    if IS_CAUSAL:
        below = max(first + 1, 0) // BLOCK_N * BLOCK_N
        seen = min(first + BLOCK_M, n_keys)
    m_i, l_i, acc = attend(
        m_i, l_i, acc, q, k_desc, v_desc, batch, kv_head, 0, below, position, n_keys,
        sm_scale * LOG2_E, IS_CAUSAL, IS_MASKED=False,
    )  # fmt: skip
    if HAS_EDGE:  # the diagonal, or the end of the keys
        m_i, l_i, acc = attend(
            m_i, l_i, acc, q, k_desc, v_desc, batch, kv_head, below, seen, position,
            n_keys, sm_scale * LOG2_E, IS_CAUSAL, IS_MASKED=True,
        )  # fmt: skip

    o, lse = finish(m_i, tl.sum(l_i, 1), acc)
    o = o.to(o_desc.dtype).reshape(1, 1, BLOCK_M, BLOCK_D)
    o_desc.store([batch, head_of_batch, start_m, 0], o)
    lse_row = LSE + head.to(tl.int64) * n_queries
    tl.store(lse_row + offs_m, lse, offs_m < n_queries)


@triton.jit(do_not_specialize=["heads", "n_heads", "group", "n_queries", "n_keys"])
def fast_attention_kernel(
    q_desc, k_desc, v_desc, o_desc, LSE, heads, n_heads, group,
    n_queries, n_keys, sm_scale, IS_CAUSAL: tl.constexpr, HAS_EDGE: tl.constexpr,
):  # fmt: skip
    n_tiles = tl.cdiv(n_queries, q_desc.block_shape[2])
    tile, head = tile_of_program(tl.program_id(0), n_tiles, heads)
    attention_tile(
        tile, head, n_heads, q_desc, k_desc, v_desc, o_desc, LSE,
        n_queries, n_keys, sm_scale, group, IS_CAUSAL, HAS_EDGE,
    )  # fmt: skip


def serves(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether ``fast_attention`` takes these tensors: 16 bits, as descriptors allow."""
    row_bytes = q.shape[-1] * q.element_size()  # of the output, which lies close
    return q.element_size() == 2 and row_bytes % 16 == 0 and can_describe(q, k, v)


def fast_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = True,
    tiles: Tiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """softmax(Q Kᵀ / √d + mask) V; causal is aligned at the end.

    q (B, H, N_q, d); k, v (B, H_kv, N_k, d) that it ``serves``; checked by the public
    call. Returns o (B, H, N_q, d) in q's dtype and the log-sum-exp (B, H, N_q),
    float32, natural logarithm. ``tiles`` overrides ``fast_tiles``.
    """
    batch, n_heads, n_queries, head_dim = q.shape
    n_keys, group = k.shape[2], n_heads // k.shape[1]
    o = torch.empty_like(q)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    tiles = tiles or fast_tiles(head_dim, n_keys)
    block_m, block_n, block_d, num_warps, num_stages = tiles
    n_tiles = (n_queries + block_m - 1) // block_m
    heads = 1
    if is_causal:
        kv_bytes = 2 * n_keys * head_dim * k.element_size()
        heads = heads_at_a_time(batch * n_heads, group, kv_bytes)
    has_edge = is_causal or n_keys % block_n != 0
    args = (
        rows_of_a_head(q, block_m, block_d), rows_of_a_head(k, block_n, block_d),
        rows_of_a_head(v, block_n, block_d), rows_of_a_head(o, block_m, block_d), lse,
        heads, n_heads, group, n_queries, n_keys, 1 / math.sqrt(head_dim),
        is_causal, has_edge,
    )  # fmt: skip
    launch(
        fast_attention_kernel, (n_tiles * batch * n_heads, 1, 1), args,
        key=(tiles, q.dtype, is_causal, has_edge, q.device),
        num_warps=num_warps, num_stages=num_stages,
    )  # fmt: skip
    return o, lse
