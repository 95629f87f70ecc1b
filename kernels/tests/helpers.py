"""What the tests of the attention kernels share: inputs, memory layouts, the verdict.

An error is a difference from float64, and PyTorch's own in the same dtype is the
measure: at its largest at most twice as large, plus one unit in the last place of the
output; root mean square over a set of cases at most 1.05 times.
"""

import math
from dataclasses import dataclass

import torch

from kernels.causal_attention import causal_attention
from kernels.causal_one_phase import one_phase_attention
from kernels.device import DEVICE, tensor_core_dtype
from kernels.full_attention import full_attention
from kernels.reference import naive_attention, reference_attention

# name -> function of (q, k, v) that returns o and the lse (None if it has none)
KERNELS = {
    "full": full_attention,
    "causal": causal_attention,
    "one_phase": lambda q, k, v: (one_phase_attention(q, k, v, False), None),
    "one_phase_skipping": lambda q, k, v: (one_phase_attention(q, k, v, True), None),
}
# bfloat16 where the card has it; the interpreter computes it wrongly.
DTYPES = sorted({torch.float16, torch.float32, tensor_core_dtype()}, key=str)
HEAD_DIMS = (16, 40, 64, 80, 96, 128, 256)
LAYOUTS = ("contiguous", "transposed", "column_major", "sliced", "expanded")


def name_of(value) -> str | None:
    """A readable test id for dtypes and tuples."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return "x".join(map(str, value)) if isinstance(value, tuple) else None


def inputs(n_queries, n_keys, head_dim, dtype, batch=1, n_heads=2, seed=0):
    """Standard normal q, k, v on the device, the same on every machine."""
    draw = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, n_heads, length, head_dim, generator=draw).to(DEVICE, dtype)
        for length in (n_queries, n_keys, n_keys)
    )


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

    def check_max(self):
        assert self.max_ours <= 2 * self.max_torch + self.last_place, self


def check_rms(cases: list[Errors]) -> None:
    """The second bound, over all cases together: tiny ones are noisy."""
    ours = math.sqrt(sum(case.squares_ours for case in cases))
    torchs = math.sqrt(sum(case.squares_torch for case in cases))
    assert ours <= 1.05 * torchs, f"{ours / torchs:.3f} times PyTorch's RMS error"


def errors(kernel: str, q, k, v) -> Errors:
    """Run a kernel; assert all that is exact, and measure the rest."""
    is_causal = kernel != "full"
    before = [x.clone() for x in (q, k, v)]
    o, lse = KERNELS[kernel](q, k, v)
    assert o.shape == q.shape and o.dtype == q.dtype and o.device == q.device
    assert o.isfinite().all()
    for x, kept in zip((q, k, v), before, strict=True):
        assert torch.equal(x, kept), "writes into its inputs"

    wide = [x.double() for x in (q, k, v)]
    expected, expected_lse = reference_attention(*wide, is_causal, return_lse=True)
    if lse is not None:
        check_lse(lse, expected_lse, *wide[:2])
    is_blind = expected_lse == -math.inf  # rows that see no key
    assert (o[is_blind] == 0).all()

    # PyTorch's softmax has no answer for blind rows.
    ours = (o.double() - expected)[~is_blind]
    torchs = (naive_attention(q, k, v, is_causal).double() - expected)[~is_blind]
    _, exponent = math.frexp(expected.abs().max().item())
    return Errors(
        max_ours=ours.abs().max().item(),
        max_torch=torchs.abs().max().item(),
        last_place=math.ldexp(torch.finfo(q.dtype).eps, exponent - 1),
        squares_ours=ours.square().sum().item(),
        squares_torch=torchs.square().sum().item(),
    )


def check_lse(lse, expected, q, k) -> None:
    """float32, −inf just where expected, and else as near as float32 scores allow.

    A score q·k/√d summed in float32 is off by a few units in the last place of
    ‖q‖‖k‖/√d, whatever the order of its terms; the log-sum-exp by no more than that.
    """
    assert lse.dtype == torch.float32 and lse.shape == q.shape[:3]
    largest = q.norm(dim=-1).max() * k.norm(dim=-1).max() / math.sqrt(q.shape[-1])
    bound = 4 * torch.finfo(torch.float32).eps * (largest.item() + math.log(k.shape[2]))
    is_blind = expected == -math.inf
    assert torch.equal(lse == -math.inf, is_blind)
    assert ((lse - expected)[~is_blind].abs() <= bound).all()
