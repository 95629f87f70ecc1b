"""Problem 5: grouped queries, fewer heads of K and V than of Q (chapter 07).

    python -m kernels.grader 5 problem_5.py

Only the two kernels' bodies are left to write; the function that launches them is
complete. Start from your solution of problem 4: one thing alone is new, TODO 2.
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
    # TODO 1. As in problem 4, without a change.
    return m_i, l_i, acc


@triton.jit
def grouped_attention_kernel(
    Q, K, V, O,  # pointers to the first elements of q, k, v and o
    stride_qb, stride_qh, stride_qm, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_ob, stride_oh, stride_om, stride_od,
    n_queries, n_keys, sm_scale, group,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program computes BLOCK_M rows of the output of one head of one batch.

    Element (batch, head, i, c) of q is at
    Q + batch · stride_qb + head · stride_qh + i · stride_qm + c · stride_qd,
    and k, v and o each have strides of their own. o has as many heads as q; k and v
    have one for each ``group`` query heads, which are neighbours.
    """
    start_m = tl.program_id(0) * BLOCK_M
    # A tensor may hold more than 2³¹ elements: offsets of whole heads are 64 bits wide.
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)

    # TODO 2. Which head of K and V does this query head read? The first ``group`` query
    #         heads share K/V head 0, the next ``group`` share K/V head 1, and so on.
    #         Move K and V to the first element of that head, in this batch.
    # TODO 3. The rest is problem 4's: load q, start the state, go through the two
    #         phases, divide, and store o. q and o are addressed with ``head``.


def flash_attention_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = True
) -> torch.Tensor:
    """softmax(Q Kᵀ / √d + causal mask) V.

    q : (B, H, N_q, d), float16 or bfloat16, any strides; d is 16, 32, 64 or 128.
    k, v : (B, H_kv, N_k, d), of the same dtype; H_kv divides H, and N_k is at least
        N_q.
    is_causal : has to be True here; problem 3 is the kernel without a mask.

    Returns o (B, H, N_q, d) in q's dtype.
    """
    if not is_causal:
        raise ValueError("is_causal is False; problem 5 allows True alone")
    raise NotImplementedError("problem 5: write TODO 1 to 3, then delete this raise")
    batch, n_heads, n_queries, head_dim = q.shape
    n_kv_heads, n_keys = k.shape[1:3]
    o = torch.empty_like(q)
    BLOCK_M, BLOCK_N = 64, 32
    grid = (triton.cdiv(n_queries, BLOCK_M), n_heads, batch)
    grouped_attention_kernel[grid](
        q, k, v, o, *q.stride(), *k.stride(), *v.stride(), *o.stride(),
        n_queries, n_keys, 1 / math.sqrt(head_dim), n_heads // n_kv_heads,
        HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return o
