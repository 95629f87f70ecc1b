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
        "k (1, 3, 8, 16) q (2, 3, 8, 16) (2, 3, any length, 16)",
    ),
    "fewer heads in k": (
        (GOOD, *[tensor(2, 1, 8, 16)] * 2), ValueError,
        "k (2, 1, 8, 16) q (2, 3, 8, 16) (2, 3, any length, 16)",
    ),
    "k of another head dim": (
        (GOOD, *[tensor(2, 3, 8, 32)] * 2), ValueError,
        "k (2, 3, 8, 32) q (2, 3, 8, 16) (2, 3, any length, 16)",
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


@pytest.fixture
def no_kernel(monkeypatch):
    """Fail if an argument check lets a call through to a kernel."""

    def fail(*args):
        pytest.fail("a kernel ran")

    monkeypatch.setattr(attention, "causal_attention", fail)
    monkeypatch.setattr(attention, "full_attention", fail)


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


@pytest.mark.skipif(not INTERPRETED, reason="a GPU has bfloat16")
def test_bfloat16_is_refused_by_the_interpreter(no_kernel):
    with pytest.raises(TypeError) as caught:
        flash_attention_forward(*[GOOD.bfloat16()] * 3)
    words = "q torch.bfloat16 interpreter torch.float16 torch.float32"
    assert says(caught.value, words), caught.value


def test_gradients_may_be_switched_off():
    with torch.no_grad():
        o = flash_attention_forward(NEEDS_GRAD, GOOD, GOOD)
    assert not o.requires_grad and o.isfinite().all()
