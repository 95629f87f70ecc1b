"""Problem 2: a first Triton kernel, y_i = Σ_j x_ij w_j (chapter 04).

    python -m kernels.grader 2 problem_2.py

Only the kernel's body is left to write; the function that launches it is complete.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def weighted_row_sum_kernel(
    X, W, Y,  # pointers to the first elements of x, w and y
    stride_xm, stride_xn, stride_w,
    n_rows, n_columns,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program computes BLOCK_M elements of y.

    x (n_rows, n_columns): element (i, j) is at X + i · stride_xm + j · stride_xn.
    w (n_columns,): element j is at W + j · stride_w.
    y (n_rows,): element i is at Y + i.
    """
    # TODO 1. Which rows are this program's? offs_m [BLOCK_M], from tl.program_id(0) and
    #         tl.arange. Those past n_rows do not exist: in_m is offs_m < n_rows.
    # TODO 2. Start the sum with zeros: acc [BLOCK_M], float32.
    # TODO 3. Go over the columns, BLOCK_N at a time:
    #           offs_n [BLOCK_N], and in_n, where they exist;
    #           load the tile of x [BLOCK_M, BLOCK_N] and the piece of w [BLOCK_N], each
    #           with a mask and other=0.0, so that what does not exist adds nothing;
    #           turn both into float32, multiply, sum over the columns, add to acc.
    # TODO 4. Store acc as y's elements, in y's dtype (Y.dtype.element_ty), under in_m.


def weighted_row_sum_forward(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """y_i = Σ_j x_ij w_j.

    x : (rows, columns), float16, bfloat16 or float32, any strides.
    w : (columns,), of the same dtype.

    Returns y (rows,) in that dtype.
    """
    raise NotImplementedError("problem 2: write TODO 1 to 4, then delete this raise")
    n_rows, n_columns = x.shape
    y = torch.empty(n_rows, dtype=x.dtype, device=x.device)
    BLOCK_M, BLOCK_N = 16, 64
    grid = (triton.cdiv(n_rows, BLOCK_M),)  # as many programs as blocks of rows
    weighted_row_sum_kernel[grid](
        x, w, y, x.stride(0), x.stride(1), w.stride(0), n_rows, n_columns,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return y
