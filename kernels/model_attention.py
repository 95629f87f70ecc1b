"""Attention as models use it: one kernel with every option of chapters 07 to 09.

Query i stands at position p = i + N_k − N_q among the keys and sees key j if

    always                                    (not causal)
    j ≤ p                                     (causal)
    p − w < j ≤ p                             (window of w keys: Beltagy et al., 2020)
    p − w < j ≤ p, or j < s and j ≤ p         (s first-token sinks: Xiao et al., 2023)

H query heads share H_kv heads of K and V in groups of G = H / H_kv (Ainslie et al.,
2023): head h reads K/V head h // G. The BLOCK_M rows of a program belong to HEADS heads
of one group, the largest power of two in G, and BLOCK_M / HEADS queries of each; they
share every block of keys that the program loads.

A score q·k/√d becomes, if asked for, c·tanh(score / c) (softcap: Gemma Team, 2024),
then score − slope·|p − j| (ALiBi: Press et al., 2022). A learned sink is one more term
of the denominator (gpt-oss: OpenAI, 2025). What is off is None at compile time.
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
    first, last, n_keys, window_size, sink_size,
    IS_CAUSAL: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """(sinks, left, whole, below, seen) for queries at the positions first … last.

    They cut the keys into four parts:

        [0, sinks)       sinks in blocks before the window's     masked
        [left, whole)    the window's left edge                  masked
        [whole, below)   all that every query sees               no mask
        [below, seen)    the diagonal, or the end of the keys    masked

    All but ``seen`` are multiples of BLOCK_N, so that no block is visited twice.
    """
    seen, below = n_keys, n_keys // BLOCK_N * BLOCK_N
    if IS_CAUSAL:
        seen = min(last + 1, n_keys)
        below = max(first + 1, 0) // BLOCK_N * BLOCK_N
    sinks, left, whole = 0, 0, 0
    if window_size is not None:
        left = max(first + 1 - window_size, 0) // BLOCK_N * BLOCK_N
        last_left = max(last + 1 - window_size, 0)
        whole = min((last_left + BLOCK_N - 1) // BLOCK_N * BLOCK_N, below)
    if sink_size is not None:
        sinks = min((sink_size + BLOCK_N - 1) // BLOCK_N * BLOCK_N, left)
    return sinks, left, whole, below, seen


@triton.jit
def masked_start(n, sinks, left, whole, below):
    """Where the block of the masked parts begins that has n masked keys before it."""
    past_sinks = (n >= sinks) * (left - sinks)
    past_left = (n >= sinks + whole - left) * (below - whole)
    return n + past_sinks + past_left


@triton.jit
def visible_keys(position, offs_n, n_keys, window_size, sink_size, IS_CAUSAL):
    """Which of the keys offs_n each query sees [BLOCK_M, BLOCK_N]."""
    if IS_CAUSAL:
        visible = offs_n[None, :] <= position[:, None]
    else:
        visible = (offs_n < n_keys)[None, :]
    if window_size is not None:
        near = offs_n[None, :] > position[:, None] - window_size
        if sink_size is not None:
            near |= (offs_n < sink_size)[None, :]
        visible &= near
    return visible


@triton.jit
def changed_scores(qk, softcap, slope, position, offs_n):
    """Softcap and ALiBi, on scores in natural units [BLOCK_M, BLOCK_N]."""
    if softcap is not None:  # tanh(x) = 1 − 2 / (1 + e^2x)
        qk = softcap - 2 * softcap / (1 + tl.exp2(qk * (2 * LOG2_E / softcap)))
    if slope is not None:
        distance = tl.abs(position[:, None] - offs_n[None, :])
        qk -= slope[:, None] * distance.to(tl.float32)
    return qk


@triton.jit
def model_attention_kernel(
    Q, K, V, O, LSE, SINKS, SLOPES,
    stride_q, stride_k, stride_v, stride_o,
    n_queries, n_keys, sm_scale, window_size, sink_size, softcap,
    GROUP: tl.constexpr, HEADS: tl.constexpr,
    IS_CAUSAL: tl.constexpr, HAS_EDGES: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    QUERIES: tl.constexpr = BLOCK_M // HEADS  # of each head
    start_m, batch = tl.program_id(0) * QUERIES, tl.program_id(2)
    first_head = tl.program_id(1) * HEADS
    kv_head = first_head // GROUP
    rows = tl.arange(0, BLOCK_M)
    heads, offs_m = first_head + rows // QUERIES, start_m + rows % QUERIES
    in_m = offs_m < n_queries
    offs_d = tl.arange(0, BLOCK_D)
    in_d = offs_d < HEAD_DIM
    PADDED: tl.constexpr = HEAD_DIM != BLOCK_D

    q_ptrs = tile_ptrs(Q, stride_q, batch, heads[:, None], offs_m, offs_d)
    k_first = tile_ptrs(K, stride_k, batch, kv_head, tl.arange(0, BLOCK_N), offs_d)
    v_first = tile_ptrs(V, stride_v, batch, kv_head, tl.arange(0, BLOCK_N), offs_d)
    q = load_tile(q_ptrs, in_m, in_d, IS_MASKED=True)
    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if SINKS is not None:  # the state of one key with score s and value 0
        m_i = tl.load(SINKS + heads).to(tl.float32) * LOG2_E
        l_i += 1.0
    slope = tl.load(SLOPES + heads).to(tl.float32) if SLOPES is not None else None
    CHANGES_SCORES: tl.constexpr = softcap is not None or SLOPES is not None
    qk_scale = LOG2_E if CHANGES_SCORES else sm_scale * LOG2_E

    position = offs_m + n_keys - n_queries
    first = start_m + n_keys - n_queries
    last = min(first + QUERIES, n_keys) - 1
    sinks, left, whole, below, seen = split_keys(
        first, last, n_keys, window_size, sink_size, IS_CAUSAL, BLOCK_N
    )
    n_edges = sinks + (whole - left) + (seen - below)  # keys of the parts with a mask
    for IS_MASKED in tl.static_range(1 + HAS_EDGES):
        for n in range(0, n_edges if IS_MASKED else below - whole, BLOCK_N):
            start_n = whole + n
            if IS_MASKED:
                start_n = masked_start(n, sinks, left, whole, below)
            offs_n = start_n + tl.arange(0, BLOCK_N)
            in_n = offs_n < n_keys
            skipped = tl.cast(start_n, tl.int64)
            k_ptrs = k_first + skipped * stride_k[2]
            v_ptrs = v_first + skipped * stride_v[2]
            k = load_tile(k_ptrs, in_n, in_d, IS_MASKED or PADDED)
            v = load_tile(v_ptrs, in_n, in_d, IS_MASKED or PADDED)
            qk = tl.dot(q, k.T, input_precision="ieee")  # [BLOCK_M, BLOCK_N], float32
            if CHANGES_SCORES:
                qk = changed_scores(qk * sm_scale, softcap, slope, position, offs_n)
            visible = visible_keys(
                position, offs_n, n_keys, window_size, sink_size, IS_CAUSAL
            )
            m_i, l_i, acc = online_softmax_step(
                m_i, l_i, acc, qk, v, qk_scale, visible, IS_MASKED
            )

    o, lse = finish(m_i, l_i, acc)
    o_ptrs = tile_ptrs(O, stride_o, batch, heads[:, None], offs_m, offs_d)
    tl.store(o_ptrs, o.to(O.dtype.element_ty), in_m[:, None] & in_d[None, :])
    n_heads = tl.num_programs(1) * HEADS
    lse_rows = LSE + (batch.to(tl.int64) * n_heads + heads) * n_queries
    tl.store(lse_rows + offs_m, lse, in_m)


def model_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = True,
    window_size: int | None = None, sink_size: int | None = None,
    sinks: torch.Tensor | None = None, softcap: float | None = None,
    alibi_slopes: torch.Tensor | None = None, tiles: Tiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Attention with every option; arguments are checked by the public call.

    q (B, H, N_q, d); k, v (B, H_kv, N_k, d); sinks, alibi_slopes (H,), contiguous; see
    ``kernels.attention``. Returns o (B, H, N_q, d) in q's dtype and the log-sum-exp
    (B, H, N_q), float32, natural logarithm. ``tiles`` overrides ``choose_tiles``.
    """
    batch, n_heads, n_queries, head_dim = q.shape
    n_kv_heads, n_keys = k.shape[1:3]
    group = n_heads // n_kv_heads
    o = torch.empty_like(q)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    if tiles is None:
        is_plain = window_size is None and softcap is None and alibi_slopes is None
        card = shared_memory_bytes()
        tiles = choose_tiles(head_dim, q.element_size(), card, in_pairs=not is_plain)
    heads = math.gcd(group, tiles.BLOCK_M)
    grid = (triton.cdiv(n_queries, tiles.BLOCK_M // heads), n_heads // heads, batch)
    model_attention_kernel[grid](
        q, k, v, o, lse, sinks, alibi_slopes,
        q.stride(), k.stride(), v.stride(), o.stride(),
        n_queries, n_keys, 1 / math.sqrt(head_dim), window_size, sink_size, softcap,
        GROUP=group, HEADS=heads,
        IS_CAUSAL=is_causal, HAS_EDGES=is_causal or n_keys % tiles.BLOCK_N != 0,
        HEAD_DIM=head_dim, **tiles._asdict(),
    )  # fmt: skip
    return o, lse
