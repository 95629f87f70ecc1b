"""First Triton kernels: copy, softmax, matrix product, weighted row sum (chapter 04).

    copy                y_i = x_i                                one vector, or a matrix
    softmax             y_ij = exp(x_ij − max_j x_ij) / Σ_j exp(x_ij − max_j x_ij)
    matmul              c_ij = Σ_k a_ik b_kj
    weighted_row_sum    y_i = Σ_j x_ij w_j                       problem 2

The first three follow Triton's tutorials 01 to 03 (Tillet, Kung and Cox, 2019).
"""

import torch
import triton
import triton.language as tl

from kernels.checks import MAX_GRID, check_runs_here, check_same, check_tensor

MAX_SOFTMAX_COLUMNS = 65536  # a longer row does not fit into one program's registers
INPUT_PRECISIONS = ("ieee", "tf32", "tf32x3")


@triton.jit
def copy_kernel(X, Y, n_elements, BLOCK_SIZE: tl.constexpr):
    offs = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = offs < n_elements
    x = tl.load(X + offs, mask)
    tl.store(Y + offs, x, mask)


def copy(x: torch.Tensor) -> torch.Tensor:
    """A copy of the vector x (length,), which must be contiguous."""
    check_tensor("x", x, ndim=1)
    check_runs_here("x", x)
    if not x.is_contiguous():
        raise ValueError(f"x has stride {x.stride(0)}; only a stride of 1 is allowed")
    y = torch.empty_like(x)
    n_elements, BLOCK_SIZE = x.numel(), 4096
    copy_kernel[(triton.cdiv(n_elements, BLOCK_SIZE),)](x, y, n_elements, BLOCK_SIZE)
    return y


@triton.jit
def tile_ptrs(X, stride_row, stride_col, rows, cols):
    """Pointers [rows, cols] into the matrix X; rows and cols are int64."""
    return X + rows[:, None] * stride_row + cols[None, :] * stride_col


@triton.jit
def copy_matrix_kernel(
    X, Y, stride_xm, stride_xn, stride_ym, stride_yn,
    n_rows, n_columns, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (offs_m < n_rows)[:, None] & (offs_n < n_columns)[None, :]
    x = tl.load(tile_ptrs(X, stride_xm, stride_xn, offs_m, offs_n), mask)
    tl.store(tile_ptrs(Y, stride_ym, stride_yn, offs_m, offs_n), x, mask)


def copy_matrix(x: torch.Tensor) -> torch.Tensor:
    """A contiguous copy of the matrix x (rows, columns), whatever x's strides are."""
    BLOCK_M, BLOCK_N = 32, 128
    check_matrix("x", x, max_columns=MAX_GRID * BLOCK_N)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(x.shape[0], BLOCK_M), triton.cdiv(x.shape[1], BLOCK_N))
    copy_matrix_kernel[grid](x, y, *x.stride(), *y.stride(), *x.shape, BLOCK_M, BLOCK_N)
    return y


@triton.jit
def softmax_kernel(
    X, Y, stride_xm, stride_xn, stride_ym, stride_yn, n_columns, BLOCK_N: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    offs_n = tl.arange(0, BLOCK_N).to(tl.int64)
    mask = offs_n < n_columns
    x_ptrs = X + row * stride_xm + offs_n * stride_xn
    y_ptrs = Y + row * stride_ym + offs_n * stride_yn
    x = tl.load(x_ptrs, mask, other=-float("inf")).to(tl.float32)
    p = tl.exp(x - tl.max(x, 0))
    y = p / tl.sum(p, 0)
    tl.store(y_ptrs, y.to(Y.dtype.element_ty), mask)


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Softmax along the rows of x (rows, columns), computed in float32.

    Any strides; at most ``MAX_SOFTMAX_COLUMNS`` columns. The result is contiguous and
    has x's dtype. A row of −inf gives NaN, as in PyTorch.
    """
    check_matrix("x", x, max_columns=MAX_SOFTMAX_COLUMNS)
    n_rows, n_columns = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    BLOCK_N = triton.next_power_of_2(n_columns)
    num_warps = min(max(BLOCK_N // 512, 1), 32)  # 16 elements a thread, or more
    softmax_kernel[(n_rows,)](
        x, y, *x.stride(), *y.stride(), n_columns, BLOCK_N, num_warps=num_warps
    )
    return y


@triton.jit
def matmul_kernel(
    A, B, C, stride_am, stride_ak, stride_bk, stride_bn, stride_cm, stride_cn,
    M, N, K, INPUT_PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = offs_m < M, offs_n < N
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start_k in range(0, K, BLOCK_K):
        offs_k = start_k + tl.arange(0, BLOCK_K).to(tl.int64)
        in_k = offs_k < K
        a_ptrs = tile_ptrs(A, stride_am, stride_ak, offs_m, offs_k)
        b_ptrs = tile_ptrs(B, stride_bk, stride_bn, offs_k, offs_n)
        a = tl.load(a_ptrs, in_m[:, None] & in_k[None, :], other=0.0)
        b = tl.load(b_ptrs, in_k[:, None] & in_n[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=INPUT_PRECISION)
    c_ptrs = tile_ptrs(C, stride_cm, stride_cn, offs_m, offs_n)
    tl.store(c_ptrs, acc.to(C.dtype.element_ty), in_m[:, None] & in_n[None, :])


def matmul(a: torch.Tensor, b: torch.Tensor, input_precision="ieee") -> torch.Tensor:
    """The product of a (M, K) and b (K, N), accumulated in float32; (M, N), a's dtype.

    Any strides. ``input_precision`` says how a GPU multiplies float32: "ieee" in
    float32, "tf32" with ten bits of mantissa, "tf32x3" with three such products. It
    changes nothing for 16-bit inputs, nor under the interpreter, which is exact.
    """
    BLOCK_M, BLOCK_N, BLOCK_K = 128, 64, 32
    check_matrix("a", a)
    check_matrix("b", b, max_columns=MAX_GRID * BLOCK_N)
    check_same("b", b, "a", a)
    if a.shape[1] != b.shape[0]:
        raise ValueError(
            f"b has {b.shape[0]} rows; it must have one for each of a's "
            f"{a.shape[1]} columns"
        )
    if input_precision not in INPUT_PRECISIONS:
        raise ValueError(
            f"input_precision is {input_precision!r}; allowed are {INPUT_PRECISIONS}"
        )
    (M, K), N = a.shape, b.shape[1]
    c = torch.empty((M, N), dtype=a.dtype, device=a.device)
    grid = (triton.cdiv(M, BLOCK_M), triton.cdiv(N, BLOCK_N))
    matmul_kernel[grid](
        a, b, c, *a.stride(), *b.stride(), *c.stride(), M, N, K,
        input_precision, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    return c


@triton.jit
def weighted_row_sum_kernel(
    X, W, Y, stride_xm, stride_xn, stride_w,
    n_rows, n_columns, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    in_m = offs_m < n_rows
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start_n in range(0, n_columns, BLOCK_N):
        offs_n = start_n + tl.arange(0, BLOCK_N).to(tl.int64)
        in_n = offs_n < n_columns
        x_ptrs = tile_ptrs(X, stride_xm, stride_xn, offs_m, offs_n)
        x = tl.load(x_ptrs, in_m[:, None] & in_n[None, :], other=0.0)
        w = tl.load(W + offs_n * stride_w, in_n, other=0.0)
        acc += x.to(tl.float32) * w.to(tl.float32)[None, :]
    y = tl.sum(acc, 1)
    tl.store(Y + offs_m, y.to(Y.dtype.element_ty), in_m)


def weighted_row_sum_forward(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """y_i = Σ_j x_ij w_j for x (rows, columns) and w (columns,), any strides.

    Accumulated in float32; y (rows,) has x's dtype.
    """
    check_matrix("x", x)
    check_tensor("w", w, ndim=1)
    check_same("w", w, "x", x)
    if w.shape[0] != x.shape[1]:
        raise ValueError(
            f"w has {w.shape[0]} elements; it must have one for each of x's "
            f"{x.shape[1]} columns"
        )
    BLOCK_M, BLOCK_N = 4, 1024
    y = torch.empty(len(x), dtype=x.dtype, device=x.device)
    weighted_row_sum_kernel[(triton.cdiv(len(x), BLOCK_M),)](
        x, w, y, *x.stride(), w.stride(0), *x.shape, BLOCK_M, BLOCK_N
    )
    return y


def check_matrix(name: str, x: object, max_columns: int | None = None) -> None:
    """Raise unless x is a matrix that a kernel can take."""
    check_tensor(name, x, ndim=2)
    check_runs_here(name, x)
    if max_columns is not None and x.shape[1] > max_columns:
        raise ValueError(
            f"{name} has {x.shape[1]} columns; at most {max_columns} are allowed"
        )
