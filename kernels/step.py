"""What all forward kernels share: pointers, loads, the step and the finish.

A program holds BLOCK_M query rows and the running state of their softmax,

    m_i [BLOCK_M]           the largest score so far, in base-2 units
    l_i [BLOCK_M]           the sum of 2^(score − m_i) so far
    acc [BLOCK_M, BLOCK_D]  the same sum with each term times its row of V

and ``online_softmax_step`` takes it past one block of keys, once their scores are
there: the inner loop of FlashAttention-2 (Dao, 2023, algorithm 1). Scores are kept in
base 2, so that exp becomes exp2, which the hardware has: e^s = 2^(s · log₂e), and the
factor log₂e goes into ``qk_scale`` = log₂e / √d.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def tile_ptrs(X, strides, batch, head, rows, cols):
    """Pointers [rows, cols] into one head of X (batch, head, row, column)."""
    # int64: a tensor may hold more than 2³¹ elements.
    head_ptr = X + batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1]
    row_ptrs = head_ptr + rows[:, None].to(tl.int64) * strides[2]
    return row_ptrs + cols[None, :].to(tl.int64) * strides[3]


@triton.jit
def load_tile(ptrs, row_inside, col_inside, IS_MASKED: tl.constexpr):
    """Load a tile; if IS_MASKED, what lies outside the matrix reads as zero."""
    if IS_MASKED:
        return tl.load(ptrs, row_inside[:, None] & col_inside[None, :], other=0.0)
    else:
        return tl.load(ptrs)


@triton.jit
def online_softmax_step(
    m_i, l_i, acc, qk, v, qk_scale, visible, IS_MASKED: tl.constexpr
):
    """Take the state (m_i, l_i, acc) past one block of keys.

    qk [BLOCK_M, BLOCK_N], float32, are the products of the queries with these keys,
    and v [BLOCK_N, BLOCK_D] the values. If IS_MASKED, only the scores where
    ``visible`` [BLOCK_M, BLOCK_N] holds count; otherwise all do, and ``visible``
    costs nothing.
    """
    if IS_MASKED:
        qk = tl.where(visible, qk, -float("inf"))
    m_new = tl.maximum(m_i, tl.max(qk, 1) * qk_scale)
    shift = m_new
    if IS_MASKED:
        # A row that has seen no key so far: −inf − (−inf) would be NaN.
        shift = tl.where(m_new == -float("inf"), 0.0, m_new)
    p = tl.exp2(qk * qk_scale - shift[:, None])
    alpha = tl.exp2(m_i - shift)
    l_i = l_i * alpha + tl.sum(p, 1)
    acc = acc * alpha[:, None]
    acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")
    return m_new, l_i, acc


@triton.jit
def finish(m_i, l_i, acc):
    """Output rows and their log-sum-exp (natural logarithm) from the final state.

    A row that saw no key has l_i = 0: its output is 0 and its log-sum-exp −inf.
    """
    l_safe = tl.where(l_i == 0.0, 1.0, l_i)
    return acc / l_safe[:, None], (m_i + tl.log2(l_safe)) * LN_2
