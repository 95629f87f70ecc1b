"""The Hopper kernels: compiled everywhere, run where there is such a card."""

import math
from functools import cache, partial

import pytest
import torch
from helpers import check_rms, compare, inputs, name_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fast_attention import described

from kernels.device import INTERPRETED
from kernels.hopper import serves
from kernels.hopper_attention import hopper_attention
from kernels.hopper_top import hopper_attention as persistent
from kernels.reference import naive_attention, reference_attention

# Gluon has no interpreter, and these instructions are Hopper's alone.
on_hopper = pytest.mark.skipif(
    INTERPRETED or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a Hopper GPU",
)
KERNELS = {
    "ping-pong": hopper_attention,
    "persistent": persistent,
    "two consumers": partial(persistent, consumers=2, is_predicated=False),
    "three consumers": partial(
        persistent, consumers=3, is_predicated=False, keeps_max=False
    ),
}
DTYPES = (torch.float16, torch.bfloat16)
HEAD_DIMS = (16, 32, 64, 72, 80, 96, 128)
# Around the tiles' edges: 64 rows of a consumer, 128 or 192 of a program, 128 keys.
EQUAL = [(n, n) for n in (1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 300, 512)]
UNEQUAL = [(1, 129), (129, 1), (128, 384), (100, 356), (7, 300), (300, 7), (64, 257)]
CASES = [(*lengths, d) for d in (64, 128) for lengths in EQUAL + UNEQUAL]
CASES += [(65, 129, d) for d in HEAD_DIMS if d not in (64, 128)]

every_mask = pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=name_of)


@cache
def errors_in(kernel, is_causal, dtype, case):
    ours = partial(KERNELS[kernel], is_causal=is_causal)
    return compare(ours, naive_attention, inputs(*case, dtype), is_causal=is_causal)


@on_hopper
@every_kernel
@every_mask
@every_dtype
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_max_error(kernel, is_causal, dtype, case):
    errors_in(kernel, is_causal, dtype, case).check_max()


@on_hopper
@every_kernel
@every_mask
@every_dtype
def test_rms_error(kernel, is_causal, dtype):
    check_rms([errors_in(kernel, is_causal, dtype, case) for case in CASES])


@on_hopper
@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_drawn(data):
    """Shapes, groups and layouts in combinations nobody thought of."""
    draw = data.draw
    kernel = draw(st.sampled_from(list(KERNELS)), "kernel")
    is_causal = draw(st.booleans(), "is_causal")
    dtype = draw(st.sampled_from(DTYPES), "dtype")
    batch, n_kv_heads, group = draw(st.tuples(*[st.integers(1, 4)] * 3), "heads")
    lengths = draw(st.tuples(*[st.integers(1, 600)] * 2), "lengths")
    head_dim = draw(st.sampled_from(HEAD_DIMS), "head_dim")
    layouts = ["contiguous", "transposed", "fused", "cut", "expanded"]
    layouts = draw(st.tuples(*[st.sampled_from(layouts)] * 3), "layouts")
    n_heads = n_kv_heads * group
    made = inputs(*lengths, head_dim, dtype, batch, n_heads, group=group)
    qkv = tuple(map(described, made, layouts))
    assert serves(*qkv)
    ours = partial(KERNELS[kernel], is_causal=is_causal)
    compare(ours, reference_attention, qkv, is_causal=is_causal).check_max()


@on_hopper
@every_dtype
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("window_size", [1, 63, 64, 100, 128, 129, 192, 300, 1000])
@pytest.mark.parametrize("sink_size", [None, 0, 5, 130, 500])
def test_windows(sink_size, window_size, head_dim, dtype):
    """Around the tiles' edges; alone, unequal, and many tiles a program."""
    mask = {"window_size": window_size, "sink_size": sink_size}
    for lengths, heads in [((700, 700), 2), ((300, 513), 2), ((640, 640), 300)]:
        qkv = inputs(*lengths, head_dim, dtype, n_heads=heads, group=2)
        ours = partial(persistent, **mask)
        compare(ours, reference_attention, qkv, is_causal=True, **mask).check_max()


# Heads enough for several tiles a program; batch, heads, group, queries, keys
MANY = [(7, 48, 3, 640, 640), (6, 45, 3, 500, 700), (6, 45, 5, 700, 444)]


@on_hopper
@every_kernel
@every_mask
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("sizes", MANY, ids=name_of)
def test_many_tiles_a_program(sizes, head_dim, is_causal, kernel):
    batch, n_heads, group, *lengths = sizes
    qkv = inputs(*lengths, head_dim, torch.bfloat16, batch, n_heads, group=group)
    ours = partial(KERNELS[kernel], is_causal=is_causal)
    compare(ours, naive_attention, qkv, is_causal=is_causal).check_max()


@on_hopper
@every_kernel
@every_mask
@every_dtype
def test_large_logits(is_causal, kernel, dtype):
    """Scores of several hundreds: e^score alone would overflow, weights are exact."""
    q, k, v = inputs(300, 300, 64, dtype)
    ours = partial(KERNELS[kernel], is_causal=is_causal)
    qkv = (100 * q, k, v)
    compare(ours, naive_attention, qkv, is_causal=is_causal).check_max()


@on_hopper
@pytest.mark.parametrize("mask", [{}, {"window_size": 300, "sink_size": 100}], ids=str)
@pytest.mark.parametrize("n_heads", [2, 300])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("factor", [4, 30, 1000])
def test_scores_that_outgrow_the_first_maximum(factor, head_dim, n_heads, mask):
    """Some keys that are visited late have far larger scores: a second pass is made.

    With a factor of 4 none is needed. Only one head of all has such keys.
    """
    q, k, v = inputs(640, 640, head_dim, torch.bfloat16, n_heads=n_heads)
    k[0, 0, 30:60] *= factor
    k[0, 0, 400:410] *= factor
    compare(
        partial(persistent, **mask), reference_attention, (q, k, v), is_causal=True,
        **mask,
    ).check_max()  # fmt: skip
    if not mask:
        ours = partial(persistent, is_causal=False)
        compare(ours, naive_attention, (q, k, v), is_causal=False).check_max()


@on_hopper
@every_mask
@pytest.mark.parametrize("what", [math.inf, math.nan])
def test_inputs_that_are_not_finite(what, is_causal):
    """They end, with what FlashAttention's own softmax makes of them."""
    q, k, v = inputs(300, 300, 64, torch.bfloat16, n_heads=4)
    k[0, 1, 200, 3] = what
    run = partial(persistent, q, k, v, is_causal)
    for ours, followed in zip(run(), run(keeps_max=False)):
        torch.testing.assert_close(ours, followed, rtol=0, atol=2e-2, equal_nan=True)


@on_hopper
@every_kernel
def test_neighbours_do_not_leak(kernel):
    """What lies around a head's rows is another head's: infinite here."""
    q, k, v = inputs(70, 70, 64, torch.float16, batch=1, n_heads=3)
    expected = KERNELS[kernel](q, k, v)[0][:, 1]
    for x in (q, k, v):
        x[:, ::2] = math.inf
    assert torch.equal(KERNELS[kernel](q, k, v)[0][:, 1], expected)


@on_hopper
@every_kernel
@every_mask
@pytest.mark.parametrize("head_dim", [64, 128])
def test_same_bits_every_time(head_dim, is_causal, kernel):
    """Also when many programs run at once: a race would show."""
    q, k, v = inputs(2000, 2000, head_dim, torch.bfloat16, n_heads=16)
    first = KERNELS[kernel](q, k, v, is_causal)
    for _ in range(20):
        assert all(map(torch.equal, first, KERNELS[kernel](q, k, v, is_causal)))


@on_hopper
@every_mask
@pytest.mark.parametrize("head_dim", [64, 128])
def test_predicated_and_plain_rescale_agree_in_every_bit(head_dim, is_causal):
    """A product with 1 changes none."""
    qkv = inputs(1000, 1000, head_dim, torch.bfloat16, n_heads=16)
    run = partial(persistent, *qkv, is_causal, consumers=3, keeps_max=False)
    assert all(map(torch.equal, run(is_predicated=True), run(is_predicated=False)))


@on_hopper
@every_kernel
def test_in_a_cuda_graph(kernel):
    """Captured once and replayed on other values."""
    attention = KERNELS[kernel]
    q, k, v = inputs(300, 300, 64, torch.bfloat16)
    attention(q, k, v)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o, lse = attention(q, k, v)
    for seed in (1, 2):
        for x, new in zip((q, k, v), inputs(300, 300, 64, q.dtype, seed=seed)):
            x.copy_(new)
        graph.replay()
        assert all(map(torch.equal, (o, lse), attention(q, k, v)))


def test_serves():
    """Rows of 16 bytes, up to head dim 128, as descriptors allow."""
    for head_dim, is_fine in ((16, True), (128, True), (20, False), (256, False)):
        x = torch.zeros(1, 1, 4, head_dim, dtype=torch.float16)
        assert serves(x, x, x) == is_fine
