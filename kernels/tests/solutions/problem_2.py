"""A good solution of problem 2, for the grader's tests to plant mistakes in."""

import torch
import triton
import triton.language as tl


@triton.jit
def weighted_row_sum_kernel(
    X, W, Y, stride_xm, stride_xn, stride_w, n_rows, n_columns,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    in_m = offs_m < n_rows
    acc = tl.zeros([BLOCK_M], tl.float32)
    for start_n in range(0, n_columns, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N)
        in_n = offs_n < n_columns
        x_ptrs = X + offs_m[:, None] * stride_xm + offs_n[None, :] * stride_xn
        x = tl.load(x_ptrs, in_m[:, None] & in_n[None, :], other=0.0).to(tl.float32)
        w = tl.load(W + offs_n * stride_w, in_n, other=0.0).to(tl.float32)
        acc += tl.sum(x * w[None, :], 1)
    tl.store(Y + offs_m, acc.to(Y.dtype.element_ty), in_m)


def weighted_row_sum_forward(x, w):
    n_rows, n_columns = x.shape
    y = torch.empty(n_rows, dtype=x.dtype, device=x.device)
    BLOCK_M, BLOCK_N = 16, 64
    weighted_row_sum_kernel[(triton.cdiv(n_rows, BLOCK_M),)](
        x, w, y, *x.stride(), w.stride(0), n_rows, n_columns, BLOCK_M, BLOCK_N
    )
    return y
