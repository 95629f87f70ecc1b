"""The specification itself: cases by hand, and PyTorch's attention in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import inputs, name_of

from kernels.device import DEVICE
from kernels.reference import attention_mask, naive_attention, reference_attention

FUNCTIONS = [reference_attention, naive_attention]


def drawn(mask):
    return ["".join(".#"[seen] for seen in row) for row in mask.tolist()]


def pytorch(q, k, v, mask):
    """PyTorch's attention in float64 under an explicit mask."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def assert_equal_to_rounding(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=2**-44, atol=2**-44)


# ---- The mask ----


CAUSAL = {"is_causal": True}


@pytest.mark.parametrize(
    "lengths, options, expected",
    [
        ((2, 3), {}, "### ###"),
        ((3, 3), CAUSAL, "#.. ##. ###"),
        ((2, 4), CAUSAL, "###. ####"),
        ((1, 4), CAUSAL, "####"),
        ((4, 2), CAUSAL, ".. .. #. ##"),
        ((4, 4), {**CAUSAL, "window_size": 2}, "#... ##.. .##. ..##"),
        ((3, 5), {**CAUSAL, "window_size": 1}, "..#.. ...#. ....#"),
        ((3, 3), {**CAUSAL, "window_size": 9}, "#.. ##. ###"),
        ((4, 4), {**CAUSAL, "window_size": 1, "sink_size": 2}, "#... ##.. ###. ##.#"),
        ((3, 3), {**CAUSAL, "window_size": 1, "sink_size": 0}, "#.. .#. ..#"),
        ((4, 2), {**CAUSAL, "window_size": 1, "sink_size": 2}, ".. .. #. ##"),
    ],
    ids=repr,
)
def test_mask_by_hand(lengths, options, expected):
    mask = attention_mask(*lengths, **options)
    assert mask.dtype == torch.bool
    assert drawn(mask) == expected.split()


def test_mask_is_made_on_the_device():
    for options in ({}, CAUSAL):
        assert attention_mask(2, 2, device=DEVICE, **options).device.type == DEVICE


@pytest.mark.parametrize(
    "options, message",
    [
        ({"window_size": 4}, "window_size=4 needs is_causal=True"),
        ({**CAUSAL, "window_size": 0}, "window_size is 0; it must be at least 1"),
        ({**CAUSAL, "sink_size": 2}, "sink_size=2 needs a window_size"),
        ({**CAUSAL, "window_size": 4, "sink_size": -1}, "sink_size is -1; it must be"),
    ],
)
def test_mask_rejects(options, message):
    with pytest.raises(ValueError, match=message):
        attention_mask(8, 8, **options)


@pytest.mark.parametrize("bad", [True, 2.0, "2"])
@pytest.mark.parametrize("name", ["window_size", "sink_size"])
def test_mask_wants_whole_numbers(name, bad):
    options = {**CAUSAL, "window_size": 4, name: bad}
    with pytest.raises(TypeError, match=f"{name} must be an int or None, not {bad!r}"):
        attention_mask(8, 8, **options)


# ---- Attention by hand ----


@pytest.fixture
def four_tokens():
    """Scores that are whole multiples of ln 2: the example of chapter 01."""

    def matrix(*rows):
        return torch.tensor(rows, dtype=torch.float64, device=DEVICE)[None, None]

    q = math.sqrt(2) * math.log(2) * matrix([-1, 0], [0, -1], [0, 1], [1, 1])
    k = matrix([-1, 0], [0, -1], [1, -1], [1, 0])
    v = matrix([1, 1], [2, 1], [3, 1], [4, 1])
    return q, k, v


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "is_causal, expected",
    [(False, [15 / 8, 5 / 2, 5 / 2, 25 / 8]), (True, [1, 5 / 3, 7 / 4, 25 / 8])],
)
def test_four_tokens(four_tokens, function, is_causal, expected):
    o = function(*four_tokens, is_causal=is_causal).double()
    expected = torch.tensor([[x, 1] for x in expected], dtype=torch.float64)
    # naive_attention computes its softmax in float32.
    torch.testing.assert_close(o[0, 0].cpu(), expected, rtol=2**-21, atol=0)


def test_four_tokens_log_sum_exp(four_tokens):
    _, lse = reference_attention(*four_tokens, is_causal=True, return_lse=True)
    expected = torch.tensor([2, 3, 2, 4], dtype=torch.float64).log()
    assert_equal_to_rounding(lse[0, 0].cpu(), expected)


def test_learned_sink_takes_its_share(four_tokens):
    """A sink of ln 4 beside exponentials that sum to 4 halves the last row."""
    q, k, v = four_tokens
    sinks = torch.tensor([math.log(4)], device=DEVICE)
    o, lse = reference_attention(q, k, v, sinks=sinks.double(), return_lse=True)
    last = torch.tensor([25 / 16, 1 / 2], dtype=torch.float64, device=DEVICE)
    torch.testing.assert_close(o[0, 0, 3], last, rtol=2**-21, atol=0)
    assert lse[0, 0, 3].item() == pytest.approx(math.log(8))


def test_softcap_by_hand(four_tokens):
    """Scores in units of ln 2 become c·tanh(score / c): tanh(ln 2) = 3/5 for c = 1."""
    q, k, v = four_tokens
    _, lse = reference_attention(q, k, v, softcap=1.0, return_lse=True)
    capped = [3 / 5, 0, -3 / 5, -3 / 5]  # the scores of the first row: 1, 0, −1, −1
    expected = math.log(sum(map(math.exp, capped)))
    assert lse[0, 0, 0].item() == pytest.approx(expected)


def test_alibi_by_hand():
    """With q = 0 a key at distance n weighs 2⁻ⁿ in one head and 4⁻ⁿ in the other."""
    zeros = torch.zeros(1, 2, 2, 16, dtype=torch.float64, device=DEVICE)
    k, v = torch.zeros(2, 1, 2, 3, 16, dtype=torch.float64, device=DEVICE)
    slopes = math.log(2) * torch.tensor([1.0, 2.0], dtype=torch.float64, device=DEVICE)
    options = {"alibi_slopes": slopes, "return_lse": True}
    _, lse = reference_attention(zeros, k, v, **options)  # positions 1 and 2
    sums = [[1 / 2 + 1 + 1 / 2, 1 / 4 + 1 / 2 + 1], [3 / 2, 1 / 16 + 1 / 4 + 1]]
    assert_equal_to_rounding(lse[0].cpu(), torch.tensor(sums).double().log())
    _, lse = reference_attention(zeros, k, v, is_causal=True, **options)
    sums[0][0], sums[1][0] = 1 / 2 + 1, 1 / 4 + 1
    assert_equal_to_rounding(lse[0].cpu(), torch.tensor(sums).double().log())


# ---- Against PyTorch ----


@pytest.mark.parametrize("n_kv_heads", [1, 2, 6])
@pytest.mark.parametrize(
    "lengths", [(1, 1), (1, 33), (17, 17), (9, 40), (40, 9)], ids=name_of
)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="every_key"),
        pytest.param(CAUSAL, id="causal"),
        pytest.param({**CAUSAL, "window_size": 5}, id="window"),
        pytest.param({**CAUSAL, "window_size": 5, "sink_size": 3}, id="sinks"),
    ],
)
def test_agrees_with_pytorch(options, lengths, n_kv_heads):
    q, _, _ = inputs(*lengths, 24, torch.float64, n_heads=6)
    _, k, v = inputs(*lengths, 24, torch.float64, n_heads=n_kv_heads, seed=1)
    o, lse = reference_attention(q, k, v, return_lse=True, **options)
    mask = attention_mask(*lengths, **options, device=q.device)
    sees = mask.any(dim=1)  # what PyTorch gives for other rows is its own affair
    assert_equal_to_rounding(o[:, :, sees], pytorch(q, k, v, mask)[:, :, sees])
    k = k.repeat_interleave(6 // n_kv_heads, dim=1)
    scores = (q @ k.mT / math.sqrt(24)).masked_fill(~mask, -math.inf)
    assert_equal_to_rounding(lse, scores.logsumexp(dim=-1))
    assert (o[:, :, ~sees] == 0).all() and (lse[:, :, ~sees] == -math.inf).all()


@pytest.mark.parametrize("n_kv_heads", [1, 3])
@pytest.mark.parametrize("lengths", [(17, 17), (9, 40), (40, 9)], ids=name_of)
def test_alibi_agrees_with_pytorch(lengths, n_kv_heads):
    """ALiBi is an additive mask to PyTorch."""
    q, k, v = inputs(*lengths, 24, torch.float64, n_heads=3, group=3 // n_kv_heads)
    slopes = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64, device=DEVICE)
    o = reference_attention(q, k, v, is_causal=True, alibi_slopes=slopes)
    n_queries, n_keys = lengths
    position = torch.arange(n_keys - n_queries, n_keys, device=DEVICE)
    distance = (position[:, None] - torch.arange(n_keys, device=DEVICE)).abs()
    visible = attention_mask(*lengths, True, device=DEVICE)
    mask = -slopes[:, None, None] * distance
    mask = mask.masked_fill(~visible, -math.inf)
    sees = visible.any(dim=1)
    assert_equal_to_rounding(o[:, :, sees], pytorch(q, k, v, mask)[:, :, sees])


def test_softcap_comes_before_alibi_and_leaves_the_sink_alone():
    q, k, v = inputs(9, 9, 16, torch.float64)
    slopes = torch.tensor([1.0, 0.5], dtype=torch.float64, device=DEVICE)
    sinks = torch.tensor([-1.0, 7.0], dtype=torch.float64, device=DEVICE)
    _, lse = reference_attention(
        q, k, v, sinks=sinks, softcap=2.0, alibi_slopes=slopes, return_lse=True
    )
    i = torch.arange(9, device=DEVICE)
    distance = (i[:, None] - i).abs()
    scores = 2 * torch.tanh(q @ k.mT / 4 / 2) - slopes[:, None, None] * distance
    sums = scores.exp().sum(dim=-1) + sinks.exp()[:, None]
    assert_equal_to_rounding(lse, sums.log())


@pytest.mark.parametrize("n_kv_heads", [1, 2, 6])
@pytest.mark.parametrize(
    "options",
    [
        {},
        CAUSAL,
        {**CAUSAL, "window_size": 5},
        {**CAUSAL, "window_size": 5, "sink_size": 3},
    ],
    ids=repr,
)
def test_naive_attention_has_the_same_options(options, n_kv_heads):
    q, k, v = inputs(9, 40, 24, torch.float64, n_heads=6, group=6 // n_kv_heads)
    expected = reference_attention(q, k, v, **options)
    # Its softmax is in float32.
    torch.testing.assert_close(
        naive_attention(q, k, v, **options), expected, rtol=2**-18, atol=2**-18
    )


@pytest.mark.parametrize("n_queries", [4, 9])
def test_learned_sinks_are_one_more_logit(n_queries):
    q, k, v = inputs(n_queries, 6, 16, torch.float64)
    sinks = torch.tensor([-1.0, 2.0], dtype=torch.float64, device=DEVICE)
    o, lse = reference_attention(q, k, v, is_causal=True, sinks=sinks, return_lse=True)
    mask = attention_mask(n_queries, 6, True, device=DEVICE)
    scores = (q @ k.mT / 4).masked_fill(~mask, -math.inf)
    column = sinks[:, None, None].expand(*q.shape[:3], 1)
    logits = torch.cat([scores, column], dim=-1)
    assert_equal_to_rounding(o, torch.softmax(logits, dim=-1)[..., :-1] @ v)
    assert_equal_to_rounding(lse, logits.logsumexp(dim=-1))


def test_a_row_that_sees_only_its_sink():
    q, k, v = inputs(3, 1, 16, torch.float64)
    sinks = torch.tensor([-1.0, 2.0], dtype=torch.float64, device=DEVICE)
    o, lse = reference_attention(q, k, v, is_causal=True, sinks=sinks, return_lse=True)
    assert (o[:, :, :2] == 0).all()
    assert (lse[:, :, :2] == sinks[:, None]).all()


# ---- Dtypes and scale ----


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "dtype, bound",
    [(torch.float16, 2**-8), (torch.bfloat16, 2**-5), (torch.float32, 2**-19)],
    ids=name_of,
)
def test_low_precision_is_near_float64(function, dtype, bound):
    q, k, v = inputs(50, 70, 32, dtype)
    o = function(q, k, v, is_causal=True)
    expected = reference_attention(q.double(), k.double(), v.double(), True)
    assert o.dtype == dtype
    assert (o.double() - expected).abs().max().item() < bound


@pytest.mark.parametrize(
    "dtype, lse_dtype",
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=name_of,
)
def test_dtype_of_the_log_sum_exp(dtype, lse_dtype):
    q, k, v = inputs(4, 4, 16, dtype)
    _, lse = reference_attention(q, k, v, return_lse=True)
    assert lse.dtype == lse_dtype and lse.shape == q.shape[:3]


def test_large_scores_do_not_overflow():
    q, k, v = inputs(20, 20, 16, torch.float32)
    o = reference_attention(100 * q, 100 * k, v)
    assert o.isfinite().all()
    assert o.abs().max() <= v.abs().max()


def test_inputs_stay_as_they_are():
    q, k, v = inputs(5, 5, 16, torch.float32)
    before = [x.clone() for x in (q, k, v)]
    for function in FUNCTIONS:
        function(q, k, v, is_causal=True)
    assert all(map(torch.equal, (q, k, v), before))


def test_heads_that_do_not_divide():
    q, _, _ = inputs(4, 4, 16, torch.float32, n_heads=6)
    _, k, v = inputs(4, 4, 16, torch.float32, n_heads=4)
    with pytest.raises(ValueError, match="k has 4 heads, which do not divide q's 6"):
        reference_attention(q, k, v)
