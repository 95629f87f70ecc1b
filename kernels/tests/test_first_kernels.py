"""The kernels of chapter 04, against PyTorch in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import DEVICE
from kernels.first_kernels import (
    MAX_SOFTMAX_COLUMNS,
    copy,
    copy_kernel,
    copy_matrix,
    matmul,
    softmax,
    weighted_row_sum_forward,
)

DTYPES = [torch.float16, torch.float32]
SIZES = st.sampled_from([1, 2, 31, 32, 33, 127, 128, 130])


def draw(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def laid_out(x, layout):
    """The same matrix with other strides, inside a larger one full of NaN."""
    match layout:
        case "columns":
            return laid_out(x.t(), "cut").t()
        case "cut":
            larger = x.new_full((x.shape[0] + 3, x.shape[1] + 5), torch.nan)
            larger[1:-2, 2:-3] = x
            return larger[1:-2, 2:-3]
        case "every second":
            larger = x.new_full((2 * x.shape[0], 2 * x.shape[1]), torch.nan)
            larger[::2, ::2] = x
            return larger[::2, ::2]
    return x


LAYOUTS = st.sampled_from(["plain", "columns", "cut", "every second"])


def assert_near(got, expected, dtype, scale=1.0):
    """Within the rounding of dtype, for values of about ``scale``."""
    assert got.dtype == dtype
    atol = scale * (2**-10 if dtype == torch.float16 else 2**-18)
    torch.testing.assert_close(got.double(), expected, atol=atol, rtol=atol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 4095, 4096, 4097])
def test_copy(length, dtype):
    x = draw(length, dtype=dtype)
    assert torch.equal(copy(x), x)


def test_copy_writes_nothing_beyond_the_end():
    x, y = draw(100), torch.full((100,), 7.0, device=DEVICE)
    copy_kernel[(2,)](x, y, 45, BLOCK_SIZE=32)
    assert torch.equal(y[:45], x[:45]) and (y[45:] == 7).all()


@settings(deadline=None, max_examples=25)
@given(rows=SIZES, columns=SIZES, layout=LAYOUTS)
def test_copy_matrix(rows, columns, layout):
    x = laid_out(draw(rows, columns), layout)
    assert torch.equal(copy_matrix(x), x) and copy_matrix(x).is_contiguous()


def test_copy_matrix_of_one_row_repeated():
    x = draw(1, 40).expand(50, 40)
    assert torch.equal(copy_matrix(x), x)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.sampled_from([1, 3]),
    columns=SIZES,
    layout=LAYOUTS,
    dtype=st.sampled_from(DTYPES),
    offset=st.sampled_from([0.0, 1e4, -1e4]),
)
def test_softmax(rows, columns, layout, dtype, offset):
    x = laid_out((draw(rows, columns) * 10 + offset).to(dtype), layout)
    assert_near(softmax(x), torch.softmax(x.double(), dim=1), dtype)


def test_softmax_of_infinities_is_pytorchs():
    x = draw(3, 9)
    x[0, :5], x[1] = -torch.inf, -torch.inf
    torch.testing.assert_close(softmax(x), torch.softmax(x, dim=1), equal_nan=True)


@settings(deadline=None, max_examples=25)
@given(
    m=SIZES,
    n=SIZES,
    k=SIZES,
    layouts=st.tuples(LAYOUTS, LAYOUTS),
    dtype=st.sampled_from(DTYPES),
)
def test_matmul(m, n, k, layouts, dtype):
    a = laid_out(draw(m, k, dtype=dtype), layouts[0])
    b = laid_out(draw(k, n, dtype=dtype, seed=1), layouts[1])
    assert_near(matmul(a, b), a.double() @ b.double(), dtype, scale=16)


@settings(deadline=None, max_examples=25)
@given(
    rows=SIZES,
    columns=st.sampled_from([1, 100, 1023, 1024, 1025]),
    layout=LAYOUTS,
    dtype=st.sampled_from(DTYPES),
)
def test_weighted_row_sum(rows, columns, layout, dtype):
    x = laid_out(draw(rows, columns, dtype=dtype), layout)
    w = laid_out(draw(columns, 2, dtype=dtype, seed=1), layout)[:, 0]
    expected = (x.double() * w.double()).sum(1)
    assert_near(weighted_row_sum_forward(x, w), expected, dtype, scale=16)


VECTOR, MATRIX = torch.zeros(4, device=DEVICE), torch.zeros(4, 3, device=DEVICE)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: copy([1.0]), TypeError, "x must be a torch.Tensor, not list"),
        (lambda: copy(MATRIX), ValueError, "x has shape .* must have 1 dim"),
        (lambda: copy(VECTOR[::2]), ValueError, "x has stride 2"),
        (lambda: copy(VECTOR.double()), TypeError, "x is torch.float64; allowed are"),
        (lambda: copy_matrix(MATRIX[:0]), ValueError, "x has shape .* may be zero"),
        (
            lambda: softmax(VECTOR[:1].expand(1, MAX_SOFTMAX_COLUMNS + 1)),
            ValueError,
            "x has 65537 columns; at most 65536",
        ),
        (lambda: matmul(MATRIX, MATRIX), ValueError, "b has 4 rows; .* a's 3 columns"),
        (lambda: matmul(MATRIX, MATRIX.half()), TypeError, "b is torch.float16"),
        (
            lambda: matmul(MATRIX, MATRIX.t(), "tf16"),
            ValueError,
            "input_precision is 'tf16'; allowed are",
        ),
        (
            lambda: weighted_row_sum_forward(MATRIX, VECTOR),
            ValueError,
            "w has 4 elements; .* x's 3 columns",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
