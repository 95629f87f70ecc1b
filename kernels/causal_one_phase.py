"""Causal FlashAttention in one phase: what chapter 06 starts from and measures against.

One loop, with the mask applied to every block. With SKIPS_ABOVE it ends where no query
of the program sees any further key; without, it walks over all of them.
"""

import math

import torch
import triton
import triton.language as tl

from kernels.causal_attention import attend, split_keys
from kernels.device import shared_memory_bytes
from kernels.step import LOG2_E, finish, load_tile, tile_ptrs
from kernels.tiles import choose_tiles


@triton.jit
def one_phase_kernel(
    Q, K, V, O,
    stride_q, stride_k, stride_v, stride_o,
    n_queries, n_keys, sm_scale,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SKIPS_ABOVE: tl.constexpr,
):  # fmt: skip
    start_m = tl.program_id(0) * BLOCK_M
    head, batch = tl.program_id(1), tl.program_id(2)
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    in_m = offs_m < n_queries
    in_d = offs_d < HEAD_DIM

    q_ptrs = tile_ptrs(Q, stride_q, batch, head, offs_m, offs_d)
    k_ptrs = tile_ptrs(K, stride_k, batch, head, offs_n, offs_d)
    v_ptrs = tile_ptrs(V, stride_v, batch, head, offs_n, offs_d)
    q = load_tile(q_ptrs, in_m, in_d, IS_MASKED=True)
    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    end = n_keys
    if SKIPS_ABOVE:
        _, end = split_keys(start_m, n_queries, n_keys, BLOCK_M, BLOCK_N)
    m_i, l_i, acc = attend(
        m_i, l_i, acc, q, k_ptrs, v_ptrs, stride_k[2], stride_v[2],
        0, end, offs_m + n_keys - n_queries, n_keys, in_d, sm_scale * LOG2_E,
        BLOCK_N, IS_MASKED=True, LOAD_MASKED=True,
    )  # fmt: skip

    o, _ = finish(m_i, l_i, acc)
    o_ptrs = tile_ptrs(O, stride_o, batch, head, offs_m, offs_d)
    tl.store(o_ptrs, o.to(O.dtype.element_ty), in_m[:, None] & in_d[None, :])


def one_phase_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, skips_above: bool
) -> torch.Tensor:
    """Causal attention with every visited block masked.

    q (B, H, N_q, d); k, v (B, H, N_k, d); one dtype. ``skips_above`` leaves out the
    blocks above the diagonal. Returns o (B, H, N_q, d) in the inputs' dtype.
    """
    batch, n_heads, n_queries, head_dim = q.shape
    o = torch.empty_like(q)
    tiles = choose_tiles(head_dim, q.element_size(), shared_memory_bytes())
    grid = (triton.cdiv(n_queries, tiles.BLOCK_M), n_heads, batch)
    one_phase_kernel[grid](
        q, k, v, o,
        q.stride(), k.stride(), v.stride(), o.stride(),
        n_queries, k.shape[2], 1 / math.sqrt(head_dim),
        HEAD_DIM=head_dim, SKIPS_ABOVE=skips_above, **tiles._asdict(),
    )  # fmt: skip
    return o
