"""Rung 10: the maximum of the diagonal's blocks is kept for all the others.

They come first now, and the other blocks are taken relative to their maximum. If a row
outgrows it by too much, as its sum says, the program begins again and follows the
maximum; ``kernels.kept_maximum`` says what is too much. In float16 it is followed at
once: p would soon be too large.
"""

import math

import torch
import triton
import triton.language as tl

from kernels.descriptors import load_rows
from kernels.fast_attention import SUMS, fast_tiles
from kernels.kept_maximum import LARGEST_SUM
from kernels.ladder.inputs import check_rung_inputs, describe
from kernels.order import heads_at_a_time, tile_of_program
from kernels.step import LOG2_E
from kernels.tiles import Tiles


@triton.jit
def attention_kernel(
    q_desc, k_desc, v_desc, o_desc, n_tiles, sm_scale,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    HEADS: tl.constexpr,
):  # fmt: skip
    tile, head = tile_of_program(tl.program_id(0), n_tiles, HEADS)
    start_m = tile * BLOCK_M
    offs_m = start_m + tl.arange(0, BLOCK_M)
    q = load_rows(q_desc, 0, head, start_m)
    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M, SUMS], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    qk_scale = sm_scale * LOG2_E
    below = start_m // BLOCK_N * BLOCK_N
    empty, fits = (m_i, l_i, acc), False
    for KEEPS_MAX in tl.static_range(q.dtype != tl.float16, -1, -1):
        if not fits:
            m_i, l_i, acc = empty
            for IS_MASKED in tl.static_range(1, -1, -1):  # the diagonal first
                start, end = 0, below
                if IS_MASKED:
                    start, end = below, start_m + BLOCK_M
                for start_n in range(start, end, BLOCK_N):
                    k = load_rows(k_desc, 0, head, start_n)
                    qk = tl.dot(q, k.T)
                    v = load_rows(v_desc, 0, head, start_n)
                    offs_n = start_n + tl.arange(0, BLOCK_N)
                    visible = offs_n[None, :] <= offs_m[:, None]
                    if IS_MASKED:
                        qk = tl.where(visible, qk, -float("inf"))
                    m_new = m_i
                    if IS_MASKED or not KEEPS_MAX:
                        m_new = tl.maximum(m_i, tl.max(qk, 1) * qk_scale)
                    p = tl.exp2(qk * qk_scale - m_new[:, None])
                    if IS_MASKED or not KEEPS_MAX:
                        alpha = tl.exp2(m_i - m_new)[:, None]
                        l_i, acc = l_i * alpha, acc * alpha
                    columns = tl.reshape(p, [BLOCK_M, BLOCK_N // SUMS, SUMS])
                    l_i += tl.sum(columns, 1)
                    acc = tl.dot(p.to(v.dtype), v, acc)
                    m_i = m_new
            fits = tl.min((tl.sum(l_i, 1) < LARGEST_SUM).to(tl.int32), 0) == 1

    o = acc / tl.sum(l_i, 1)[:, None]
    o = o.to(o_desc.dtype).reshape(1, 1, BLOCK_M, BLOCK_D)
    o_desc.store([0, head, start_m, 0], o)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tiles: Tiles | None = None
) -> torch.Tensor:
    """Causal softmax(Q Kᵀ / √d) V for what ``check_rung_inputs`` lets through."""
    check_rung_inputs(q, k, v, tiles)
    batch, n_heads, n, head_dim = q.shape
    o = torch.empty_like(q)
    tiles = tiles or fast_tiles(head_dim, n)
    n_tiles = n // tiles.BLOCK_M
    grid = (n_tiles * batch * n_heads,)
    heads = heads_at_a_time(batch * n_heads, 1, k[0, 0].nbytes + v[0, 0].nbytes)
    attention_kernel[grid](
        *describe(q, k, v, o, tiles), n_tiles, 1 / math.sqrt(head_dim),
        HEADS=heads, **tiles._asdict()
    )  # fmt: skip
    return o
