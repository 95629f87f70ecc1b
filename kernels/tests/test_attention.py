"""The attention kernels against float64 (see helpers.py for the verdict)."""

from functools import cache

import pytest
import torch
from helpers import (
    DTYPES,
    HEAD_DIMS,
    KERNELS,
    LAYOUTS,
    check_rms,
    errors,
    inputs,
    name_of,
    untouched,
    with_layout,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import flash_attention_forward
from kernels.causal_attention import causal_attention_kernel, split_keys
from kernels.device import DEVICE
from kernels.full_attention import full_attention_kernel
from kernels.reference import attention_mask, reference_attention
from kernels.tiles import Tiles

EQUAL = [(n, n) for n in (1, 63, 64, 65, 111, 128, 129)]
UNEQUAL = [(1, 129), (129, 1), (65, 111), (111, 65), (7, 200), (200, 7)]
# (n_queries, n_keys, head_dim): every pair of lengths at one head dim, every head dim
# at one pair of lengths.
CASES = [(*lengths, 64) for lengths in EQUAL + UNEQUAL]
CASES += [(65, 129, d) for d in HEAD_DIMS if d != 64]

every_kernel = pytest.mark.parametrize("kernel", ["full", "causal"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=name_of)


@cache
def errors_in(kernel, dtype, case):
    return errors(kernel, *inputs(*case, dtype))


def test_empty_memory_is_nan():
    """The other tests rely on it: what a kernel forgets to write is not finite."""
    x = torch.empty(1000, device=DEVICE)
    assert x.isnan().all() and torch.empty_like(x).isnan().all()


@every_kernel
@every_dtype
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_max_error(kernel, dtype, case):
    errors_in(kernel, dtype, case).check_max()


@every_kernel
@every_dtype
def test_rms_error(kernel, dtype):
    check_rms([errors_in(kernel, dtype, case) for case in CASES])


@pytest.mark.parametrize("kernel", ["one_phase", "one_phase_skipping"])
@every_dtype
def test_one_phase(kernel, dtype):
    """The kernels that chapter 06 measures the two phases against."""
    cases = [(65, 129, 64), (129, 129, 40), (200, 7, 16)]
    measured = [errors_in(kernel, dtype, case) for case in cases]
    for case in measured:
        case.check_max()
    check_rms(measured)


@every_kernel
@pytest.mark.parametrize("n_keys", (128, 129))  # without and with a tail
@pytest.mark.parametrize("turn", range(len(LAYOUTS)), ids=LAYOUTS.__getitem__)
def test_strides_do_not_matter(kernel, turn, n_keys):
    """q, k and v have a layout each, so that no strides can stand in for others."""
    layouts = [LAYOUTS[(turn + i) % len(LAYOUTS)] for i in range(3)]
    q, k, v = map(with_layout, inputs(65, n_keys, 40, torch.float16), layouts)
    expected = KERNELS[kernel](*(x.contiguous() for x in (q, k, v)))
    torch.testing.assert_close(KERNELS[kernel](q, k, v), expected)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_drawn(data):
    """Kernel, dtype, shape and the three layouts in combinations nobody thought of."""
    draw = data.draw
    kernel = draw(st.sampled_from(["full", "causal"]), "kernel")
    dtype = draw(st.sampled_from(DTYPES), "dtype")
    batch, n_heads = draw(st.tuples(*[st.integers(1, 3)] * 2), "batch, heads")
    n_queries, n_keys = draw(st.tuples(*[st.integers(1, 150)] * 2), "lengths")
    head_dim = draw(st.sampled_from(HEAD_DIMS) | st.integers(16, 256), "head_dim")
    layouts = draw(st.tuples(*[st.sampled_from(LAYOUTS)] * 3), "layouts")
    made = inputs(n_queries, n_keys, head_dim, dtype, batch, n_heads)
    errors(kernel, *map(with_layout, made, layouts)).check_max()


@every_kernel
@pytest.mark.parametrize("blocks", [(16, 64), (64, 16)], ids=name_of)
@pytest.mark.parametrize("lengths", [(64, 64), *UNEQUAL], ids=name_of)
def test_each_key_counts_once(kernel, blocks, lengths):
    """With q = 0 all weights are equal: e^lse counts the keys, o is V's mean."""
    tiles = Tiles(*blocks, BLOCK_D=16, num_warps=4, num_stages=1)
    q, k, v = inputs(*lengths, 16, torch.float32)
    o, lse = KERNELS[kernel](torch.zeros_like(q), k, v, tiles)
    visible = attention_mask(*lengths, kernel == "causal", device=DEVICE).double()
    counts = visible.sum(1)
    assert torch.equal(lse.double().exp().round(), counts.expand(lse.shape))
    means = visible @ v.double() / counts.clamp(min=1)[:, None]
    torch.testing.assert_close(o.double(), means, rtol=0, atol=1e-6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(*[st.integers(1, 70)] * 4)
def test_two_phases_cover_each_pair_once(n_queries, n_keys, BLOCK_M, BLOCK_N):
    """The theorem of chapter 06, for any lengths and block sizes."""
    visible = attention_mask(n_queries, n_keys, is_causal=True)
    counts = torch.zeros(n_queries, n_keys)
    for start_m in range(0, n_queries, BLOCK_M):
        rows = slice(start_m, start_m + BLOCK_M)
        n_below, n_seen = split_keys.fn(start_m, n_queries, n_keys, BLOCK_M, BLOCK_N)
        assert n_below % BLOCK_N == 0 and n_below <= n_keys
        counts[rows, :n_below] += 1  # phase 1, without a mask
        for start_n in range(n_below, n_seen, BLOCK_N):
            cols = slice(start_n, start_n + BLOCK_N)
            counts[rows, cols] += visible[rows, cols]
    assert torch.equal(counts, visible.float())


@every_kernel
@every_dtype
def test_large_logits(kernel, dtype):
    """Scores of several hundreds: e^score alone would overflow, weights are exact."""
    q, k, v = inputs(129, 129, 64, dtype)
    errors(kernel, 100 * q, k, v).check_max()


@every_kernel
@every_dtype
def test_one_key_takes_all(kernel, dtype):
    """Row i scores 16384 on key i and 0 on the others: it gets row i of V."""
    _, _, v = inputs(64, 64, 64, dtype)
    one_hot = torch.eye(64, device=DEVICE, dtype=dtype).expand_as(v)
    q, k = 2048 * one_hot, 64 * one_hot
    o, lse = KERNELS[kernel](q, k, v)
    last_place = torch.finfo(dtype).eps
    torch.testing.assert_close(o, v, rtol=last_place, atol=0)
    torch.testing.assert_close(lse, torch.full_like(lse, 16384), rtol=1e-6, atol=0)


@every_kernel
@every_dtype
def test_same_bits_every_time(kernel, dtype):
    q, k, v = inputs(111, 129, 80, dtype)
    first, second = KERNELS[kernel](q, k, v), KERNELS[kernel](q, k, v)
    assert all(map(torch.equal, first, second))


# Shapes and strides with which one axis leads past 2³¹ elements, though neither its
# size nor its stride does: an offset kept in int32 would wrap around.
FAR = {
    "batch": ((3, 1, 18, 16), (2**30, 288, 16, 1)),
    "head": ((1, 3, 18, 16), (864, 2**30, 16, 1)),
    "row": ((1, 1, 18, 16), (288, 288, 2**27, 1)),
    "column": ((1, 1, 18, 16), (288, 288, 1, 2**31 // 15 + 1)),
}


@every_kernel
@pytest.mark.parametrize("axis", FAR)
def test_more_than_2_31_elements(kernel, axis):
    shape, strides = FAR[axis]
    tiles = Tiles(16, 16, 16, num_warps=4, num_stages=1)
    near = inputs(18, 18, 16, torch.float16, *shape[:2])
    memory = untouched(2**31 + 2**28)
    q, k, v = (
        memory.as_strided(shape, strides, storage_offset=1024 * i).copy_(x)
        for i, x in enumerate(near)
    )
    actual, expected = KERNELS[kernel](q, k, v, tiles), KERNELS[kernel](*near, tiles)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("kernel", [full_attention_kernel, causal_attention_kernel])
def test_more_than_2_31_rows(kernel):
    """The third batch's log-sum-exp lies 2³¹ elements in; one program writes it."""
    x = inputs(16, 16, 16, torch.float16, batch=3, n_heads=1)[0]
    lse = untouched(2**31 + 16)
    constants = {"HAS_TAIL": False} if kernel is full_attention_kernel else {}
    n_keys = 16 if kernel is full_attention_kernel else 2**30
    kernel[1, 1, 3](
        x, x, x, torch.empty_like(x), lse,
        *[x.stride()] * 4, 2**30, n_keys, 0.25,
        HEAD_DIM=16, BLOCK_D=16, BLOCK_M=16, BLOCK_N=16, **constants,
    )  # fmt: skip
    wide, is_causal = x.double(), kernel is causal_attention_kernel
    _, expected = reference_attention(wide, wide, wide, is_causal, return_lse=True)
    torch.testing.assert_close(lse[2**31 :].double(), expected[2, 0], rtol=0, atol=0.01)


@every_dtype
def test_public_call(dtype):
    """Causal unless told otherwise; the log-sum-exp on request."""
    q, k, v = inputs(65, 111, 64, dtype)
    assert_close = torch.testing.assert_close  # a GPU compiles another kernel
    full, causal = KERNELS["full"](q, k, v), KERNELS["causal"](q, k, v)
    assert_close(flash_attention_forward(q, k, v), causal[0])
    assert_close(flash_attention_forward(q, k, v, is_causal=False), full[0])
    for is_causal, expected in ((True, causal), (False, full)):
        got = flash_attention_forward(q, k, v, is_causal, return_lse=True)
        assert_close(got, expected)
