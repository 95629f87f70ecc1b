"""Which kernel the public call launches: on each card, and for which tensors."""

import pytest
import torch

from kernels import attention
from kernels.fast_attention import fast_attention
from kernels.hopper_top import hopper_attention
from kernels.model_attention import model_attention

CARDS = {
    "interpreter": (0, 0), "ampere": (8, 0), "ada": (8, 9), "hopper": (9, 0),
    "blackwell": (10, 0),
}  # fmt: skip


def tensors(head_dim=128, dtype=torch.bfloat16, length=128, kv_heads=4):
    q = torch.zeros(1, 4, length, head_dim, dtype=dtype)
    k, v = (torch.zeros(1, kv_heads, 128, head_dim, dtype=dtype) for _ in range(2))
    return q, k, v


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
def test_by_card_and_head_dim(card, head_dim, monkeypatch):
    monkeypatch.setattr(attention, "capability", lambda: CARDS[card])
    expected = model_attention if CARDS[card] < (9, 0) else fast_attention
    if card == "hopper" and head_dim <= 128:
        expected = hopper_attention
    assert attention.plain_kernel(*tensors(head_dim)) is expected


@pytest.mark.parametrize("card", ["hopper", "blackwell"])
def test_what_descriptors_do_not_allow(card, monkeypatch):
    monkeypatch.setattr(attention, "capability", lambda: CARDS[card])
    q, k, v = tensors()
    columns = k.transpose(2, 3).contiguous().transpose(2, 3)
    for qkv in [(q, columns, v), (q, k, columns), tensors(dtype=torch.float32)]:
        assert attention.plain_kernel(*qkv) is model_attention
    assert attention.plain_kernel(*tensors(head_dim=20)) is model_attention


@pytest.mark.parametrize(
    "length, kv_heads, expected",
    [
        (1, 1, model_attention),  # packed
        (63, 1, model_attention),
        (64, 1, fast_attention),
        (127, 1, fast_attention),
        (128, 1, hopper_attention),
        (1, 4, fast_attention),
        (127, 4, fast_attention),
        (128, 4, hopper_attention),
    ],
)
def test_by_the_number_of_queries(length, kv_heads, expected, monkeypatch):
    monkeypatch.setattr(attention, "capability", lambda: (9, 0))
    given = tensors(length=length, kv_heads=kv_heads)
    assert attention.plain_kernel(*given) is expected


@pytest.mark.parametrize("card", CARDS)
def test_a_window(card, monkeypatch):
    monkeypatch.setattr(attention, "capability", lambda: CARDS[card])
    expected = hopper_attention if card == "hopper" else model_attention
    assert attention.plain_kernel(*tensors(), 5) is expected
    assert attention.plain_kernel(*tensors(length=127), 5) is model_attention
    assert attention.plain_kernel(*tensors(256), 5) is model_attention


OPTIONS = {
    "window_size": 5,
    "sinks": torch.zeros(4),
    "softcap": 3.0,
    "alibi_slopes": torch.ones(4),
}


@pytest.mark.parametrize("option", [None, *OPTIONS, "sink_size"])
def test_options_go_to_the_kernel_that_has_them(option, monkeypatch):
    """And everything that was given arrives; sinks come with a window."""
    calls = []

    def note(name):
        def kernel(q, k, v, *arguments):
            calls.append((name, arguments))
            return q, None

        return kernel

    monkeypatch.setattr(attention, "plain_kernel", lambda *given: note("plain"))
    monkeypatch.setattr(attention, "model_attention", note("model"))
    monkeypatch.setattr(attention, "check_attention", lambda *qkv: None)
    monkeypatch.setattr(attention, "check_per_head", lambda *given: None)
    chosen = {option: OPTIONS[option]} if option in OPTIONS else {}
    if option == "sink_size":
        chosen = {"window_size": 5, "sink_size": 2}
    attention.flash_attention_forward(*tensors(), **chosen)
    (name, arguments), = calls  # fmt: skip
    is_plain = option in (None, "window_size", "sink_size")
    assert name == ("plain" if is_plain else "model")
    if option in ("window_size", "sink_size"):
        assert arguments == (True, 5, chosen.get("sink_size"))
    elif option:
        names = ["window_size", "sink_size", "sinks", "softcap", "alibi_slopes"]
        given = dict(zip(names, arguments[1:], strict=True))
        assert given[option] is OPTIONS[option]
        assert sum(value is not None for value in given.values()) == 1
    else:
        assert arguments == (True,)
