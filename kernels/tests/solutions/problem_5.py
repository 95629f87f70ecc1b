"""A good solution of problem 5, for the grader's tests to plant mistakes in."""

import math

import torch
import triton
import triton.language as tl


@triton.jit
def attend(
    m_i, l_i, acc, q, K, V, stride_kn, stride_kd, stride_vn, stride_vd,
    start, end, position, n_keys, qk_scale,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, IS_MASKED: tl.constexpr,
):  # fmt: skip
    offs_d = tl.arange(0, HEAD_DIM)
    for start_n in range(start, end, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        in_n = offs_n[:, None] < n_keys
        k_ptrs = K + offs_n[:, None] * stride_kn + offs_d[None, :] * stride_kd
        v_ptrs = V + offs_n[:, None] * stride_vn + offs_d[None, :] * stride_vd
        k = tl.load(k_ptrs, in_n, other=0.0)
        v = tl.load(v_ptrs, in_n, other=0.0)
        qk = tl.dot(q, tl.trans(k)) * qk_scale
        if IS_MASKED:
            visible = position[:, None] >= offs_n[None, :]
            qk = tl.where(visible, qk, -float("inf"))
        m_new = tl.maximum(m_i, tl.max(qk, 1))
        # A row that has seen no key yet: −inf − (−inf) would be NaN.
        shift = tl.where(m_new == -float("inf"), 0.0, m_new)
        p = tl.exp2(qk - shift[:, None])
        alpha = tl.exp2(m_i - shift)
        l_i = l_i * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None] + tl.dot(p.to(v.dtype), v)
        m_i = m_new
    return m_i, l_i, acc


@triton.jit
def causal_attention_kernel(
    Q, K, V, O,
    stride_qb, stride_qh, stride_qm, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_ob, stride_oh, stride_om, stride_od,
    n_queries, n_keys, sm_scale, group,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    start_m = tl.program_id(0) * BLOCK_M
    head, batch = tl.program_id(1), tl.program_id(2)
    kv_head = head // group
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, HEAD_DIM)
    in_m = offs_m < n_queries
    Q += batch * stride_qb + head * stride_qh
    K += batch * stride_kb + kv_head * stride_kh
    V += batch * stride_vb + kv_head * stride_vh
    O += batch * stride_ob + head * stride_oh
    q_ptrs = Q + offs_m[:, None] * stride_qm + offs_d[None, :] * stride_qd
    q = tl.load(q_ptrs, in_m[:, None], other=0.0)
    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    qk_scale = sm_scale * 1.4426950408889634
    first = start_m + n_keys - n_queries
    position = first + tl.arange(0, BLOCK_M)
    n_below = (first + 1) // BLOCK_N * BLOCK_N
    n_seen = tl.minimum(first + BLOCK_M, n_keys)
    m_i, l_i, acc = attend(
        m_i, l_i, acc, q, K, V, stride_kn, stride_kd, stride_vn, stride_vd,
        0, n_below, position, n_keys, qk_scale, HEAD_DIM, BLOCK_N, False,
    )  # fmt: skip
    m_i, l_i, acc = attend(
        m_i, l_i, acc, q, K, V, stride_kn, stride_kd, stride_vn, stride_vd,
        n_below, n_seen, position, n_keys, qk_scale, HEAD_DIM, BLOCK_N, True,
    )  # fmt: skip
    o = (acc / l_i[:, None]).to(O.dtype.element_ty)
    o_ptrs = O + offs_m[:, None] * stride_om + offs_d[None, :] * stride_od
    tl.store(o_ptrs, o, in_m[:, None])


def flash_attention_forward(q, k, v, is_causal=True):
    batch, n_heads, n_queries, head_dim = q.shape
    o = torch.empty_like(q)
    BLOCK_M, BLOCK_N = 64, 32
    grid = (triton.cdiv(n_queries, BLOCK_M), n_heads, batch)
    causal_attention_kernel[grid](
        q, k, v, o, *q.stride(), *k.stride(), *v.stride(), *o.stride(),
        n_queries, k.shape[2], 1 / math.sqrt(head_dim), n_heads // k.shape[1],
        HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return o
