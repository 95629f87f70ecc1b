"""What the tests of the attention kernels share: inputs, memory layouts, the verdict.

An error is a difference from float64, and PyTorch's own in the same dtype is the
measure: at its largest at most twice as large, plus one unit in the last place of the
output; root mean square over a set of cases at most 1.05 times. Softcap in float32 is
allowed a little more, which ``TANH_ERROR`` derives.

In float32 PyTorch's largest error depends on the order in which q·k is summed: by a
factor of 2.3 over 30 orders of one case. So it is taken over ``ORDERS`` orders of the
columns of q and k, which change no score; the root mean square is that of the first.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from kernels.causal_attention import causal_attention
from kernels.causal_one_phase import one_phase_attention
from kernels.device import DEVICE, tensor_core_dtype
from kernels.fast_attention import fast_attention
from kernels.full_attention import full_attention
from kernels.reference import attention_mask, naive_attention, reference_attention

# name -> function of (q, k, v) that returns o and the lse (None if it has none)
KERNELS = {
    "full": full_attention,
    "causal": causal_attention,
    "one_phase": lambda q, k, v: (one_phase_attention(q, k, v, False), None),
    "one_phase_skipping": lambda q, k, v: (one_phase_attention(q, k, v, True), None),
    "fast_full": lambda q, k, v, tiles=None: fast_attention(q, k, v, False, tiles),
    "fast_causal": lambda q, k, v, tiles=None: fast_attention(q, k, v, True, tiles),
}
# bfloat16 where the card has it; the interpreter computes it wrongly.
DTYPES = sorted({torch.float16, torch.float32, tensor_core_dtype()}, key=str)
# In which a maximum is kept (``kernels.kept_maximum``): of float32's range.
KEPT_IN = next(dtype for dtype in DTYPES if dtype != torch.float16)
HEAD_DIMS = (16, 40, 64, 80, 96, 128, 256)
ORDERS = 3  # of the head dim's columns, in float32: as they come, and two drawn
LAYOUTS = ("contiguous", "transposed", "column_major", "sliced", "expanded")

# How far tanh(x) is off, in absolute terms, when computed as 1 − 2 / (1 + e), e = e^2x,
# in float32. Let u = 2⁻²⁴, half a unit in the last place of 1, and take a GPU at its
# word: 2 units in the last place for exp2 and for division. A relative error of r in e
# changes the fraction by 2 e r / (1 + e)² ≤ r / 2, and one of r in 2x by less, for
# 2 |2x| e r / (1 + e)² < r / 2:
#
#     e: exp2                                                      4u / 2
#     2x: the factors 1/√d (u) and 2 log₂e / c (5u), two products  8u / 2
#     1 + e, rounded: r = u of a fraction of at most 2             2u
#     the division, of a fraction of at most 2                     4u
#     1 − the fraction, rounded                                    u / 2
#
# or 12.5 u. PyTorch's tanh is right to the last place also where x is small, hence the
# difference. A score, c·tanh(x), is off by c times as much, and so is the lse.
TANH_ERROR = 12.5 * 2**-24


def name_of(value) -> str | None:
    """A readable test id for dtypes and tuples."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return "x".join(map(str, value)) if isinstance(value, tuple) else None


def inputs(
    n_queries, n_keys, head_dim, dtype, batch=1, n_heads=2, seed=0, group=1
):  # fmt: skip
    """Standard normal q, k, v on the device, the same on every machine.

    ``group`` heads of q share one of k and v.
    """
    draw = torch.Generator().manual_seed(seed)
    shapes = [(n_heads, n_queries), *[(n_heads // group, n_keys)] * 2]
    return tuple(
        torch.randn(batch, heads, length, head_dim, generator=draw).to(DEVICE, dtype)
        for heads, length in shapes
    )


def untouched(n_elements: int) -> torch.Tensor:
    """float16 memory that nobody has written: a CPU sets no pages aside for it yet."""
    storage = torch.UntypedStorage(2 * n_elements, device=DEVICE)
    return torch.tensor([], dtype=torch.float16, device=DEVICE).set_(storage)


def covering(strength: int, *factors) -> Iterator[tuple]:
    """Cases, one value of each factor, among which every ``strength`` values meet.

    Greedy: next comes the case with the most combinations that are still missing.
    """

    def combinations(case):
        return set(itertools.combinations(enumerate(case), strength))

    left = {case: combinations(case) for case in itertools.product(*factors)}
    missing = set().union(*left.values())
    while missing:
        best = max(left, key=lambda case: len(left[case] & missing))
        missing -= left[best]
        yield best


def with_layout(x: torch.Tensor, layout: str) -> torch.Tensor:
    """``x`` with other strides; "expanded" repeats its first head (strides of 0)."""
    if layout == "transposed":  # (batch, length, heads, head_dim) in memory
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "column_major":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "sliced":  # what lies around and between the elements is NaN
        batch, n_heads, length, head_dim = x.shape
        around = x.new_full((batch, n_heads + 2, 2 * length, head_dim + 5), math.nan)
        return around[:, 1:-1, ::2, 3:-2].copy_(x)
    if layout == "expanded":
        return x[:1, :1].expand_as(x)
    return x


@dataclass(frozen=True)
class Errors:
    """How far a kernel and PyTorch are from float64 in one case."""

    max_ours: float
    max_torch: float
    last_place: float  # one unit in the last place of the largest output
    squares_ours: float
    squares_torch: float
    # what softcap may add in float32, else 0: see TANH_ERROR
    max_tanh: float = 0.0
    squares_tanh: float = 0.0

    def check_max(self, case: object = "") -> None:
        allowed = 2 * self.max_torch + self.last_place + self.max_tanh
        assert self.max_ours <= allowed, (case, self)


def check_rms(cases: list[Errors]) -> None:
    """The second bound, over all cases together: tiny ones are noisy."""
    ours = math.sqrt(sum(case.squares_ours for case in cases))
    torchs = math.sqrt(sum(case.squares_torch for case in cases))
    tanh = math.sqrt(sum(case.squares_tanh for case in cases))
    assert ours <= 1.05 * torchs + tanh, (
        f"{ours / torchs:.3f} times PyTorch's RMS error; "
        f"softcap's tanh may add {tanh / torchs:.3f}"
    )


def errors(kernel: str, q, k, v) -> Errors:
    """Of one of KERNELS, beside the textbook's three steps."""
    is_causal = not kernel.endswith("full")
    return compare(KERNELS[kernel], naive_attention, (q, k, v), is_causal=is_causal)


def compare(ours: Callable, pytorch: Callable, qkv: tuple, **options) -> Errors:
    """Run ``ours(q, k, v)``; assert all that is exact, and measure the rest.

    The options are those of ``reference_attention``, and ``pytorch`` takes them too.
    """
    q, k, v = qkv
    given = [x for x in (*qkv, *options.values()) if isinstance(x, torch.Tensor)]
    before = [x.clone() for x in given]
    o, lse = ours(q, k, v)
    assert o.shape == q.shape and o.dtype == q.dtype and o.device == q.device
    assert o.isfinite().all()
    for x, kept in zip(given, before, strict=True):
        assert torch.equal(x, kept), "writes into its inputs"

    wide = {name: as_float64(value) for name, value in options.items()}
    q64, k64, v64 = map(as_float64, qkv)
    expected, expected_lse = reference_attention(q64, k64, v64, **wide, return_lse=True)
    if lse is not None:
        check_lse(lse, expected_lse, q64, k64, **wide)
    sees = sees_keys(q, k, **options)
    assert (o[:, :, ~sees] == 0).all()

    # PyTorch's softmax has no answer for rows that see nothing.
    squares = ((o.double() - expected)[:, :, sees]).square()
    torchs = [
        ((pytorch(*qk, v, **options).double() - expected)[:, :, sees]).square()
        for qk in orders_of_columns(q, k)
    ]
    tanh = torch.zeros_like(squares)
    if q.dtype == torch.float32 and options.get("softcap") is not None:
        # Errors ε_j of the scores change o = Σ w_j v_j by Σ w_j ε_j (v_j − o), which
        # is at most max |ε_j| times the root of Σ w_j v_j².
        tanh = reference_attention(q64, k64, v64.square(), **wide)[:, :, sees]
        tanh *= (TANH_ERROR * options["softcap"]) ** 2
    _, exponent = math.frexp(expected.abs().max().item())
    return Errors(
        max_ours=squares.max().sqrt().item(),
        max_torch=max(x.max().sqrt().item() for x in torchs),
        last_place=math.ldexp(torch.finfo(q.dtype).eps, exponent - 1),
        squares_ours=squares.sum().item(),
        squares_torch=torchs[0].sum().item(),
        max_tanh=tanh.max().sqrt().item(),
        squares_tanh=tanh.sum().item(),
    )


def orders_of_columns(q, k) -> Iterator[tuple]:
    """q and k as they are and, in float32, with their columns in other orders too."""
    yield q, k
    draw = torch.Generator().manual_seed(0)
    for _ in range(ORDERS - 1 if q.dtype == torch.float32 else 0):
        order = torch.randperm(q.shape[-1], generator=draw).to(q.device)
        yield q[..., order], k[..., order]


def as_float64(value):
    return value.double() if isinstance(value, torch.Tensor) else value


def sees_keys(q, k, is_causal, window_size=None, sink_size=None, **_) -> torch.Tensor:
    """Which queries see a key at all: a bool tensor (N_q,)."""
    lengths = q.shape[2], k.shape[2]
    return attention_mask(*lengths, is_causal, window_size, sink_size, q.device).any(1)


def check_lse(
    lse, expected, q, k, sinks=None, softcap=None, alibi_slopes=None, **_
) -> None:
    """float32, −inf just where expected, and else as near as float32 scores allow.

    A score q·k/√d summed in float32 is off by a few units in the last place of
    ‖q‖‖k‖/√d, whatever the order of its terms; the log-sum-exp by no more than that.
    ALiBi and a learned sink bring terms of their own size, softcap the error of tanh.
    """
    assert lse.dtype == torch.float32 and lse.shape == q.shape[:3]
    largest = q.norm(dim=-1).max() * k.norm(dim=-1).max() / math.sqrt(q.shape[-1])
    size = largest.item() + math.log(k.shape[2])
    if alibi_slopes is not None:
        size += alibi_slopes.abs().max().item() * max(q.shape[2], k.shape[2])
    if sinks is not None:
        size += sinks[sinks.isfinite()].abs().max().item()
    bound = 4 * torch.finfo(torch.float32).eps * size + TANH_ERROR * (softcap or 0)
    is_empty = expected == -math.inf
    assert torch.equal(lse == -math.inf, is_empty)
    assert ((lse - expected)[~is_empty].abs() <= bound).all()
