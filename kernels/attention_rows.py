"""Check, time and weigh attention functions on one shape: rows of a result file."""

import textwrap
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch

from kernels.device import DEVICE
from kernels.reference import reference_attention
from kernels.timing import peak_bytes, summarise, time_in_turn

CHECKED_QUERIES = 16384  # the last of a head; the reference needs room for their scores
# Of the outputs of standard normal inputs: about twice naive attention's largest error.
ALLOWED_ERROR = {"bfloat16": 2e-2, "float16": 4e-3}


@dataclass(frozen=True)
class Shape:
    """What attention is measured on; ``queries`` None means as many as keys."""

    batch: int
    heads: int
    length: int
    head_dim: int
    is_causal: bool = True
    kv_heads: int | None = None  # None: as many as heads
    window_size: int | None = None
    sink_size: int | None = None
    queries: int | None = None
    dtype: str = "bfloat16"

    def sizes(self) -> list[tuple[int, int, int, int]]:
        """The shapes of q, k and v."""
        kv_heads, queries = self.kv_heads or self.heads, self.queries or self.length
        tokens = [(self.heads, queries), *[(kv_heads, self.length)] * 2]
        return [(self.batch, heads, n, self.head_dim) for heads, n in tokens]

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Standard normal q, k, v."""
        dtype = getattr(torch, self.dtype)
        return tuple(torch.randn(s, device=DEVICE, dtype=dtype) for s in self.sizes())

    def bytes(self) -> int:
        """q, k and v read once, o written once."""
        q, k, v = self.sizes()
        elements = sum(torch.Size(size).numel() for size in (q, k, v, q))
        return elements * getattr(torch, self.dtype).itemsize

    def flops(self) -> float:
        """4·d a visible pair and head; a plain causal mask counts half of all pairs."""
        queries = self.queries or self.length
        pairs = queries * self.length
        if self.is_causal and (self.window_size or self.queries):
            seen = torch.arange(self.length - queries, self.length) + 1
            near = seen.clamp(max=self.window_size or self.length)
            pairs = (near + (seen - near).clamp(max=self.sink_size or 0)).sum().item()
        elif self.is_causal:
            pairs /= 2
        return 4 * self.head_dim * pairs * self.heads * self.batch

    def columns(self) -> dict:
        """The row of a result file, as far as the shape goes."""
        row = {"direction": "forward"} | asdict(self)
        row["kv_heads"] = self.kv_heads or self.heads
        row["queries"] = self.queries or self.length
        return row


def checked(shape: Shape) -> tuple:
    """The part of an output that is checked: the last queries of one head.

    It is head 1 of the last sequence, if there are two: with grouped queries, another
    K/V head than its own is then seen.
    """
    head = min(1, shape.heads - 1)
    return slice(-1, None), slice(head, head + 1), slice(-CHECKED_QUERIES, None)


def expected_part(inputs: tuple, shape: Shape, **options) -> torch.Tensor:
    """What the checked part of the output should be, in float32."""
    q, k, v = inputs
    part = checked(shape)
    kv_head = part[1].start * k.shape[1] // q.shape[1]
    kv = (slice(-1, None), slice(kv_head, kv_head + 1))
    per_head = {
        name: value[part[1]] if isinstance(value, torch.Tensor) else value
        for name, value in options.items()
    }
    return reference_attention(
        q[part].float(), k[kv].float(), v[kv].float(),
        shape.is_causal, shape.window_size, shape.sink_size, **per_head,
    )  # fmt: skip


def why_it_fails(
    function: Callable, inputs: tuple, shape: Shape, expected: torch.Tensor
) -> str | None:
    """The reason in a line, or None if the function runs and is right."""
    with warnings.catch_warnings(record=True) as said:  # PyTorch's reasons are warnings
        warnings.simplefilter("always")
        try:
            o = function(*inputs)[checked(shape)]
            error = (o.float() - expected).abs().max().item()
        except Exception as failure:
            if inputs[0].is_cuda:
                torch.cuda.synchronize()  # a card broken by it ends the run here
            reasons = [failure, *(warning.message for warning in said)]
            text = "; ".join(str(reason) or repr(reason) for reason in reasons)
            return textwrap.shorten(text, 300)
    allowed = ALLOWED_ERROR[shape.dtype]
    return None if error < allowed else f"wrong by {error:.2g}; {allowed} is allowed"


def check_each(
    functions: dict[str, Callable], inputs: tuple, shape: Shape, say: Callable,
    **options,
) -> tuple[dict[str, dict], dict[str, Callable]]:  # fmt: skip
    """Columns without a time for each function, and calls of those that are right."""
    expected = expected_part(inputs, shape, **options)
    columns, right = {}, {}
    for name, function in functions.items():
        say(name)
        columns[name] = {"ms": None, "spread": None, "tflops": None}
        reason = why_it_fails(function, inputs, shape, expected)
        if reason is None:
            right[name] = partial(function, *inputs)
        else:
            columns[name]["error"] = reason
    return columns, right


def timed(samples: list[float], shape: Shape) -> dict:
    """Columns of a function that was timed."""
    row = summarise(samples)
    return row | {"tflops": round(shape.flops() / row["ms"] / 1e9, 2)}


def attention_rows(
    functions: dict[str, Callable],
    shape: Shape,
    say: Callable[[str], object] = lambda name: None,
    **options,
) -> list[dict]:
    """One row for each function of (q, k, v), timed in turn on the same inputs.

    ``options`` (sinks, softcap, alibi_slopes) are what the functions compute besides.
    A function that fails or is wrong is named, with ``ms`` None and its ``error``.
    ``say`` is told the name of the function at work.
    """
    inputs = shape.inputs()
    columns, right = check_each(functions, inputs, shape, say, **options)
    for name, samples in time_in_turn(right, say).items():
        columns[name] = timed(samples, shape)
        columns[name]["peak_bytes"] = peak_bytes(right[name])
    return [{"kernel": name, **shape.columns(), **columns[name]} for name in functions]
