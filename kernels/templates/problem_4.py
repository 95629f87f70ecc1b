"""Problem 4: causal FlashAttention in two phases (chapter 06).

    python -m kernels.grader 4 problem_4.py

Only the two kernels' bodies are left to write; the function that launches them is
complete. Your solution of problem 3 is a good start.
"""

import math

import torch
import triton
import triton.language as tl


@triton.jit
def attend(
    m_i, l_i, acc, q,  # the running state, and this program's queries
    K, V,  # pointers to the first elements of this head's keys and values
    stride_kn, stride_kd, stride_vn, stride_vd,
    start, end, position, n_keys, qk_scale,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, IS_MASKED: tl.constexpr,
):  # fmt: skip
    """Take the state past the keys start … end − 1, block by block.

    position [BLOCK_M] is where each query stands among the keys. Both phases run this
    loop; ``IS_MASKED`` is known when the kernel is compiled, so the phase without a
    mask pays nothing for it.
    """
    # TODO 1. For start_n from start to end in steps of BLOCK_N:
    #           a. offs_n [BLOCK_N]; load k and v [BLOCK_N, HEAD_DIM] where
    #              offs_n < n_keys, with other=0.0.
    #           b. Scores: tl.dot(q, tl.trans(k)) [BLOCK_M, BLOCK_N], times qk_scale.
    #           c. If IS_MASKED: the query at position p sees the keys j <= p, its own
    #              included. Set all other scores to −inf.
    #           d. The update, as in problem 3. Exponents are in base 2:
    #              m_new = max(m_i, largest score of each row)
    #              p     = exp2(scores − m_new)
    #              alpha = exp2(m_i − m_new)
    #              l_i = l_i · alpha + row sums of p
    #              acc = acc · alpha + p v     (p in v's dtype for the tl.dot)
    #              m_i = m_new
    return m_i, l_i, acc


@triton.jit
def causal_attention_kernel(
    Q, K, V, O,  # pointers to the first elements of q, k, v and o
    stride_qb, stride_qh, stride_qm, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_ob, stride_oh, stride_om, stride_od,
    n_queries, n_keys, sm_scale,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program computes BLOCK_M rows of the output of one head of one batch.

    Element (batch, head, i, c) of q is at
    Q + batch · stride_qb + head · stride_qh + i · stride_qm + c · stride_qd,
    and k, v and o each have strides of their own.
    """
    start_m = tl.program_id(0) * BLOCK_M
    # A tensor may hold more than 2³¹ elements: offsets of whole heads are 64 bits wide.
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    K += batch * stride_kb + head * stride_kh
    V += batch * stride_vb + head * stride_vh

    # TODO 2. offs_m [BLOCK_M] and in_m, where offs_m < n_queries; load q [BLOCK_M,
    #         HEAD_DIM] under in_m, with other=0.0. Start the state, in float32:
    #         m_i [BLOCK_M] = −inf, l_i [BLOCK_M] = 0, acc [BLOCK_M, HEAD_DIM] = 0.
    #         The scale of the scores, with log₂e in it because e^s = 2^(s · log₂e):
    #         qk_scale = sm_scale · 1.4426950408889634.
    # TODO 3. position [BLOCK_M]: query i stands at i + n_keys − n_queries among the
    #         keys (which is i itself if there are as many keys as queries).
    # TODO 4. Where does the first phase end? n_below: the keys 0 … n_below − 1 are seen
    #         by *every* query of this program, so by its first one. Round it down to
    #         whole blocks of BLOCK_N keys; the rest is left to the second phase.
    # TODO 5. Where does the second phase end? n_seen: keys from n_seen on are seen by
    #         *no* query of this program, not even by its last one. There are n_keys at
    #         most.
    # TODO 6. Call attend twice: from 0 to n_below with IS_MASKED=False, and from
    #         n_below to n_seen with IS_MASKED=True.
    # TODO 7. Divide acc by l_i and store it in o's dtype (O.dtype.element_ty), under
    #         in_m, with o's own strides.


def flash_attention_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = True
) -> torch.Tensor:
    """softmax(Q Kᵀ / √d + causal mask) V.

    q : (B, H, N_q, d), float16 or bfloat16, any strides; d is 16, 32, 64 or 128.
    k, v : (B, H, N_k, d), of the same dtype; N_k is at least N_q.
    is_causal : has to be True here; problem 3 is the kernel without a mask.

    Returns o (B, H, N_q, d) in q's dtype.
    """
    if not is_causal:
        raise ValueError("is_causal is False; problem 4 allows True alone")
    raise NotImplementedError("problem 4: write TODO 1 to 7, then delete this raise")
    batch, n_heads, n_queries, head_dim = q.shape
    n_keys = k.shape[2]
    o = torch.empty_like(q)
    BLOCK_M, BLOCK_N = 64, 32
    grid = (triton.cdiv(n_queries, BLOCK_M), n_heads, batch)
    causal_attention_kernel[grid](
        q, k, v, o, *q.stride(), *k.stride(), *v.stride(), *o.stride(),
        n_queries, n_keys, 1 / math.sqrt(head_dim),
        HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return o
