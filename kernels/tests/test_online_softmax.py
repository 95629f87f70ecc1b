"""The running state of the softmax: by hand, against float64, and its algebra."""

import itertools
import math
from functools import reduce

import pytest
import torch
from helpers import name_of
from hypothesis import given
from hypothesis import strategies as st

from kernels.device import DEVICE
from kernels.online_softmax import State, finish, identity, merge, update

LN2 = math.log(2)
INF = math.inf

# Scores of a row: anything a model may produce, and masked ones.
scores_of_a_row = st.lists(
    st.floats(-1000, 1000, width=32) | st.just(-INF), min_size=1, max_size=12
)


def column(*numbers):
    return torch.tensor(numbers, dtype=torch.float64, device=DEVICE)[:, None]


def row(*numbers):
    return torch.tensor(numbers, dtype=torch.float64, device=DEVICE)


def state_of(scores, values, dtype=torch.float64):
    """The state of one row, made in one block."""
    nothing = identity(scores.shape[:-1], values.shape[-1], dtype, scores.device)
    return update(nothing, scores, values)


def numbers_in(state):
    return tuple(x.item() for x in state)


def assert_same_state(a, b, rtol=2**-40):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=rtol)


def in_blocks(scores, values, cuts, dtype=torch.float32):
    """Output and log-sum-exp of rows that are cut at ``cuts``."""
    nothing = identity(scores.shape[:-1], values.shape[-1], dtype, scores.device)
    edges = [0, *cuts, scores.shape[-1]]
    blocks = [slice(*pair) for pair in itertools.pairwise(edges)]
    state = reduce(lambda s, b: update(s, scores[..., b], values[b]), blocks, nothing)
    return finish(state)


# ---- By hand ----


def test_update_by_hand():
    """Scores 0, 2, 1, 3 in units of ln 2: every exponential is a power of two."""
    state = identity((), 1, torch.float64, DEVICE)
    states = []
    for score, value in ((0, 8), (2, 0), (1, 4), (3, 16)):
        state = update(state, row(score * LN2), column(value))
        states += numbers_in(state)
    expected = [0, 1, 8, 2, 1.25, 2, 2, 1.75, 4, 3, 1.875, 18]
    expected[::3] = [m * LN2 for m in expected[::3]]
    assert states == pytest.approx(expected)
    o, lse = finish(state)
    assert o.item() == pytest.approx(18 / 1.875)
    assert lse.item() == pytest.approx(math.log(15))


def test_merge_by_hand():
    left = State(row(2 * LN2)[0], row(1.25)[0], row(2.0))
    right = State(row(3 * LN2)[0], row(1.25)[0], row(17.0))
    for merged in (merge(left, right), merge(right, left)):
        assert numbers_in(merged) == pytest.approx((3 * LN2, 1.875, 18))


def test_identity():
    state = identity((2, 3), 4, device=DEVICE)
    assert state.m.shape == state.l.shape == (2, 3) and state.acc.shape == (2, 3, 4)
    assert all(x.dtype == torch.float32 and x.device.type == DEVICE for x in state)
    assert (state.m == -INF).all() and not state.l.any() and not state.acc.any()


# ---- What was never seen ----


@pytest.mark.parametrize("n_masked", [1, 7])
def test_masked_scores_leave_a_state_alone(n_masked):
    masked, values = row(*[-INF] * n_masked), torch.ones_like(column(*range(n_masked)))
    nothing = identity((), 1, torch.float64, DEVICE)
    something = update(nothing, row(1.0, -2.0), column(3.0, 4.0))
    for state in (nothing, something):
        assert numbers_in(update(state, masked, values)) == numbers_in(state)
        assert numbers_in(merge(state, nothing)) == numbers_in(state)
        assert numbers_in(merge(nothing, state)) == numbers_in(state)


def test_a_row_that_saw_nothing_is_zero():
    o, lse = finish(identity((3,), 2, device=DEVICE))
    assert (o == 0).all() and (lse == -INF).all()


def test_rows_are_independent():
    """A masked row beside others, masked blocks first, last and in between."""
    scores = row(-INF, -INF, 1.0, -INF, 2.0, -INF)
    rows = torch.stack([scores, torch.full_like(scores, -INF), scores + 5])
    values = column(*range(6))
    o, lse = in_blocks(rows, values, [2, 3, 4, 5], torch.float64)
    weight = 1 / (1 + math.exp(-1))  # of value 4; the other visible value is 2
    assert o.flatten().tolist() == pytest.approx([2 + 2 * weight, 0, 2 + 2 * weight])
    expected = math.log(math.exp(1) + math.exp(2))
    assert lse.tolist() == pytest.approx([expected, -INF, expected + 5])


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_nan_and_infinity_are_not_hidden(bad):
    rows = torch.stack([row(0.0, bad, 1.0), row(0.0, 1.0, 2.0)])
    o, lse = in_blocks(rows, column(1.0, 2.0, 3.0), [1, 2], torch.float64)
    assert o[0].isnan().all() and lse[0].isnan()
    assert o[1].isfinite().all() and lse[1].isfinite()


# ---- Against float64 ----

NORMAL = torch.randn(1000, generator=torch.Generator().manual_seed(0))
HOSTILE = {
    "normal": NORMAL,
    "up": NORMAL + 1e4,
    "down": NORMAL - 1e4,
    "wide": NORMAL * 1000,
    "rising": torch.linspace(0, 200, 1000),
    "falling": torch.linspace(200, 0, 1000),
    "outlier_last": torch.cat([NORMAL[1:], torch.tensor([500.0])]),
    "every_other_masked": NORMAL.masked_fill(torch.arange(1000) % 2 == 0, -INF),
    "first_masked": NORMAL.masked_fill(torch.arange(1000) < 300, -INF),
    "all_but_one_masked": NORMAL.masked_fill(torch.arange(1000) != 500, -INF),
    "smallest": torch.full((1000,), torch.finfo(torch.float32).min),
    "largest": torch.full((1000,), torch.finfo(torch.float32).max),
}


@pytest.mark.parametrize("block", [1, 64, 1000])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_rows(name, block):
    scores = HOSTILE[name].to(DEVICE)
    values = torch.randn(1000, 8, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    o, lse = in_blocks(scores, values, range(block, 1000, block))
    exact = torch.softmax(scores.double(), dim=0) @ values.double()
    assert (o - exact).abs().max().item() < 2**-19 * values.abs().max().item()
    exact_lse = torch.logsumexp(scores.double(), dim=0)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=2**-20, atol=2**-20)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=name_of
)
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.float64], ids=name_of)
def test_state_keeps_its_dtype(state_dtype, dtype):
    scores, values = torch.randn(5, 7).to(dtype), torch.randn(7, 3).to(dtype)
    o, lse = in_blocks(scores, values, [3], state_dtype)
    assert o.dtype == lse.dtype == state_dtype
    exact = torch.softmax(scores.double(), dim=-1) @ values.double()
    assert (o - exact).abs().max().item() < 2**-18


def test_batched_values():
    """One matrix of values a head, as attention has it."""
    scores, values = torch.randn(2, 3, 5, 12), torch.randn(2, 3, 12, 4)
    state = identity((2, 3, 5), 4)
    for start in range(0, 12, 5):
        block = slice(start, start + 5)
        state = update(state, scores[..., block], values[..., block, :])
    o, lse = finish(state)
    torch.testing.assert_close(o, torch.softmax(scores, dim=-1) @ values)
    torch.testing.assert_close(lse, scores.logsumexp(dim=-1))


def test_arguments_stay_as_they_are():
    scores, values = torch.randn(3, 4), torch.randn(4, 2)
    a, b = identity((3,), 2), state_of(scores, values, torch.float32)
    everything = (*a, *b, scores, values)
    before = [x.clone() for x in everything]
    update(b, scores, values)
    merge(a, b)
    finish(b)
    assert all(map(torch.equal, everything, before))


# ---- The theorem ----


def drawn_state(numbers):
    scores = torch.tensor(numbers, dtype=torch.float64)
    finite = scores.nan_to_num(neginf=7)
    values = torch.stack([finite.sin(), finite.cos()], dim=1)
    return state_of(scores, values), scores, values


@given(scores_of_a_row, scores_of_a_row)
def test_merge_is_the_state_of_both(first, second):
    a, *part_a = drawn_state(first)
    b, *part_b = drawn_state(second)
    whole = state_of(*(torch.cat(parts) for parts in zip(part_a, part_b, strict=True)))
    assert_same_state(merge(a, b), whole)
    assert_same_state(update(a, *part_b), whole)


@given(scores_of_a_row, scores_of_a_row, scores_of_a_row)
def test_merge_is_associative(first, second, third):
    a, b, c = (drawn_state(numbers)[0] for numbers in (first, second, third))
    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    assert_same_state(left, right)
    assert torch.equal(left.m, right.m)


@given(scores_of_a_row, scores_of_a_row)
def test_merge_commutes_to_the_bit(first, second):
    a, b = drawn_state(first)[0], drawn_state(second)[0]
    assert all(map(torch.equal, merge(a, b), merge(b, a)))


@given(scores_of_a_row)
def test_identity_changes_nothing(numbers):
    a, nothing = drawn_state(numbers)[0], identity((), 2, torch.float64)
    assert all(map(torch.equal, merge(a, nothing), a))
    assert all(map(torch.equal, merge(nothing, a), a))


@given(scores_of_a_row, st.data())
def test_cuts_do_not_matter(numbers, data):
    cuts = data.draw(st.sets(st.integers(1, max(1, len(numbers) - 1))))
    _, scores, values = drawn_state(numbers)
    cuts = sorted(cut for cut in cuts if cut < len(numbers))
    expected = in_blocks(scores, values, [], torch.float64)
    assert_same_state(in_blocks(scores, values, cuts, torch.float64), expected)


# ---- Bad input ----

FLOATS = torch.zeros(3, 5)


@pytest.mark.parametrize(
    "scores, values, error, message",
    [
        ([1.0], FLOATS, TypeError, "scores must be a torch.Tensor, not list"),
        (FLOATS, None, TypeError, "values must be a torch.Tensor, not NoneType"),
        (FLOATS.long(), FLOATS, TypeError, "scores is torch.int64; it must be a float"),
        (FLOATS, FLOATS.bool(), TypeError, "values is torch.bool; it must be a float"),
        (FLOATS[:2], FLOATS, ValueError, r"scores has shape \(2, 5\); with a state of"),
        (FLOATS[0], FLOATS, ValueError, r"scores has shape \(5,\); with a state of"),
        (FLOATS[:, :0], FLOATS, ValueError, r"scores has shape \(3, 0\); .* size 1 or"),
        (FLOATS, torch.zeros(4, 2), ValueError, r"values has shape \(4, 2\); .*5, 2\)"),
        (FLOATS, torch.zeros(5, 3), ValueError, r"values has shape \(5, 3\); .*5, 2\)"),
        (FLOATS, torch.zeros(5), ValueError, r"values has shape \(5,\); .*\(5, 2\)"),
        (FLOATS, torch.zeros(1, 5, 2), ValueError, r"values has shape \(1, 5, 2\)"),
    ],
)  # fmt: skip
def test_update_rejects(scores, values, error, message):
    with pytest.raises(error, match=message):
        update(identity((3,), 2), scores, values)


def test_merge_rejects():
    a = identity((3,), 2)
    with pytest.raises(ValueError, match=r"b.acc has shape \(4, 2\); it must have a's"):
        merge(a, identity((4,), 2))
    with pytest.raises(TypeError, match=r"b is torch.float64; it must have a's dtype"):
        merge(a, identity((3,), 2, torch.float64))


def test_identity_rejects():
    with pytest.raises(TypeError, match=r"dtype is torch.float16; a state is"):
        identity((3,), 2, torch.float16)
