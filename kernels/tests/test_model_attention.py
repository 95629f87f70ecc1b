"""The kernel with every option, against float64 (see helpers.py for the verdict).

On a GPU the options' whole product runs, with the tiles that users get. Under the
interpreter it is a sample in which any three of its values meet, with tiles so small
that short sequences have blocks of every kind.
"""

import itertools
import math
from functools import partial

import pytest
import torch
from helpers import (
    DTYPES,
    LAYOUTS,
    check_rms,
    compare,
    covering,
    inputs,
    name_of,
    sees_keys,
    untouched,
    with_layout,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import flash_attention_forward
from kernels.causal_attention import causal_attention
from kernels.device import DEVICE, INTERPRETED
from kernels.full_attention import full_attention
from kernels.model_attention import (
    masked_start,
    model_attention,
    model_attention_kernel,
    split_keys,
)
from kernels.reference import attention_mask, reference_attention
from kernels.tiles import Tiles

# Odd lengths, and a window and sinks for which some programs have keys of all four
# kinds, and keys between the sinks and the window that they skip. The first key of a
# program's window is the last of a block, so that an edge one key late misses a block.
if INTERPRETED:
    LENGTHS = [(97, 97), (65, 97), (97, 65)]
    WINDOW, SINKS = 50, 5
else:
    LENGTHS = [(701, 701), (301, 701), (701, 301)]
    WINDOW, SINKS = 322, 70
MASKS = {
    "full": {"is_causal": False},
    "causal": {"is_causal": True},
    "window": {"is_causal": True, "window_size": WINDOW},
    "sinks": {"is_causal": True, "window_size": WINDOW, "sink_size": SINKS},
}
SMALL = Tiles(16, 16, BLOCK_D=16, num_warps=4, num_stages=1)  # for head dim 16
HIGH = SMALL._replace(BLOCK_M=64)

every_mask = pytest.mark.parametrize("mask", MASKS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=name_of)


def learned_sinks(n_heads: int) -> torch.Tensor:
    """Of little weight in the first head, of most of it in the last."""
    return torch.linspace(-1, 6, n_heads, device=DEVICE)


def slopes(n_heads: int) -> torch.Tensor:
    """ALiBi's own: 2⁻¹ … 2⁻⁸ for eight heads."""
    return 2 ** torch.linspace(-8 / n_heads, -8, n_heads, device=DEVICE)


EXTRAS = {
    "plain": lambda n_heads: {},
    "learned_sink": lambda n_heads: {"sinks": learned_sinks(n_heads)},
    "softcap": lambda n_heads: {"softcap": 2.0},
    "alibi": lambda n_heads: {"alibi_slopes": slopes(n_heads)},
}
every_extra = pytest.mark.parametrize("extra", EXTRAS)


# ---- Every combination of options ----

ON_OFF = (False, True)
# heads of q and of k, head dim, tiles for the interpreter: groups of 1, of 4, of all
HEADS = {
    "of_1": (2, 2, 64, Tiles(16, 16, 64, 4, 1)),
    "of_4": (8, 2, 40, Tiles(64, 16, 64, 4, 1)),
    "of_all": (6, 1, 32, Tiles(32, 16, 32, 4, 1)),
}
PRODUCT = (DTYPES, MASKS, HEADS, LENGTHS, ON_OFF, ON_OFF, ON_OFF)
CASES = list(covering(3, *PRODUCT) if INTERPRETED else itertools.product(*PRODUCT))
# On a GPU a kernel is compiled for nearly every case: a test for each kind of group.
PARTS = [tuple(HEADS)] if INTERPRETED else [(groups,) for groups in HEADS]


@every_dtype
@every_mask
@pytest.mark.parametrize("part", PARTS, ids="-".join)
def test_every_combination(dtype, mask, part):
    """Groups and lengths, with learned sink, softcap and ALiBi each on or off."""
    measured = []
    for case in CASES:
        if case[:2] != (dtype, mask) or case[2] not in part:
            continue
        groups, lengths, *switches = case[2:]
        n_heads, n_kv_heads, head_dim, tiles = HEADS[groups]
        options = dict(MASKS[mask])
        for extra, is_on in zip(("learned_sink", "softcap", "alibi"), switches):
            if is_on:
                options |= EXTRAS[extra](n_heads)
        group = n_heads // n_kv_heads
        qkv = inputs(*lengths, head_dim, dtype, n_heads=n_heads, group=group)
        if INTERPRETED:
            ours = partial(model_attention, tiles=tiles, **options)
        else:
            ours = partial(flash_attention_forward, return_lse=True, **options)
        measured.append(compare(ours, reference_attention, qkv, **options))
        measured[-1].check_max(case)
    assert len(measured) >= 3
    # Apart, or what softcap may add in float32 would cover for the cases without it.
    check_rms([errors for errors in measured if not errors.max_tanh])
    if any(errors.max_tanh for errors in measured):
        check_rms([errors for errors in measured if errors.max_tanh])


# ---- Which keys are loaded, which are masked ----


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(MASKS)),
    *[st.integers(1, 60)] * 2,
    *[st.integers(1, 8)] * 2,
    st.integers(1, 20),
    st.integers(0, 20),
)
def test_each_pair_once(mask, n_queries, n_keys, QUERIES, BLOCK_N, window, sinks):
    """Each pair is visited once, and each block just if a row of the program sees it.

    QUERIES, loops and masks are the kernel's; a block without a mask counts as a whole.
    Sizes are such that a quarter of the cases has a left edge and a middle.
    """
    is_causal = mask != "full"
    window = window if mask in ("window", "sinks") else None
    sinks = sinks if mask == "sinks" else None
    visible = attention_mask(n_queries, n_keys, is_causal, window, sinks)
    counts = torch.zeros(visible.shape)
    for start_m in range(0, n_queries, QUERIES):
        rows = slice(start_m, start_m + QUERIES)
        first = start_m + n_keys - n_queries
        last = min(first + QUERIES, n_keys) - 1
        parts = split_keys.fn(first, last, n_keys, window, sinks, is_causal, BLOCK_N)
        n_sinks, left, whole, below, seen = parts
        unmasked = range(whole, below, BLOCK_N)
        n_masked = n_sinks + (whole - left) + (seen - below)
        masked = [
            masked_start.fn(n, n_sinks, left, whole, below)
            for n in range(0, n_masked, BLOCK_N)
        ]
        for start_n in unmasked:
            counts[rows, start_n : start_n + BLOCK_N] += 1
        for start_n in masked:
            block = slice(start_n, start_n + BLOCK_N)
            counts[rows, block] += visible[rows, block]
        seen_blocks = [
            start_n
            for start_n in range(0, n_keys, BLOCK_N)
            if visible[rows, start_n : start_n + BLOCK_N].any()
        ]
        assert sorted([*unmasked, *masked]) == seen_blocks
    assert torch.equal(counts, visible.float())


@every_mask
@pytest.mark.parametrize("group, block_m", [(1, 16), (4, 64)])
@pytest.mark.parametrize("lengths", LENGTHS[1:], ids=name_of)
def test_loads_only_blocks_it_sees(mask, group, block_m, lengths):
    """NaN in one block of keys and values reaches just the programs that load it.

    They are those with a row that sees one of its keys: 0 · NaN is NaN, so that a
    masked key does not hide it. Each block has a batch of its own.
    """
    options = MASKS[mask]
    tiles = Tiles(block_m, 16, 16, 4, 1)
    n_shared = math.gcd(group, block_m)  # heads in a program
    n_blocks = math.ceil(lengths[1] / tiles.BLOCK_N)
    qkv = inputs(*lengths, 16, torch.float16, n_heads=group, group=group)
    clean, _ = model_attention(*qkv, **options, tiles=tiles)
    q, k, v = (x.repeat(n_blocks, 1, 1, 1) for x in qkv)
    for block in range(n_blocks):
        keys = slice(block * tiles.BLOCK_N, (block + 1) * tiles.BLOCK_N)
        k[block, :, keys] = v[block, :, keys] = math.nan
    o, _ = model_attention(q, k, v, **options, tiles=tiles)

    is_poisoned = o.isnan().any(dim=3)  # (blocks, heads, queries)
    assert torch.equal(o[~is_poisoned], clean.expand_as(o)[~is_poisoned])
    by_program = is_poisoned.unflatten(1, (-1, n_shared)).any(dim=2)
    visible = attention_mask(*lengths, **options, device=DEVICE)
    for queries in torch.arange(lengths[0], device=DEVICE).split(block_m // n_shared):
        loaded = by_program[:, :, queries].any(dim=2)  # (blocks, groups of heads)
        parts = visible[queries].split(tiles.BLOCK_N, dim=1)
        seen = torch.stack([part.any() for part in parts])
        assert torch.equal(loaded, seen[:, None].expand_as(loaded)), queries


@pytest.mark.parametrize(
    "lengths", [(64, 64), (1, 97), (53, 97), (97, 53)], ids=name_of
)
@pytest.mark.parametrize(
    "window, sinks",
    [(1, None), (1, 1), (16, 0), (20, 16), (20, 35), (33, None), (40, 97)],
)
def test_each_key_counts_once(window, sinks, lengths):
    """With q = 0 all weights are equal: e^lse counts the keys, and e^sink with them."""
    q, k, v = inputs(*lengths, 16, torch.float32, n_heads=4, group=4)
    logits = torch.linspace(0, 3, 4, device=DEVICE)
    o, lse = model_attention(
        torch.zeros_like(q), k, v, True, window, sinks, logits, tiles=HIGH
    )
    visible = attention_mask(*lengths, True, window, sinks, DEVICE).double()
    counts = visible.sum(dim=1) + logits.double().exp()[:, None]
    assert ((lse.double().exp() - counts).abs() < 0.01).all()
    means = visible @ v.double() / counts[..., None]
    torch.testing.assert_close(o.double(), means, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sink_size", [97, 1000, 2**30])
def test_any_number_of_sinks(sink_size):
    """As many sinks as keys, or more, make the mask a causal one."""
    q, k, v = inputs(65, 97, 16, torch.float32)
    expected = flash_attention_forward(q, k, v)
    o = flash_attention_forward(q, k, v, window_size=20, sink_size=sink_size)
    torch.testing.assert_close(o, expected)


# ---- What must not make a difference ----


def assert_same(actual, expected):
    """To the bit where one program is interpreted; compilers may reorder sums."""
    bits = {"rtol": 0, "atol": 0} if INTERPRETED else {}
    torch.testing.assert_close(actual, expected, **bits)


@every_dtype
@pytest.mark.parametrize("lengths", [(65, 97), (97, 65)], ids=name_of)
def test_nothing_on_is_the_kernel_of_chapters_05_and_06(lengths, dtype):
    qkv = inputs(*lengths, 16, dtype)
    causal = model_attention(*qkv, tiles=HIGH)
    assert_same(causal, causal_attention(*qkv, HIGH))
    full = model_attention(*qkv, is_causal=False, tiles=HIGH)
    assert_same(full, full_attention(*qkv, HIGH))


@pytest.mark.parametrize("sink_size", [None, 7])
@pytest.mark.parametrize("lengths", [(65, 97), (97, 65)], ids=name_of)
def test_a_window_of_all_keys_is_causal(lengths, sink_size):
    q, k, v = inputs(*lengths, 16, torch.float16)
    expected = flash_attention_forward(q, k, v)
    expected_of_kernel = model_attention(q, k, v, tiles=HIGH)
    for window in (lengths[1], 10**6):
        options = {"window_size": window, "sink_size": sink_size}
        assert torch.equal(flash_attention_forward(q, k, v, **options), expected)
        got = model_attention(q, k, v, **options, tiles=HIGH)
        assert_same(got, expected_of_kernel)


def test_a_window_of_all_keys_but_one_is_not():
    q, k, v = inputs(9, 33, 16, torch.float32)
    o = flash_attention_forward(q, k, v, window_size=32)
    torch.testing.assert_close(o, reference_attention(q, k, v, True, window_size=32))
    is_causal = (o - flash_attention_forward(q, k, v)).abs().amax(dim=(0, 1, 3)) < 1e-5
    assert is_causal.tolist() == [True] * 8 + [False]


@pytest.mark.parametrize("mask", ["full", "sinks"])
@pytest.mark.parametrize("group", [2, 3, 6, 12])
def test_groups_are_expanded_heads(mask, group):
    """Query head h reads K/V head h // group, also where 3 divides the group."""
    q, k, v = inputs(17, 65, 16, torch.float32, n_heads=12, group=group)
    options = MASKS[mask] | {"sinks": learned_sinks(12), "alibi_slopes": slopes(12)}
    wide_k, wide_v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    expected = model_attention(q, wide_k, wide_v, **options, tiles=HIGH)
    actual = model_attention(q, k, v, **options, tiles=HIGH)
    torch.testing.assert_close(actual, expected)


@every_dtype
@pytest.mark.parametrize("lengths", [(65, 97), (97, 65)], ids=name_of)
def test_a_learned_sink_of_minus_infinity_is_none(lengths, dtype):
    q, k, v = inputs(*lengths, 16, dtype)
    nothing = torch.full((2,), -math.inf, device=DEVICE)
    actual = model_attention(q, k, v, sinks=nothing, tiles=HIGH)
    assert_same(actual, model_attention(q, k, v, tiles=HIGH))


def test_slopes_of_zero_change_nothing():
    q, k, v = inputs(65, 97, 16, torch.float32)
    flat = torch.zeros(2, device=DEVICE)
    o = flash_attention_forward(q, k, v, alibi_slopes=flat)
    torch.testing.assert_close(o, flash_attention_forward(q, k, v))


@every_dtype
def test_same_bits_every_time(dtype):
    qkv = inputs(33, 97, 64, dtype, n_heads=4, group=2)
    options = MASKS["sinks"] | {"sinks": learned_sinks(4)}
    first, second = (
        flash_attention_forward(*qkv, **options, return_lse=True) for _ in range(2)
    )
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("mask", ["full", "sinks"])
@pytest.mark.parametrize("turn", range(len(LAYOUTS)), ids=LAYOUTS.__getitem__)
def test_strides_do_not_matter(mask, turn):
    """q, k and v have a layout each; what lies around a sliced one is NaN."""
    made = inputs(65, 97, 40, torch.float16, batch=2, n_heads=6, group=3)
    layouts = [LAYOUTS[(turn + i) % len(LAYOUTS)] for i in range(3)]
    q, k, v = map(with_layout, made, layouts)
    options = MASKS[mask]
    expected = flash_attention_forward(*(x.contiguous() for x in (q, k, v)), **options)
    o = flash_attention_forward(q, k, v, **options)
    assert o.isfinite().all()
    torch.testing.assert_close(o, expected)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=name_of
)
@pytest.mark.parametrize("name", ["sinks", "alibi_slopes"])
def test_numbers_of_a_head_have_any_dtype_and_stride(name, dtype):
    q, k, v = inputs(33, 33, 16, torch.float32, n_heads=4)
    numbers = torch.tensor([0.5, 1.0, 2.0, 0.25], device=DEVICE)  # exact in any
    strided = torch.full((4, 3), math.nan, device=DEVICE, dtype=dtype)[:, 1]
    strided.copy_(numbers)
    o = flash_attention_forward(q, k, v, **{name: strided})
    torch.testing.assert_close(o, flash_attention_forward(q, k, v, **{name: numbers}))
    torch.testing.assert_close(o, reference_attention(q, k, v, True, **{name: numbers}))


# ---- Scores large and small ----


@every_dtype
@every_extra
def test_large_logits(extra, dtype):
    """Scores of several hundreds: e^score alone would overflow, weights are exact."""
    q, k, v = inputs(65, 97, 64, dtype, n_heads=4, group=2)
    options = {"is_causal": True, "window_size": 40, "sink_size": 3, **EXTRAS[extra](4)}
    if extra == "softcap":
        options["softcap"] = 300.0
    ours = partial(flash_attention_forward, return_lse=True, **options)
    compare(ours, reference_attention, (100 * q, k, v), **options).check_max()


@every_dtype
@pytest.mark.parametrize("softcap", [0.1, 2, 50.0])
def test_softcap(softcap, dtype):
    """Caps that flatten all scores, bend them, and leave them all but alone."""
    qkv = inputs(33, 65, 64, dtype)
    options = {"is_causal": True, "softcap": softcap}
    ours = partial(flash_attention_forward, return_lse=True, **options)
    compare(ours, reference_attention, qkv, **options).check_max()


@every_dtype
def test_a_capped_score_is_the_cap(dtype):
    """Row i scores 16384 on key i and 0 on the others: c and 0 once it is capped."""
    _, _, v = inputs(64, 64, 64, dtype)
    one_hot = torch.eye(64, device=DEVICE, dtype=dtype).expand_as(v)
    q, k = 2048 * one_hot, 64 * one_hot
    _, lse = flash_attention_forward(
        q, k, v, is_causal=False, softcap=3.0, return_lse=True
    )
    expected = torch.full_like(lse, math.log(math.exp(3) + 63))
    torch.testing.assert_close(lse, expected)


@every_dtype
def test_huge_sinks_take_all_tiny_ones_nothing(dtype):
    q, k, v = inputs(33, 65, 16, dtype)
    sinks = torch.tensor([1e4, -1e4], device=DEVICE)
    o, lse = flash_attention_forward(q, k, v, sinks=sinks, return_lse=True)
    without, lse_without = flash_attention_forward(q, k, v, return_lse=True)
    assert (o[:, 0] == 0).all() and (lse[:, 0] == 1e4).all()
    torch.testing.assert_close(o[:, 1], without[:, 1])
    torch.testing.assert_close(lse[:, 1], lse_without[:, 1])


@every_mask
def test_rows_that_see_nothing(mask):
    """97 queries of 65 keys: the first 32 see none, if the mask is causal."""
    q, k, v = inputs(97, 65, 16, torch.float16, n_heads=4, group=2)
    options, sinks = MASKS[mask], learned_sinks(4)
    blind = ~sees_keys(q, k, **options)
    o, lse = model_attention(q, k, v, **options, tiles=HIGH)
    assert (o[:, :, blind] == 0).all() and (lse[:, :, blind] == -math.inf).all()
    assert lse[:, :, ~blind].isfinite().all()
    o, lse = model_attention(q, k, v, **options, sinks=sinks, tiles=HIGH)
    assert (o[:, :, blind] == 0).all()
    expected = sinks[None, :, None].expand_as(lse)
    torch.testing.assert_close(lse[:, :, blind], expected[:, :, blind])


# ---- Any lengths, layouts and options ----


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.data())
def test_drawn(data):
    """Combinations of shapes, layouts and options that nobody thought of."""
    draw = data.draw
    dtype = draw(st.sampled_from(DTYPES), "dtype")
    batch, n_kv_heads = draw(st.tuples(*[st.integers(1, 2)] * 2), "batch, heads")
    group = draw(st.integers(1, 5), "group")
    n_queries, n_keys = draw(st.tuples(*[st.integers(1, 70)] * 2), "lengths")
    head_dim = draw(st.sampled_from([16, 24, 64]), "head_dim")
    layouts = draw(st.tuples(*[st.sampled_from(LAYOUTS)] * 3), "layouts")
    options = {"is_causal": draw(st.booleans(), "is_causal")}
    if options["is_causal"] and draw(st.booleans(), "with window"):
        options["window_size"] = draw(st.integers(1, 100), "window")
        options["sink_size"] = draw(st.none() | st.integers(0, 100), "sinks")
    n_heads = n_kv_heads * group
    for name in draw(st.sets(st.sampled_from(list(EXTRAS))), "extras"):
        options |= EXTRAS[name](n_heads)
    made = inputs(n_queries, n_keys, head_dim, dtype, batch, n_heads, group=group)
    ours = partial(flash_attention_forward, return_lse=True, **options)
    qkv = tuple(map(with_layout, made, layouts))
    compare(ours, reference_attention, qkv, **options).check_max()


# ---- More than 2³¹ elements ----


@pytest.mark.parametrize("axis", range(4), ids=["batch", "head", "row", "column"])
def test_more_than_2_31_elements(axis):
    """One axis of q, k and v leads past 2³¹, though neither size nor stride does."""
    near = inputs(18, 18, 16, torch.float16, batch=3, n_heads=6, group=2)
    memory = untouched(2**31 + 2**28)
    far = []
    for i, x in enumerate(near):
        strides = list(x.stride())
        steps = min(x.shape[axis] - 1, 16)  # the second block of keys starts at 16
        strides[axis] = 2**31 // steps + 1
        far.append(memory.as_strided(x.shape, strides, storage_offset=i * 2**16))
        far[i].copy_(x)
    actual = model_attention(*far, window_size=7, sink_size=2, tiles=HIGH)
    expected = model_attention(*near, window_size=7, sink_size=2, tiles=HIGH)
    torch.testing.assert_close(actual, expected)


def test_more_than_2_31_rows():
    """The third batch's log-sum-exp lies 2³¹ elements in; one program writes it."""
    x = inputs(16, 16, 16, torch.float16, batch=3, n_heads=1)[0]
    q = x.expand(-1, 2, -1, -1)
    o, lse = torch.empty_like(q), untouched(2**31 + 2**29 + 8)
    model_attention_kernel[1, 1, 3](
        q, x, x, o, lse, None, None,
        q.stride(), x.stride(), x.stride(), o.stride(),
        2**29, 2**29, 0.25, None, None, None,
        GROUP=2, HEADS=2, IS_CAUSAL=True, HAS_EDGES=True,
        HEAD_DIM=16, **SMALL._asdict(),
    )  # fmt: skip
    wide = x.double()
    _, expected = reference_attention(wide, wide, wide, True, return_lse=True)
    for head in range(2):
        start = (2 * 2 + head) * 2**29
        actual = lse[start : start + 8].double()
        torch.testing.assert_close(actual, expected[2, 0, :8], rtol=0, atol=0.01)
