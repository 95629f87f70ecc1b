"""Tiled attention in PyTorch, against the reference in float64, and its byte count."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.reference import reference_attention
from kernels.tiled_attention import FlashAttention2Function, Traffic, tiled_attention

LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65]


def draw(n_queries, n_keys, head_dim=16, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, n, head_dim) for n in (n_queries, n_keys, n_keys)]
    return [torch.randn(s, generator=generator).to(dtype) for s in shapes]


def assert_right(got, q, k, v, is_causal, atol):
    o, lse = got
    expected = reference_attention(
        q.double(), k.double(), v.double(), is_causal, return_lse=True
    )
    assert o.dtype == q.dtype and o.shape == q.shape
    assert lse.shape == q.shape[:3]
    torch.testing.assert_close(o.double(), expected[0], atol=atol, rtol=atol)
    torch.testing.assert_close(lse.double(), expected[1], atol=atol, rtol=atol)


@settings(deadline=None, max_examples=40)
@given(
    n_queries=st.sampled_from(LENGTHS),
    n_keys=st.sampled_from(LENGTHS),
    block_m=st.sampled_from([1, 7, 16, 64, 100]),
    block_n=st.sampled_from([1, 7, 16, 64, 100]),
    head_dim=st.sampled_from([1, 16, 40]),
    is_causal=st.booleans(),
)
def test_any_lengths_and_blocks(
    n_queries, n_keys, block_m, block_n, head_dim, is_causal
):
    q, k, v = draw(n_queries, n_keys, head_dim)
    got = tiled_attention(q, k, v, is_causal, block_m, block_n)
    assert_right(got, q, k, v, is_causal, atol=2**-18)


@pytest.mark.parametrize(
    ("dtype", "lse_dtype", "atol"),
    [
        (torch.float16, torch.float32, 2**-10),
        (torch.bfloat16, torch.float32, 2**-7),
        (torch.float64, torch.float64, 2**-45),
    ],
    ids=str,
)
def test_dtypes(dtype, lse_dtype, atol):
    q, k, v = draw(70, 90, dtype=dtype)
    o, lse = tiled_attention(q, k, v, is_causal=True, block_m=32, block_n=16)
    assert lse.dtype == lse_dtype
    assert_right((o, lse), q, k, v, True, atol)


def test_large_scores_do_not_overflow():
    q, k, v = draw(40, 40)
    got = tiled_attention(100 * q, 100 * k, v, block_m=16, block_n=8)
    o, lse = reference_attention(100 * q, 100 * k, v, return_lse=True)
    assert got[0].isfinite().all()
    torch.testing.assert_close(got[1], lse, atol=0, rtol=2**-18)
    torch.testing.assert_close(got[0], o, atol=2**-6, rtol=0)


def test_strided_inputs_give_the_same():
    q, k, v = draw(50, 60)
    rows_apart = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    for a, b in zip(
        tiled_attention(q, k, v), tiled_attention(*rows_apart), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_query_that_sees_no_key_gives_zeros():
    q, k, v = draw(40, 8)
    o, lse = tiled_attention(q, k, v, is_causal=True, block_m=16, block_n=4)
    assert (o[:, :, :32] == 0).all() and (lse[:, :, :32] == -math.inf).all()
    assert lse[:, :, 32:].isfinite().all()


@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("lengths", [(64, 64), (50, 90), (90, 50)], ids=str)
def test_traffic_is_what_the_formula_says(lengths, is_causal):
    (n_queries, n_keys), heads, d, block_m, block_n = lengths, 6, 16, 24, 10
    traffic = Traffic()
    q, k, v = draw(n_queries, n_keys, d, torch.float16)
    tiled_attention(q, k, v, is_causal, block_m, block_n, traffic)
    keys_read = 0
    for start_m in range(0, n_queries, block_m):
        last = min(start_m + block_m, n_queries) - 1 + n_keys - n_queries
        seen = range(n_keys)[: max(last + 1, 0)] if is_causal else range(n_keys)
        blocks = {key // block_n for key in seen}
        keys_read += sum(min(block_n, n_keys - b * block_n) for b in blocks)
    assert traffic.loaded["q"] == traffic.stored["o"] == 2 * heads * n_queries * d
    assert traffic.loaded["k"] == traffic.loaded["v"] == 2 * heads * keys_read * d
    assert traffic.stored["lse"] == 4 * heads * n_queries
    assert traffic.total() == traffic.loaded.total() + traffic.stored.total()


def test_autograd_function_runs_forward_and_refuses_backward():
    q, k, v = (x.requires_grad_() for x in draw(20, 30))
    o, lse = FlashAttention2Function.apply(q, k, v, True)
    assert_right((o.detach(), lse), q.detach(), k.detach(), v.detach(), True, 2**-18)
    assert not lse.requires_grad
    with pytest.raises(NotImplementedError, match="chapter 12"):
        o.sum().backward()


BAD = torch.zeros
GOOD = torch.zeros(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("q", GOOD, GOOD), TypeError, "q must be a torch.Tensor, not str"),
        (
            (GOOD, BAD(2, 3, 4), GOOD),
            ValueError,
            "k has shape .* 4 dimensions",
        ),
        ((BAD(1, 2, 0, 4), GOOD, GOOD), ValueError, "q has shape .* may be zero"),
        ((GOOD, GOOD.double(), GOOD), TypeError, "k is torch.float64; .* q's dtype"),
        ((GOOD.int(), GOOD.int(), GOOD.int()), TypeError, "q is torch.int32"),
        ((GOOD, BAD(1, 1, 3, 4), BAD(1, 1, 3, 4)), ValueError, "k has shape .* any"),
        ((GOOD, GOOD, BAD(1, 2, 5, 4)), ValueError, "v has shape .* have k's"),
        ((GOOD, GOOD, GOOD, True, 0), ValueError, "block_m is 0"),
        ((GOOD, GOOD, GOOD, True, 4, 2.0), ValueError, "block_n is 2.0"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        tiled_attention(*arguments)
