"""Problem 3: FlashAttention in Triton, every query seeing every key (chapter 05).

    python -m kernels.grader 3 problem_3.py

Only the kernel's body is left to write; the function that launches it is complete.
"""

import math

import torch
import triton
import triton.language as tl


@triton.jit
def flash_attention_kernel(
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
    block_m, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    # A tensor may hold more than 2³¹ elements: offsets of whole heads are 64 bits wide.
    head, batch = head.to(tl.int64), batch.to(tl.int64)

    # TODO 1. Offsets. offs_m [BLOCK_M]: this program's rows, from block_m. offs_d
    #         [HEAD_DIM]: the columns. Rows from n_queries on do not exist: in_m.
    # TODO 2. Load this program's queries: q [BLOCK_M, HEAD_DIM], masked by in_m, with
    #         other=0.0. Leave them in their dtype: the tensor cores want it so.
    # TODO 3. Start the running state, in float32: m_i [BLOCK_M] = −inf, l_i [BLOCK_M]
    #         = 0, acc [BLOCK_M, HEAD_DIM] = 0.
    #         The hardware has exp2, not exp: e^s = 2^(s · log₂e). So put the factor
    #         log₂e = 1.4426950408889634 into the scale, once: qk_scale.
    # TODO 4. Go over the keys, start_n = 0, BLOCK_N, … up to n_keys:
    #           a. offs_n [BLOCK_N] and in_n, where offs_n < n_keys. Load k and v
    #              [BLOCK_N, HEAD_DIM] under in_n, with other=0.0.
    #           b. Scores: tl.dot(q, tl.trans(k)) [BLOCK_M, BLOCK_N], float32, times
    #              qk_scale.
    #           c. A key that does not exist was loaded as zeros and has score 0, which
    #              is not nothing: e⁰ = 1. Set those scores to −inf.
    #           d. m_new = max(m_i, largest score of each row)
    #              p     = exp2(scores − m_new)
    #              alpha = exp2(m_i − m_new)
    #           e. Rescale what is there by alpha, and add what is new:
    #              l_i = l_i · alpha + row sums of p
    #              acc = acc · alpha + p v     (p in v's dtype for the tl.dot)
    #           f. Keep m_new as m_i.
    # TODO 5. Divide acc by l_i and store it in o's dtype (O.dtype.element_ty), under
    #         in_m, with o's strides.


def flash_attention_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = False
) -> torch.Tensor:
    """softmax(Q Kᵀ / √d) V.

    q : (B, H, N_q, d), float16 or bfloat16, any strides; d is 16, 32, 64 or 128.
    k, v : (B, H, N_k, d), of the same dtype.
    is_causal : has to be False here; problem 4 is the causal kernel.

    Returns o (B, H, N_q, d) in q's dtype.
    """
    if is_causal:
        raise ValueError("is_causal is True; problem 3 allows False alone")
    raise NotImplementedError("problem 3: write TODO 1 to 5, then delete this raise")
    batch, n_heads, n_queries, head_dim = q.shape
    n_keys = k.shape[2]
    o = torch.empty_like(q)
    BLOCK_M, BLOCK_N = 64, 32
    grid = (triton.cdiv(n_queries, BLOCK_M), n_heads, batch)
    flash_attention_kernel[grid](
        q, k, v, o, *q.stride(), *k.stride(), *v.stride(), *o.stride(),
        n_queries, n_keys, 1 / math.sqrt(head_dim),
        HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return o
