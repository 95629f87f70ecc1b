"""The top of the ladder in portable Triton: chapter 10's kernel for Hopper and later.

It computes what the kernels of chapters 05 and 06 compute, with grouped queries, and
does six things otherwise (chapter 10 takes them one by one):

    small tiles          two or three programs fill a multiprocessor and its gaps
    longest tiles first  the long rows start early, the short ones fill in at the end
    heads in groups      as many heads at a time as their K and V fit in the L2 cache
    descriptors          Hopper's copy engine loads the tiles
    partial row sums     each thread adds up its own columns until the end
    a maximum kept       bfloat16 only: the last block's serves all, if the sums allow

The options of chapters 07 to 09 are left to ``kernels.model_attention``.
"""

import math
from functools import cache

import torch
import triton
import triton.language as tl

from kernels.descriptors import can_describe, load_rows, rows_of_a_head
from kernels.kept_maximum import LARGEST_SUM
from kernels.launch import empty_lse, launch
from kernels.order import heads_at_a_time, tile_of_program
from kernels.step import LOG2_E, finish
from kernels.tiles import Tiles

SUMS = tl.constexpr(8)  # partial sums of a row: of the columns 0, 8, …; 1, 9, …; …


@cache
def fast_tiles(head_dim: int, n_keys: int) -> Tiles:
    """The fastest of the sizes that ``python -m kernels.benchmark tiles`` tried."""
    block_d = max(16, 1 << (head_dim - 1).bit_length())  # the next power of two
    if block_d > 128:
        return Tiles(128, 64, block_d, num_warps=8, num_stages=2)
    block_n = 32 if n_keys <= 1024 else 64
    return Tiles(64, block_n, block_d, num_warps=4, num_stages=3)


@triton.jit
def partial_sums_step(
    m_i, l_i, acc, qk, v, qk_scale, visible, IS_MASKED: tl.constexpr,
    KEEPS_MAX: tl.constexpr,
):  # fmt: skip
    """``kernels.step.online_softmax_step``, but l_i is [BLOCK_M, SUMS].

    A thread holds every eighth column or two of them, so these sums need no other
    thread; the kernel adds them up once, at the end. KEEPS_MAX: m_i stays as it is.
    """
    if IS_MASKED:
        qk = tl.where(visible, qk, -float("inf"))
    m_new = m_i
    if not KEEPS_MAX:
        m_new = tl.maximum(m_i, tl.max(qk, 1) * qk_scale)
    shift = m_new
    if IS_MASKED:
        shift = tl.where(m_new == -float("inf"), 0.0, m_new)
    p = tl.exp2(qk * qk_scale - shift[:, None])
    if not KEEPS_MAX:
        alpha = tl.exp2(m_i - shift)[:, None]
        l_i, acc = l_i * alpha, acc * alpha
    l_i += tl.sum(tl.reshape(p, [p.shape[0], p.shape[1] // SUMS, SUMS]), 1)
    acc = tl.dot(p.to(v.dtype), v, acc)
    return m_new, l_i, acc


@triton.jit
def attend(
    m_i, l_i, acc, q, keys, start, end, position, qk_scale,
    IS_CAUSAL: tl.constexpr, IS_MASKED: tl.constexpr, KEEPS_MAX: tl.constexpr,
):  # fmt: skip
    """Take the state past the keys start … end − 1, block by block."""
    k_desc, v_desc, batch, kv_head, n_keys = keys
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
            m_i, l_i, acc, qk, v, qk_scale, visible, IS_MASKED, KEEPS_MAX
        )
    return m_i, l_i, acc


@triton.jit
def attend_all(
    q, keys, below, seen, position, qk_scale,
    IS_CAUSAL: tl.constexpr, HAS_EDGE: tl.constexpr, KEEPS_MAX: tl.constexpr,
):  # fmt: skip
    """The state (m_i, l_i, acc) after the keys below … seen − 1, and then the others.

    KEEPS_MAX: the maximum of those, of which each row sees some, serves for all.
    """
    m_i = tl.full([q.shape[0]], -float("inf"), tl.float32)
    l_i = tl.zeros([q.shape[0], SUMS], tl.float32)
    acc = tl.zeros(q.shape, tl.float32)
    m_i, l_i, acc = attend(
        m_i, l_i, acc, q, keys, below, seen, position, qk_scale, IS_CAUSAL,
        IS_MASKED=HAS_EDGE, KEEPS_MAX=False,
    )  # fmt: skip
    m_i, l_i, acc = attend(
        m_i, l_i, acc, q, keys, 0, below, position, qk_scale, IS_CAUSAL,
        IS_MASKED=False, KEEPS_MAX=KEEPS_MAX,
    )  # fmt: skip
    return m_i, tl.sum(l_i, 1), acc


@triton.jit
def attention_tile(
    tile, head, n_heads, q_desc, k_desc, v_desc, o_desc, LSE, n_queries, n_keys,
    sm_scale, group, IS_CAUSAL: tl.constexpr, HAS_EDGE: tl.constexpr,
):  # fmt: skip
    """The BLOCK_M queries of a tile of one head, from Q to O and the log-sum-exp."""
    BLOCK_M: tl.constexpr = q_desc.block_shape[2]
    BLOCK_N: tl.constexpr = k_desc.block_shape[2]
    batch, head_of_batch, start_m = head // n_heads, head % n_heads, tile * BLOCK_M
    offs_m = start_m + tl.arange(0, BLOCK_M)
    first = start_m + n_keys - n_queries  # the last key that the first row sees
    below, seen = (n_keys - 1) // BLOCK_N * BLOCK_N, n_keys
    if IS_CAUSAL:
        below, seen = max(first, 0) // BLOCK_N * BLOCK_N, min(first + BLOCK_M, n_keys)
    q = load_rows(q_desc, batch, head_of_batch, start_m)
    keys = k_desc, v_desc, batch, head_of_batch // group, n_keys
    position, qk_scale = offs_m + n_keys - n_queries, sm_scale * LOG2_E
    KEEPS_MAX: tl.constexpr = (
        q.dtype != tl.float16
    )  # in which p would soon be too large
    m_i, l_i, acc = attend_all(
        q, keys, below, seen, position, qk_scale, IS_CAUSAL, HAS_EDGE, KEEPS_MAX
    )
    if KEEPS_MAX:  # noqa: SIM102  # known when compiling; the next is not
        if tl.min((l_i < LARGEST_SUM).to(tl.int32), 0) == 0:  # once more, then
            m_i, l_i, acc = attend_all(
                q, keys, below, seen, position, qk_scale, IS_CAUSAL, HAS_EDGE, False
            )
    o, lse = finish(m_i, l_i, acc)
    o_desc.store([batch, head_of_batch, start_m, 0], o.to(o_desc.dtype)[None, None])
    tl.store(LSE + head.to(tl.int64) * n_queries + offs_m, lse, offs_m < n_queries)


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
    float32, natural logarithm. ``tiles`` overrides ``fast_tiles``. In bfloat16, no
    value of v may exceed 2⁶² (see kernels.kept_maximum).
    """
    batch, n_heads, n_queries, head_dim = q.shape
    n_keys, group = k.shape[2], n_heads // k.shape[1]
    o = torch.empty_like(q)
    lse = empty_lse(q)
    tiles = tiles or fast_tiles(head_dim, n_keys)
    block_m, block_n, block_d, num_warps, num_stages = tiles
    n_tiles = (n_queries + block_m - 1) // block_m
    heads = 1
    if is_causal:
        heads = heads_at_a_time(batch * n_heads, group, 4 * n_keys * head_dim)
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
