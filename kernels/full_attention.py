"""FlashAttention over every key: no mask but the one at the end of the keys.

    o_i = Σ_j exp(q_i·k_j/√d) v_j / Σ_j exp(q_i·k_j/√d)

One program computes BLOCK_M rows of the output. It reads its queries once, walks over
all keys and values in blocks of BLOCK_N, and writes its results once: the N×N matrix of
scores never exists (Dao et al., 2022; the order of the loops is that of Dao, 2023).
"""

import math

import torch
import triton
import triton.language as tl

from kernels.device import shared_memory_bytes
from kernels.step import LOG2_E, finish, load_tile, online_softmax_step, tile_ptrs
from kernels.tiles import Tiles, choose_tiles


@triton.jit
def full_attention_kernel(
    Q, K, V, O, LSE,
    stride_q, stride_k, stride_v, stride_o,
    n_queries, n_keys, sm_scale,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_TAIL: tl.constexpr,
):  # fmt: skip
    start_m, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    offs_m = start_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    in_m = offs_m < n_queries
    in_d = offs_d < HEAD_DIM
    # Keys are masked in loads only where a block can stick out of the matrix.
    LOAD_MASKED: tl.constexpr = HAS_TAIL or HEAD_DIM != BLOCK_D

    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    q_ptrs = tile_ptrs(Q, stride_q, batch, head, offs_m, offs_d)
    k_ptrs = tile_ptrs(K, stride_k, batch, head, offs_n, offs_d)
    v_ptrs = tile_ptrs(V, stride_v, batch, head, offs_n, offs_d)
    q = load_tile(q_ptrs, in_m, in_d, IS_MASKED=True)
    for start_n in range(0, n_keys, BLOCK_N):
        in_n = start_n + offs_n < n_keys
        skipped = tl.cast(start_n, tl.int64)
        k = load_tile(k_ptrs + skipped * stride_k[2], in_n, in_d, LOAD_MASKED)
        v = load_tile(v_ptrs + skipped * stride_v[2], in_n, in_d, LOAD_MASKED)
        qk = tl.dot(q, k.T, input_precision="ieee")  # [BLOCK_M, BLOCK_N], float32
        m_i, l_i, acc = online_softmax_step(
            m_i, l_i, acc, qk, v, sm_scale * LOG2_E, in_n[None, :], HAS_TAIL
        )
    o, lse = finish(m_i, l_i, acc)

    o_ptrs = tile_ptrs(O, stride_o, batch, head, offs_m, offs_d)
    tl.store(o_ptrs, o.to(O.dtype.element_ty), in_m[:, None] & in_d[None, :])
    lse_row = LSE + (batch.to(tl.int64) * tl.num_programs(1) + head) * n_queries
    tl.store(lse_row + offs_m, lse, in_m)


def full_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tiles: Tiles | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q Kᵀ / √d) V, every query seeing every key.

    q (B, H, N_q, d); k, v (B, H, N_k, d); one dtype, checked by the public call
    (``kernels.attention``). Returns o (B, H, N_q, d) in that dtype and the log-sum-exp
    (B, H, N_q), float32, natural logarithm. ``tiles`` overrides ``choose_tiles``.
    """
    batch, n_heads, n_queries, head_dim = q.shape
    n_keys = k.shape[2]
    o = torch.empty_like(q)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    if tiles is None:
        tiles = choose_tiles(head_dim, q.element_size(), shared_memory_bytes())
    grid = (triton.cdiv(n_queries, tiles.BLOCK_M), n_heads, batch)
    full_attention_kernel[grid](
        q, k, v, o, lse,
        q.stride(), k.stride(), v.stride(), o.stride(),
        n_queries, n_keys, 1 / math.sqrt(head_dim),
        HEAD_DIM=head_dim, HAS_TAIL=n_keys % tiles.BLOCK_N != 0,
        **tiles._asdict(),
    )  # fmt: skip
    return o, lse
