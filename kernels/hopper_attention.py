"""FlashAttention for Hopper by hand, in Gluon: the basic ping-pong.

In Triton all warps of a program do the same, and the compiler decides what overlaps.
Here each has a role, as in FlashAttention-3 (Shah et al., 2024):

    producer    1 warp         only loads: K and V, block by block
    consumers   2 × 4 warps    64 query rows each: the products and the softmax

In a step a consumer hands the tensor cores two products, Q Kᵀ of block j and P V of
block j − 1. It takes the softmax of block j as soon as the first is there, and waits
for the second before it rescales acc. In the meantime the tensor cores go on with the
other consumer's products. Nobody has to arrange that: they cannot serve both at once,
so that after the first steps the two take turns.

Blocks are visited from the last key to the first: those with a mask, on the diagonal
or at the end of the keys, come before the loop, which has none.
"""

import math

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.hopper import BLOCK_M, BLOCK_N, ROWS, describe, find_work
from kernels.hopper_rings import load, load_at_once, make_ring, offer, release, wait_for
from kernels.hopper_softmax import online_softmax, rescale
from kernels.launch import empty_lse, launch
from kernels.named_barriers import K_FREE, V_FREE, pass_turn, wait_turn
from kernels.order import heads_at_a_time
from kernels.step import LN_2, LOG2_E


@gluon.jit
def producer(k_desc, v_desc, k_ring, v_ring, work, group):
    """Load everything else, in the order in which the consumers need it."""
    batch, head, _, n_blocks = work
    kv_head = head // group
    start_n = (n_blocks - 1) * BLOCK_N
    for j in range(1, n_blocks):
        load(k_ring, j, k_desc, batch, kv_head, start_n - j * BLOCK_N)
        load(v_ring, j - 1, v_desc, batch, kv_head, start_n - (j - 1) * BLOCK_N)
    load(v_ring, n_blocks - 1, v_desc, batch, kv_head, 0)


@gluon.jit
def issue_scores(q, k_ring, j, LAYOUT: gl.constexpr, comes=True):
    """Start Q Kᵀ of block j [ROWS, BLOCK_N]."""
    zeros = gl.zeros([ROWS, BLOCK_N], gl.float32, LAYOUT)
    k_t = wait_for(k_ring, j, comes).permute((1, 0))
    return warpgroup_mma(q, k_t, zeros, use_acc=False, is_async=True)


@gluon.jit
def step(
    state, q, k_ring, v_ring, j, qk_scale, visible, IS_MASKED: gl.constexpr,
    IS_PREDICATED: gl.constexpr = False, CONSUMER: gl.constexpr = 0,
    TURNS: gl.constexpr = 0, KEEPS_MAX: gl.constexpr = False,
):  # fmt: skip
    """Take acc past block j − 1 and the softmax past block j."""
    m_i, l_i, acc, p = state
    LAYOUT: gl.constexpr = visible.type.layout
    wait_turn(CONSUMER, TURNS)
    qk = issue_scores(q, k_ring, j, LAYOUT)
    v = wait_for(v_ring, j - 1)
    acc = warpgroup_mma(p, v, acc, is_async=True)
    pass_turn(CONSUMER, TURNS)
    qk = warpgroup_mma_wait(1, deps=(qk,))  # P V, the latest, may still run
    release(k_ring, j)
    m_i, l_i, alpha, p_j = online_softmax(
        m_i, l_i, qk, qk_scale, visible, IS_MASKED, KEEPS_MAX
    )
    acc = warpgroup_mma_wait(0, deps=(acc,))
    release(v_ring, j - 1)
    acc = rescale(acc, alpha, IS_PREDICATED and not KEEPS_MAX)
    return m_i, l_i, acc, gl.convert_layout(p_j.to(p.dtype), p.type.layout)


@gluon.jit
def consumer(
    o_desc, LSE, q_ring, k_ring, v_ring, work, n_queries, n_keys, n_heads, qk_scale,
    CONSUMER: gl.constexpr, IS_CAUSAL: gl.constexpr, MASKED_BLOCKS: gl.constexpr,
):  # fmt: skip
    """Attention of 64 rows; the first MASKED_BLOCKS blocks of keys have a mask."""
    BLOCK_D: gl.constexpr = o_desc.block_type.shape[3]
    QK: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    P: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)
    batch, head, start_m, n_blocks = work
    start_m += CONSUMER * ROWS
    offs_m = start_m + gl.arange(0, ROWS, gl.SliceLayout(1, QK))
    offs_n = (n_blocks - 1) * BLOCK_N + gl.arange(0, BLOCK_N, gl.SliceLayout(0, QK))
    last_seen = n_keys - 1
    if IS_CAUSAL:
        last_seen = offs_m[:, None] + n_keys - n_queries
    m_i = gl.full([ROWS], -float("inf"), gl.float32, gl.SliceLayout(1, QK))
    acc = gl.zeros([ROWS, BLOCK_D], gl.float32, ACC)

    offer(k_ring, 1)  # place 0 is taken
    offer(v_ring)
    q = wait_for(q_ring, CONSUMER)
    qk = warpgroup_mma_wait(0, deps=(issue_scores(q, k_ring, 0, QK),))
    release(k_ring, 0)
    visible = offs_n[None, :] <= last_seen
    m_i, l_i, _, p = online_softmax(m_i, 0.0, qk, qk_scale, visible, MASKED_BLOCKS > 0)
    state = m_i, l_i, acc, gl.convert_layout(p.to(o_desc.dtype), P)
    if MASKED_BLOCKS == 2:  # noqa: SIM102  # known when compiling; the next is not
        if n_blocks > 1:
            visible = offs_n[None, :] - BLOCK_N <= last_seen
            state = step(state, q, k_ring, v_ring, 1, qk_scale, visible, True)
    for j in range(max(MASKED_BLOCKS, 1), n_blocks):
        state = step(state, q, k_ring, v_ring, j, qk_scale, visible, False)
    m_i, l_i, acc, p = state
    acc = warpgroup_mma(p, wait_for(v_ring, n_blocks - 1), acc, is_async=True)

    l_i = gl.convert_layout(gl.sum(l_i, 1), gl.SliceLayout(1, QK))
    l_safe = gl.where(l_i == 0.0, 1.0, l_i)  # a row that saw no key
    lse_rows = LSE + (batch.to(gl.int64) * n_heads + head) * n_queries
    gl.store(lse_rows + offs_m, (m_i + gl.log2(l_safe)) * LN_2, offs_m < n_queries)
    scale = gl.convert_layout(1.0 / l_safe, gl.SliceLayout(1, ACC))
    acc = warpgroup_mma_wait(0, deps=(acc,))
    q.store((acc * scale[:, None]).to(o_desc.dtype))  # O leaves by where Q came in
    fence_async_shared()
    o_tile = q_ring.tiles.index(CONSUMER)
    tma.async_copy_shared_to_global(o_desc, [batch, head, start_m, 0], o_tile)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["n_queries", "n_keys", "n_heads", "group"])
def hopper_attention_kernel(
    q_desc, k_desc, v_desc, o_desc, LSE,
    n_queries, n_keys, n_heads, group, qk_scale,
    IS_CAUSAL: gl.constexpr, MASKED_BLOCKS: gl.constexpr, PLACES: gl.constexpr, TIMES,
):  # fmt: skip
    """Set up the rings, load what comes first, and give each warp its role."""
    q_ring = make_ring(q_desc, 2, FREE=0, READERS=0, TIMES=TIMES, RING=0)
    k_ring = make_ring(k_desc, PLACES, K_FREE, READERS=2, TIMES=TIMES, RING=1)
    work = find_work(n_queries, n_keys, n_heads, IS_CAUSAL)
    batch, head, start_m, n_blocks = work
    fence_async_shared()
    # What the first product takes is on its way while the roles are handed out.
    load_at_once(q_ring, 0, q_desc, batch, head, start_m)
    load_at_once(q_ring, 1, q_desc, batch, head, start_m + ROWS)
    load_at_once(k_ring, 0, k_desc, batch, head // group, (n_blocks - 1) * BLOCK_N)
    v_ring = make_ring(v_desc, PLACES, V_FREE, READERS=2, TIMES=TIMES, RING=2)
    fence_async_shared()
    gl.warp_specialize(
        [
            (consumer, (o_desc, LSE, q_ring, k_ring, v_ring, work, n_queries, n_keys,
                        n_heads, qk_scale, 0, IS_CAUSAL, MASKED_BLOCKS)),
            (consumer, (o_desc, LSE, q_ring, k_ring, v_ring, work, n_queries, n_keys,
                        n_heads, qk_scale, 1, IS_CAUSAL, MASKED_BLOCKS)),
            (producer, (k_desc, v_desc, k_ring, v_ring, work, group)),
        ],
        [4, 1],  # warps, and registers of a thread; the first gets the other 240
        [240, 24],
    )  # fmt: skip


def hopper_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = True,
    times: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """softmax(Q Kᵀ / √d + mask) V on a Hopper card; causal is aligned at the end.

    q (B, H, N_q, d); k, v (B, H_kv, N_k, d); float16 or bfloat16, such that ``serves``
    holds. Returns o (B, H, N_q, d) in that dtype and the log-sum-exp (B, H, N_q),
    float32, natural logarithm; 0 and −inf for a row that sees no key. ``times`` is for
    hopper_timeline.
    """
    batch, n_heads, n_queries, head_dim = q.shape
    group, n_keys = n_heads // k.shape[1], k.shape[2]
    o = torch.empty_like(q)
    lse = empty_lse(q)
    block_d = max(16, 1 << (head_dim - 1).bit_length())  # the next power of two
    places = 2 if block_d == 128 else 4  # three fit at 128, and are no faster
    masked_blocks = 1 if is_causal or n_keys % 128 else 0
    if is_causal and (n_keys - n_queries) % 128:
        masked_blocks = 2  # the diagonal of 128 rows crosses two blocks
    args = (
        describe(q, 64, block_d), describe(k, 128, block_d),
        describe(v, 128, block_d), describe(o, 64, block_d), lse,
        n_queries, n_keys, n_heads, group, LOG2_E.value / math.sqrt(head_dim),
        is_causal, masked_blocks, places, times,
    )  # fmt: skip
    together = heads_at_a_time(batch * n_heads, group, 4 * n_keys * head_dim)
    grid = (together, (n_queries + 127) // 128, batch * n_heads // together)
    key = q.dtype, block_d, is_causal, masked_blocks, times is None, q.device
    launch(hopper_attention_kernel, grid, args, key, num_warps=4)
    return o, lse
