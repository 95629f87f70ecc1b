"""Bad arguments are refused before a kernel runs, in words that help.

Each message names the argument, what was given and what is allowed.
"""

import pytest
import torch

from kernels import DEVICE, INTERPRETED, attention, flash_attention_forward


def tensor(*shape, dtype=torch.float16, device=DEVICE):
    return torch.zeros(shape, dtype=dtype, device=device)


GOOD = tensor(2, 3, 8, 16)
MANY = tensor(1, 1, 1, 16).expand(65536, 1, 1, 16)
NEEDS_GRAD = tensor(2, 3, 8, 16).requires_grad_()

# name -> (q, k, v), the error, and what its message says, in this order
BAD = {
    "q no tensor": (
        (GOOD.tolist(), GOOD, GOOD), TypeError, "q must be a torch.Tensor, not list"
    ),
    "k no tensor": (
        (GOOD, None, GOOD), TypeError, "k must be a torch.Tensor, not NoneType"
    ),
    "q of rank 3": (
        (tensor(3, 8, 16), GOOD, GOOD), ValueError, "q (3, 8, 16) 4 dimensions"
    ),
    "v of rank 5": (
        (GOOD, GOOD, GOOD[None]), ValueError, "v (1, 2, 3, 8, 16) 4 dimensions"
    ),
    "no queries": (
        (tensor(2, 3, 0, 16), GOOD, GOOD), ValueError, "q (2, 3, 0, 16) zero"
    ),
    "no keys": (
        (GOOD, *[tensor(2, 3, 0, 16)] * 2), ValueError, "k (2, 3, 0, 16) zero"
    ),
    "no batch": (
        [tensor(0, 3, 8, 16)] * 3, ValueError, "q (0, 3, 8, 16) zero"
    ),
    "head dim 15": (
        [tensor(2, 3, 8, 15)] * 3, ValueError, "q head dim 15 16 to 256"
    ),
    "head dim 257": (
        [tensor(2, 3, 8, 257)] * 3, ValueError, "q head dim 257 16 to 256"
    ),
    "batch of 65536": ([MANY] * 3, ValueError, "q batch 65536 65535"),
    "65536 heads": ([MANY.transpose(0, 1)] * 3, ValueError, "q heads 65536 65535"),
    "k of another batch": (
        (GOOD, *[tensor(1, 3, 8, 16)] * 2), ValueError,
        "k (1, 3, 8, 16) q (2, 3, 8, 16) (2, heads, any length, 16)",
    ),
    "heads that do not divide": (
        (GOOD, *[tensor(2, 2, 8, 16)] * 2), ValueError, "k 2 heads divide q 3 heads"
    ),
    "more heads in k": (
        (GOOD, *[tensor(2, 6, 8, 16)] * 2), ValueError, "k 6 heads divide q 3 heads"
    ),
    "fewer heads in v": (
        (GOOD, GOOD, tensor(2, 1, 8, 16)), ValueError,
        "v (2, 1, 8, 16) k (2, 3, 8, 16)",
    ),
    "k of another head dim": (
        (GOOD, *[tensor(2, 3, 8, 32)] * 2), ValueError,
        "k (2, 3, 8, 32) q (2, 3, 8, 16) (2, heads, any length, 16)",
    ),
    "v longer than k": (
        (GOOD, GOOD, tensor(2, 3, 9, 16)), ValueError, "v (2, 3, 9, 16) k (2, 3, 8, 16)"
    ),
    "v of another head dim": (
        (GOOD, GOOD, tensor(2, 3, 8, 32)), ValueError,
        "v (2, 3, 8, 32) k (2, 3, 8, 16)",
    ),
    "float64": (
        [GOOD.double()] * 3, TypeError,
        "q torch.float64 torch.float16, torch.bfloat16, torch.float32",
    ),
    "int32": (
        [GOOD.int()] * 3, TypeError,
        "q torch.int32 torch.float16, torch.bfloat16, torch.float32",
    ),
    "k of another dtype": (
        (GOOD, GOOD.float(), GOOD), TypeError, "k torch.float32 q torch.float16"
    ),
    "v of another dtype": (
        (GOOD, GOOD, GOOD.float()), TypeError, "v torch.float32 q torch.float16"
    ),
    "q elsewhere": ([GOOD.to("meta")] * 3, ValueError, f"q meta {DEVICE!r}"),
    "k elsewhere": ((GOOD, GOOD.to("meta"), GOOD), ValueError, f"k meta q {DEVICE}"),
    "v elsewhere": ((GOOD, GOOD, GOOD.to("meta")), ValueError, f"v meta q {DEVICE}"),
    "q needs a gradient": (
        (NEEDS_GRAD, GOOD, GOOD), ValueError, "q gradient torch.no_grad()"
    ),
    "v needs a gradient": (
        (GOOD, GOOD, NEEDS_GRAD), ValueError, "v gradient torch.no_grad()"
    ),
}  # fmt: skip

LOGITS = torch.zeros(3, device=DEVICE)

# name -> options of a causal call, the error, and what its message says
BAD_OPTIONS = {
    "window, not causal": (
        {"is_causal": False, "window_size": 4}, ValueError,
        "window_size=4 needs is_causal=True",
    ),
    "window and sinks, not causal": (
        {"is_causal": False, "window_size": 4, "sink_size": 1}, ValueError,
        "window_size=4 needs is_causal=True",
    ),
    "window of 0": ({"window_size": 0}, ValueError, "window_size is 0 at least 1"),
    "window of -1": ({"window_size": -1}, ValueError, "window_size is -1 at least 1"),
    "window of 4.0": (
        {"window_size": 4.0}, TypeError, "window_size an int or None, not 4.0"
    ),
    "window of True": (
        {"window_size": True}, TypeError, "window_size an int or None, not True"
    ),
    "window that is a tensor": (
        {"window_size": torch.tensor(4)}, TypeError,
        "window_size an int or None, not tensor(4)",
    ),
    "sinks, no window": (
        {"sink_size": 2}, ValueError, "sink_size=2 needs a window_size"
    ),
    "sinks, not causal": (
        {"is_causal": False, "sink_size": 2}, ValueError,
        "sink_size=2 needs a window_size",
    ),
    "sinks of -1": (
        {"window_size": 4, "sink_size": -1}, ValueError, "sink_size is -1 at least 0"
    ),
    "sinks of 2.0": (
        {"window_size": 4, "sink_size": 2.0}, TypeError,
        "sink_size an int or None, not 2.0",
    ),
    "sinks of False": (
        {"window_size": 4, "sink_size": False}, TypeError,
        "sink_size an int or None, not False",
    ),
    "more than 2**30 sinks": (
        {"window_size": 4, "sink_size": 2**30 + 1}, ValueError,
        "sink_size is 1073741825 at most 1073741824",
    ),
    "softcap of 0": ({"softcap": 0}, ValueError, "softcap is 0 positive at most 1000"),
    "softcap of 1001": (
        {"softcap": 1001}, ValueError, "softcap is 1001 positive at most 1000"
    ),
    "softcap of -2.0": (
        {"softcap": -2.0}, ValueError, "softcap is -2.0 positive at most 1000"
    ),
    "softcap of inf": (
        {"softcap": float("inf")}, ValueError, "softcap is inf positive at most 1000"
    ),
    "softcap of nan": (
        {"softcap": float("nan")}, ValueError, "softcap is nan positive at most 1000"
    ),
    "softcap of True": (
        {"softcap": True}, TypeError, "softcap a number or None, not True"
    ),
    "softcap of '2'": (
        {"softcap": "2"}, TypeError, "softcap a number or None, not '2'"
    ),
    "softcap that is a tensor": (
        {"softcap": torch.tensor(2.0)}, TypeError,
        "softcap a number or None, not tensor(2.)",
    ),
}  # fmt: skip
for _name in ("sinks", "alibi_slopes"):
    _bad = {
        "a list": ([0.0] * 3, TypeError, "must be a torch.Tensor, not list"),
        "a number": (0.5, TypeError, "must be a torch.Tensor, not float"),
        "of rank 2": (LOGITS[None], ValueError, "(1, 3) 1 dimensions"),
        "of rank 0": (LOGITS[0], ValueError, "() 1 dimensions"),
        "of no head": (LOGITS[:0], ValueError, "(0,) zero"),
        "of 2 heads": (LOGITS[:2], ValueError, "2 elements q 3 heads"),
        "of 4 heads": (tensor(4), ValueError, "4 elements q 3 heads"),
        "of int64": (LOGITS.long(), TypeError, "torch.int64 floating"),
        "of bool": (LOGITS.bool(), TypeError, "torch.bool floating"),
        "elsewhere": (LOGITS.to("meta"), ValueError, f"meta q {DEVICE}"),
        "with a gradient": (
            LOGITS.clone().requires_grad_(), ValueError, "gradient torch.no_grad()"
        ),
    }  # fmt: skip
    for _case, (_value, _error, _words) in _bad.items():
        BAD_OPTIONS[f"{_name} {_case}"] = ({_name: _value}, _error, f"{_name} {_words}")


@pytest.fixture
def no_kernel(monkeypatch):
    """Fail if an argument check lets a call through to a kernel."""

    def fail(*args, **kwargs):
        pytest.fail("a kernel ran")

    monkeypatch.setattr(attention, "model_attention", fail)


def says(error: BaseException, words: str) -> bool:
    """True if the message has all the words, in their order."""
    message, at = str(error), 0
    for word in words.split():
        at = message.find(word, at)
        if at < 0:
            return False
        at += len(word)
    return True


@pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("name", BAD)
def test_refused(name, is_causal, no_kernel):
    qkv, expected, words = BAD[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        flash_attention_forward(*qkv, is_causal=is_causal)
    assert caught.type is expected
    assert says(caught.value, words), caught.value


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_refused(name, no_kernel):
    options, expected, words = BAD_OPTIONS[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        flash_attention_forward(GOOD, GOOD, GOOD, **options)
    assert caught.type is expected
    assert says(caught.value, words), caught.value


def test_old_position_of_return_lse(no_kernel):
    """return_lse came fifth once; now it has to be named, for window_size stands there.

    Such a call must neither run with a window of True nor lose the log-sum-exp.
    """
    with pytest.raises(TypeError, match="window_size must be an int or None, not True"):
        flash_attention_forward(GOOD, GOOD, GOOD, True, True)
    with pytest.raises(TypeError, match="window_size must be an int or None, not Fals"):
        flash_attention_forward(GOOD, GOOD, GOOD, True, False)


def test_the_rest_has_to_be_named(no_kernel):
    with pytest.raises(TypeError, match="positional"):
        flash_attention_forward(GOOD, GOOD, GOOD, True, 4, 1, LOGITS)


@pytest.mark.skipif(not INTERPRETED, reason="a GPU has bfloat16")
def test_bfloat16_is_refused_by_the_interpreter(no_kernel):
    with pytest.raises(TypeError) as caught:
        flash_attention_forward(*[GOOD.bfloat16()] * 3)
    words = "q torch.bfloat16 interpreter torch.float16 torch.float32"
    assert says(caught.value, words), caught.value


def test_gradients_may_be_switched_off():
    with torch.no_grad():
        logits = LOGITS.clone().requires_grad_()
        o = flash_attention_forward(
            NEEDS_GRAD, GOOD, GOOD, sinks=logits, alibi_slopes=logits
        )
    assert not o.requires_grad and o.isfinite().all()


def test_what_is_allowed():
    """The least of each, and heads of k that divide those of q."""
    kv = tensor(2, 1, 8, 16)
    for options in (
        {"window_size": 1},
        {"window_size": 1, "sink_size": 0},
        {"window_size": 10**12, "sink_size": 2**30},
        {"softcap": 1},
        {"softcap": 1e-3},
        {"sinks": LOGITS.double(), "alibi_slopes": LOGITS.half()},
    ):
        o = flash_attention_forward(GOOD, kv, kv, **options)
        assert o.shape == GOOD.shape and o.isfinite().all()
