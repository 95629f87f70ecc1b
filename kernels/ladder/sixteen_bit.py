"""Rung 2: the operands keep their 16 bits.

The tensor cores multiply 16-bit numbers at twice the rate of TF32 and add in float32
all the same. P is rounded to the dtype of V, the sums over it are not.
"""

import math

import torch
import triton
import triton.language as tl

from kernels.ladder.inputs import check_rung_inputs, first_tiles
from kernels.tiles import Tiles


@triton.jit
def attention_kernel(
    Q, K, V, O, n, sm_scale,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    start_m = tile * BLOCK_M
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, BLOCK_D)
    head_row = head.to(tl.int64) * n  # int64: all heads may hold over 2³¹ elements
    q_ptrs = Q + (head_row + offs_m)[:, None] * BLOCK_D + offs_d[None, :]
    k_ptrs = K + (head_row + tl.arange(0, BLOCK_N))[:, None] * BLOCK_D + offs_d[None, :]
    v_ptrs = V + (head_row + tl.arange(0, BLOCK_N))[:, None] * BLOCK_D + offs_d[None, :]
    q = tl.load(q_ptrs)
    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    for start_n in range(0, start_m + BLOCK_M, BLOCK_N):
        k = tl.load(k_ptrs + start_n * BLOCK_D)
        qk = tl.dot(q, k.T) * sm_scale
        v = tl.load(v_ptrs + start_n * BLOCK_D)
        offs_n = start_n + tl.arange(0, BLOCK_N)
        visible = offs_n[None, :] <= offs_m[:, None]
        qk = tl.where(visible, qk, -float("inf"))
        m_new = tl.maximum(m_i, tl.max(qk, 1))
        p = tl.exp(qk - m_new[:, None])
        alpha = tl.exp(m_i - m_new)
        l_i = l_i * alpha + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None])
        m_i = m_new

    o = acc / l_i[:, None]
    o_ptrs = O + (head_row + offs_m)[:, None] * BLOCK_D + offs_d[None, :]
    tl.store(o_ptrs, o.to(O.dtype.element_ty))


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tiles: Tiles | None = None
) -> torch.Tensor:
    """Causal softmax(Q Kᵀ / √d) V for what ``check_rung_inputs`` lets through."""
    check_rung_inputs(q, k, v, tiles)
    batch, n_heads, n, head_dim = q.shape
    o = torch.empty_like(q)
    tiles = tiles or first_tiles(head_dim)
    grid = (n // tiles.BLOCK_M, batch * n_heads)
    attention_kernel[grid](
        q, k, v, o, n, 1 / math.sqrt(head_dim), **tiles._asdict()
    )  # fmt: skip
    return o
