"""The kernel at the top of the ladder against float64 (see helpers.py)."""

import math
from functools import cache, partial

import pytest
import torch
from helpers import (
    DTYPES,
    KEPT_IN,
    KERNELS,
    LAYOUTS,
    check_rms,
    compare,
    errors,
    inputs,
    name_of,
    with_layout,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import fast_attention as fast_attention_module
from kernels.descriptors import can_describe
from kernels.device import DEVICE, INTERPRETED
from kernels.fast_attention import (
    fast_attention,
    fast_tiles,
    heads_at_a_time,
    serves,
    tile_of_program,
)
from kernels.reference import attention_mask, reference_attention
from kernels.tiles import Tiles

SHORT_DTYPES = [dtype for dtype in DTYPES if dtype.itemsize == 2]
HEAD_DIMS = (16, 40, 64, 80, 96, 128, 256)
# Around the tiles' edges: 64 and 128 rows, 64 and 128 keys.
EQUAL = [(n, n) for n in (1, 63, 64, 65, 128, 129, 192)]
UNEQUAL = [(1, 129), (129, 1), (65, 111), (7, 200), (200, 7), (100, 256)]
CASES = [(*lengths, 64) for lengths in EQUAL + UNEQUAL]
CASES += [(65, 129, d) for d in HEAD_DIMS if d != 64]

every_kernel = pytest.mark.parametrize("kernel", ["fast_full", "fast_causal"])
every_dtype = pytest.mark.parametrize("dtype", SHORT_DTYPES, ids=name_of)


@cache
def errors_in(kernel, dtype, case):
    return errors(kernel, *inputs(*case, dtype))


@every_kernel
@every_dtype
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_max_error(kernel, dtype, case):
    errors_in(kernel, dtype, case).check_max()


@every_kernel
@every_dtype
def test_rms_error(kernel, dtype):
    check_rms([errors_in(kernel, dtype, case) for case in CASES])


@every_dtype
@pytest.mark.parametrize("group", [2, 3, 6])
def test_grouped_queries(dtype, group):
    """Six heads of queries; two sequences, so that a head is not its own number."""
    for is_causal in (False, True):
        qkv = inputs(70, 130, 64, dtype, batch=2, n_heads=6, group=group)
        ours = partial(fast_attention, is_causal=is_causal)
        compare(ours, reference_attention, qkv, is_causal=is_causal).check_max()


def described(x: torch.Tensor, layout: str) -> torch.Tensor:
    """``x`` with strides that descriptors allow, NaN around it in memory."""
    if layout == "fused":  # one of q, k and v in (batch, length, 3, heads, head_dim)
        batch, n_heads, length, head_dim = x.shape
        fused = x.new_full((batch, length, 3, n_heads, head_dim), math.nan)
        return fused[:, :, 1].transpose(1, 2).copy_(x)
    if layout == "cut":  # every second row of wider ones
        batch, n_heads, length, head_dim = x.shape
        wide = x.new_full((batch, n_heads + 1, 2 * length, head_dim + 16), math.nan)
        return wide[:, 1:, ::2, 8:-8].copy_(x)
    return with_layout(x, layout)


@every_kernel
@pytest.mark.parametrize("n_keys", (128, 129))  # without and with a tail
@pytest.mark.parametrize("turn", range(4))
def test_strides_do_not_matter(kernel, turn, n_keys):
    """q, k and v have a layout each, so that no strides can stand in for others."""
    layouts = ["contiguous", "transposed", "fused", "cut"]
    layouts = [layouts[(turn + i) % 4] for i in range(3)]
    q, k, v = map(described, inputs(65, n_keys, 40, torch.float16, 2), layouts)
    assert serves(q, k, v)
    expected = KERNELS[kernel](*(x.contiguous() for x in (q, k, v)))
    torch.testing.assert_close(KERNELS[kernel](q, k, v), expected, rtol=0, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_descriptors_allow(layout):
    x = with_layout(inputs(8, 8, 32, torch.float16, batch=2, n_heads=2)[0], layout)
    is_fine = layout in ("contiguous", "transposed", "expanded")
    assert can_describe(x) == is_fine
    near = x.contiguous()
    assert serves(x, near, near) == serves(near, near, x) == is_fine


def test_serves_16_bits_and_rows_of_16_bytes():
    def x(head_dim, dtype, offset=0):
        memory = torch.zeros(offset + 4 * head_dim, dtype=dtype, device=DEVICE)
        return memory[offset:].view(1, 1, 4, head_dim)

    for dtype, is_fine in ((torch.float16, True), (torch.float32, False)):
        assert serves(*[x(32, dtype)] * 3) == is_fine
    assert not serves(*[x(20, torch.float16)] * 3)  # rows of 40 bytes
    assert not serves(*[x(32, torch.float16, offset=4)] * 3)  # 8 bytes off
    # Wide enough apart in memory, but the output's rows would be 40 bytes long.
    apart = x(24, torch.float16)[..., :20]
    assert can_describe(apart) and not serves(apart, apart, apart)


def test_neighbours_do_not_leak():
    """What lies behind a head's last row is another head's: infinite here."""
    q, k, v = inputs(70, 70, 64, torch.float16, batch=1, n_heads=2)
    expected = fast_attention(q, k, v)[0][:, 0]
    for x in (q, k, v):
        x[:, 1] = math.inf
    assert torch.equal(fast_attention(q, k, v)[0][:, 0], expected)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_drawn(data):
    """Shapes, groups, tiles and layouts in combinations nobody thought of."""
    draw = data.draw
    kernel = draw(st.sampled_from(["fast_full", "fast_causal"]), "kernel")
    dtype = draw(st.sampled_from(SHORT_DTYPES), "dtype")
    batch, n_kv_heads, group = draw(st.tuples(*[st.integers(1, 3)] * 3), "heads")
    lengths = draw(st.tuples(*[st.integers(1, 200)] * 2), "lengths")
    head_dim = 8 * draw(st.integers(2, 20), "head_dim / 8")
    layouts = ["contiguous", "transposed", "fused", "cut"]
    layouts = draw(st.tuples(*[st.sampled_from(layouts)] * 3), "layouts")
    n_heads = n_kv_heads * group
    made = inputs(*lengths, head_dim, dtype, batch, n_heads, group=group)
    qkv = tuple(map(described, made, layouts))
    is_causal = kernel == "fast_causal"
    compare(KERNELS[kernel], reference_attention, qkv, is_causal=is_causal).check_max()


@every_kernel
@pytest.mark.parametrize("blocks", [(16, 64), (64, 16)], ids=name_of)
@pytest.mark.parametrize("lengths", [(64, 64), *UNEQUAL], ids=name_of)
def test_each_key_counts_once(kernel, blocks, lengths):
    """With q = 0 all weights are equal: e^lse counts the keys, o is V's mean."""
    tiles = Tiles(*blocks, BLOCK_D=16, num_warps=4, num_stages=2)
    q, k, v = inputs(*lengths, 16, torch.float16)
    o, lse = KERNELS[kernel](torch.zeros_like(q), k, v, tiles)
    visible = attention_mask(*lengths, kernel == "fast_causal", device=DEVICE).double()
    counts = visible.sum(1)
    assert torch.equal(lse.double().exp().round(), counts.expand(lse.shape))
    means = visible @ v.double() / counts.clamp(min=1)[:, None]
    torch.testing.assert_close(o.double(), means, rtol=0, atol=2e-3)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(*[st.integers(1, 12)] * 3)
def test_every_tile_of_every_head_once(n_tiles, n_groups, HEADS):
    """And the tiles of a group of heads from the longest to the shortest."""
    programs = range(n_tiles * n_groups * HEADS)
    places = [tile_of_program.fn(p, n_tiles, HEADS) for p in programs]
    assert sorted(places) == [
        (tile, head) for tile in range(n_tiles) for head in range(n_groups * HEADS)
    ]
    order = [(head // HEADS, -tile) for tile, head in places]
    assert order == sorted(order)


def test_heads_at_a_time():
    """K and V of 16 MiB: 4 MiB a head at N = 8192, d = 128."""
    assert heads_at_a_time(32, 1, 4 * 2**20) == 4
    assert heads_at_a_time(32, 8, 4 * 2**20) == 32
    assert heads_at_a_time(6, 1, 4 * 2**20) == 3  # the largest divisor
    assert heads_at_a_time(7, 1, 4 * 2**20) == 1
    assert heads_at_a_time(8, 1, 64 * 2**20) == 1  # at least one
    assert heads_at_a_time(8, 1, 1) == 8


@pytest.mark.parametrize("head_dim", range(16, 257, 8))
def test_tiles_fit_a_hopper(head_dim):
    for n_keys in (1, 1024, 1025, 2**20):
        tiles = fast_tiles(head_dim, n_keys)
        assert head_dim <= tiles.BLOCK_D
        assert tiles.shared_bytes(2) <= 227 * 1024


@every_kernel
@every_dtype
def test_large_logits(kernel, dtype):
    """Scores of several hundreds: e^score alone would overflow, weights are exact."""
    q, k, v = inputs(129, 129, 64, dtype)
    errors(kernel, 100 * q, k, v).check_max()


out_of_range = pytest.mark.filterwarnings("ignore:.* encountered in")


@out_of_range
@every_kernel
@pytest.mark.parametrize("lengths", [(150, 150), (64, 127), (65, 200), (200, 65)])
@pytest.mark.parametrize("factor", [4, 30, 1000])
def test_scores_that_outgrow_the_first_maximum(factor, lengths, kernel):
    """Keys that come late have far larger scores: their programs begin again.

    With a factor of 4 none does. Only one head of three has such keys.
    """
    q, k, v = inputs(*lengths, 64, KEPT_IN, n_heads=3)
    k[:, 1, 30:40] *= factor
    errors(kernel, q, k, v).check_max()


@out_of_range
@pytest.mark.skipif(not INTERPRETED, reason="counts calls in the interpreter")
@every_kernel
@pytest.mark.parametrize("lengths", [(1, 1), (64, 128), (129, 129), (65, 192)])
def test_only_who_must_begins_again(lengths, kernel, monkeypatch):
    """No program does for normal scores; one whose rows outgrow their first does."""
    passes, attend_all = [], fast_attention_module.attend_all

    def noted(*args):
        passes.append(args[-1])  # KEEPS_MAX
        return attend_all(*args)

    monkeypatch.setattr(fast_attention_module, "attend_all", noted)
    q, k, v = inputs(*lengths, 64, KEPT_IN, batch=1, n_heads=2)
    KERNELS[kernel](q, k, v)
    assert len(passes) == 2 * -(-lengths[0] // 64) and all(passes)
    if lengths[1] > 128:  # there are others than the last block's
        k[:, 1, 10] *= 1000
        KERNELS[kernel](q, k, v)
        assert not all(passes)


@out_of_range
@every_kernel
@pytest.mark.parametrize("what", [math.inf, -math.inf, math.nan])
def test_inputs_that_are_not_finite(what, kernel):
    """They end, and no row that does not see them knows of them."""
    q, k, v = inputs(150, 150, 64, KEPT_IN, n_heads=2)
    expected = KERNELS[kernel](q, k, v)
    k[0, 1, 100, 3] = what
    o, lse = KERNELS[kernel](q, k, v)
    assert lse[0, 1, 100:].isnan().any() and o[0, 1, 100:].isnan().any()
    unseen = [(0, slice(None)), (1, slice(64 if kernel == "fast_causal" else 0))]
    for head, rows in unseen:
        for ours, finite in zip((o, lse), expected):
            assert torch.equal(ours[0, head, rows], finite[0, head, rows])


@every_kernel
@every_dtype
def test_same_bits_every_time(kernel, dtype):
    q, k, v = inputs(111, 129, 80, dtype)
    first, second = KERNELS[kernel](q, k, v), KERNELS[kernel](q, k, v)
    assert all(map(torch.equal, first, second))
