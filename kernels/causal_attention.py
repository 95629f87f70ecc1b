"""Causal FlashAttention in two phases.

Query i stands at position p_i = i + N_k − N_q among the keys and sees every j ≤ p_i.
For the BLOCK_M queries of one program the keys fall into three parts:

    [0, n_below)        every query sees all of them    phase 1, no mask
    [n_below, n_seen)   some queries see some of them   phase 2, masked
    [n_seen, N_k)       no query sees any               never touched

Both phases run one loop over one shared step; a compile-time flag turns its mask on.
"""

import math

import torch
import triton
import triton.language as tl

from kernels.device import shared_memory_bytes
from kernels.step import LOG2_E, finish, load_tile, online_softmax_step, tile_ptrs
from kernels.tiles import Tiles, choose_tiles


@triton.jit
def split_keys(
    start_m, n_queries, n_keys, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """(n_below, n_seen) for the queries start_m … start_m + BLOCK_M − 1.

    n_below is a multiple of BLOCK_N: phase 2 starts where phase 1 ends. Nothing
    here but integers: outside a kernel, ``split_keys.fn`` computes the same.
    """
    first_position = start_m + n_keys - n_queries
    n_below = max(first_position + 1, 0) // BLOCK_N * BLOCK_N
    n_seen = min(first_position + BLOCK_M, n_keys)
    return n_below, n_seen


@triton.jit
def attend(
    m_i, l_i, acc, q, k_ptrs, v_ptrs, stride_kn, stride_vn,
    start, end, position, n_keys, in_d, qk_scale,
    BLOCK_N: tl.constexpr, IS_MASKED: tl.constexpr, LOAD_MASKED: tl.constexpr,
):  # fmt: skip
    """Take the state past the keys start … end − 1, block by block."""
    for start_n in range(start, end, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        in_n = offs_n < n_keys
        skipped = tl.cast(start_n, tl.int64)
        k = load_tile(k_ptrs + skipped * stride_kn, in_n, in_d, LOAD_MASKED)
        v = load_tile(v_ptrs + skipped * stride_vn, in_n, in_d, LOAD_MASKED)
        qk = tl.dot(q, k.T, input_precision="ieee")  # [BLOCK_M, BLOCK_N], float32
        visible = position[:, None] >= offs_n[None, :]
        m_i, l_i, acc = online_softmax_step(
            m_i, l_i, acc, qk, v, qk_scale, visible, IS_MASKED
        )
    return m_i, l_i, acc


@triton.jit
def causal_attention_kernel(
    Q, K, V, O, LSE,
    stride_q, stride_k, stride_v, stride_o,
    n_queries, n_keys, sm_scale,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    start_m = tl.program_id(0) * BLOCK_M
    head, batch = tl.program_id(1), tl.program_id(2)
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    in_m = offs_m < n_queries
    in_d = offs_d < HEAD_DIM
    PADDED: tl.constexpr = HEAD_DIM != BLOCK_D

    q_ptrs = tile_ptrs(Q, stride_q, batch, head, offs_m, offs_d)
    k_ptrs = tile_ptrs(K, stride_k, batch, head, offs_n, offs_d)
    v_ptrs = tile_ptrs(V, stride_v, batch, head, offs_n, offs_d)
    q = load_tile(q_ptrs, in_m, in_d, IS_MASKED=True)
    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    position = offs_m + n_keys - n_queries
    qk_scale = sm_scale * LOG2_E
    n_below, n_seen = split_keys(start_m, n_queries, n_keys, BLOCK_M, BLOCK_N)
    m_i, l_i, acc = attend(  # phase 1: below the diagonal
        m_i, l_i, acc, q, k_ptrs, v_ptrs, stride_k[2], stride_v[2],
        0, n_below, position, n_keys, in_d, qk_scale,
        BLOCK_N, IS_MASKED=False, LOAD_MASKED=PADDED,
    )  # fmt: skip
    m_i, l_i, acc = attend(  # phase 2: on the diagonal
        m_i, l_i, acc, q, k_ptrs, v_ptrs, stride_k[2], stride_v[2],
        n_below, n_seen, position, n_keys, in_d, qk_scale,
        BLOCK_N, IS_MASKED=True, LOAD_MASKED=True,
    )  # fmt: skip

    o, lse = finish(m_i, l_i, acc)
    o_ptrs = tile_ptrs(O, stride_o, batch, head, offs_m, offs_d)
    tl.store(o_ptrs, o.to(O.dtype.element_ty), in_m[:, None] & in_d[None, :])
    lse_row = LSE + (batch.to(tl.int64) * tl.num_programs(1) + head) * n_queries
    tl.store(lse_row + offs_m, lse, in_m)


def causal_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tiles: Tiles | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q Kᵀ / √d + causal mask) V, aligned at the end.

    q (B, H, N_q, d); k, v (B, H, N_k, d); one dtype, checked by the public call
    (``kernels.attention``). Returns o (B, H, N_q, d) in that dtype and the log-sum-exp
    (B, H, N_q), float32, natural logarithm. A row that sees no key (N_q > N_k) gives
    o = 0 and −inf. ``tiles`` overrides ``choose_tiles``.
    """
    batch, n_heads, n_queries, head_dim = q.shape
    o = torch.empty_like(q)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    if tiles is None:
        tiles = choose_tiles(head_dim, q.element_size(), shared_memory_bytes())
    grid = (triton.cdiv(n_queries, tiles.BLOCK_M), n_heads, batch)
    causal_attention_kernel[grid](
        q, k, v, o, lse,
        q.stride(), k.stride(), v.stride(), o.stride(),
        n_queries, k.shape[2], 1 / math.sqrt(head_dim),
        HEAD_DIM=head_dim, **tiles._asdict(),
    )  # fmt: skip
    return o, lse
