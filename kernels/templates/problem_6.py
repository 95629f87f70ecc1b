"""Problem 6: a sliding window (chapter 08).

    python -m kernels.grader 6 problem_6.py

Only the two kernels' bodies are left to write; the function that launches them is
complete. Start from your solution of problem 5; what is new is marked so.
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
    start, end, position, n_keys, qk_scale, window_size,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, IS_MASKED: tl.constexpr,
):  # fmt: skip
    """Take the state past the keys start … end − 1, block by block.

    position [BLOCK_M] is where each query stands among the keys. All parts run this
    loop; ``IS_MASKED`` is known when the kernel is compiled, so the part without a
    mask pays nothing for it.
    """
    # TODO 1. As in problem 5, with two changes:
    #           New: if IS_MASKED, the query at position p sees the window_size keys up
    #           to its own, p − window_size < j <= p. Set all other scores to −inf.
    #           New: a row may see no key of this block and none before. Then m_i and
    #           m_new are both −inf, and −inf − (−inf) is NaN: subtract 0 in place of
    #           m_new where m_new is −inf, in p and in alpha.
    return m_i, l_i, acc


@triton.jit
def window_attention_kernel(
    Q, K, V, O,  # pointers to the first elements of q, k, v and o
    stride_qb, stride_qh, stride_qm, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_ob, stride_oh, stride_om, stride_od,
    n_queries, n_keys, sm_scale, group, window_size,
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

    # TODO 2. As in problem 5: move K and V to the head that this query head reads, load
    #         q, start the state, and work out qk_scale and position.
    # TODO 3. The positions of this program's first query and of its last one: first,
    #         and last, which is n_keys − 1 at most.
    # TODO 4. As in problem 4: n_below, where the part without a mask ends, and n_seen,
    #         where the keys end that anyone sees.
    # TODO 5. New: n_left, where the window starts for the query that sees farthest back
    #         (which one is it?). There is no key before 0. Round down to whole blocks.
    # TODO 6. New: n_whole, from where *every* query of this program sees all keys up to
    #         n_below: whose window starts last? Round up to whole blocks. With a small
    #         window there may be no such key: n_whole is n_below at most.
    # TODO 7. Call attend three times, so that each key is visited once:
    #           from n_left to n_whole with IS_MASKED=True: the window's left edge;
    #           from n_whole to n_below with IS_MASKED=False: its middle;
    #           from n_below to n_seen with IS_MASKED=True: the diagonal.
    #         Keys before n_left are not even loaded. Then divide and store, as before.


def flash_attention_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    is_causal: bool = True,
    window_size: int = 128,
) -> torch.Tensor:
    """softmax(Q Kᵀ / √d + mask) V.

    q : (B, H, N_q, d), float16 or bfloat16, any strides; d is 16, 32, 64 or 128.
    k, v : (B, H_kv, N_k, d), of the same dtype; H_kv divides H, and N_k is at least
        N_q.
    is_causal : has to be True here; problem 3 is the kernel without a mask.
    window_size : w, from 1 up: the query at position p sees the keys p − w < j <= p.

    Returns o (B, H, N_q, d) in q's dtype.
    """
    if not is_causal:
        raise ValueError("is_causal is False; problem 6 allows True alone")
    raise NotImplementedError("problem 6: write TODO 1 to 7, then delete this raise")
    batch, n_heads, n_queries, head_dim = q.shape
    n_kv_heads, n_keys = k.shape[1:3]
    o = torch.empty_like(q)
    BLOCK_M, BLOCK_N = 64, 32
    grid = (triton.cdiv(n_queries, BLOCK_M), n_heads, batch)
    window_attention_kernel[grid](
        q, k, v, o, *q.stride(), *k.stride(), *v.stride(), *o.stride(),
        n_queries, n_keys, 1 / math.sqrt(head_dim), n_heads // n_kv_heads,
        window_size,
        HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return o
