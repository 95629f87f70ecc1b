"""Check, time and weigh attention functions on one shape: rows of a result file."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from kernels.benchmark import peak_bytes, summarise, time_in_turn
from kernels.reference import reference_attention

CHECKED_QUERIES = 16384  # the last of a head; the reference needs room for their scores
ALLOWED_ERROR = 2e-2  # of bfloat16 outputs of standard normal inputs


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

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Standard normal q, k, v in bfloat16."""
        kv_heads, queries = self.kv_heads or self.heads, self.queries or self.length
        shapes = [(self.heads, queries), *[(kv_heads, self.length)] * 2]
        return tuple(
            torch.randn(
                self.batch, heads, n, self.head_dim, device="cuda", dtype=torch.bfloat16
            )
            for heads, n in shapes
        )

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
        row = {"direction": "forward"} | asdict(self) | {"dtype": "bfloat16"}
        row["kv_heads"] = self.kv_heads or self.heads
        row["queries"] = self.queries or self.length
        return row


def error_of(function: Callable, q, k, v, shape: Shape, **options) -> float:
    """The largest error of one head of the last sequence, over its last queries.

    It is head 1: with grouped queries, another K/V head than its own is then seen.
    """
    head, kv_head = 1, k.shape[1] // q.shape[1]  # 1 // (H / H_kv): 1 without groups
    one = (slice(-1, None), slice(head, head + 1), slice(-CHECKED_QUERIES, None))
    kv = (slice(-1, None), slice(kv_head, kv_head + 1))
    per_head = {
        name: value[one[1]] if isinstance(value, torch.Tensor) else value
        for name, value in options.items()
    }
    expected = reference_attention(
        q[one].float(), k[kv].float(), v[kv].float(),
        shape.is_causal, shape.window_size, shape.sink_size, **per_head,
    )  # fmt: skip
    return (function(q, k, v)[one].float() - expected).abs().max().item()


def attention_rows(functions: dict[str, Callable], shape: Shape, **options) -> list:
    """One row for each function of (q, k, v), timed in turn on the same inputs.

    ``options`` (sinks, softcap, alibi_slopes) are what the functions compute besides.
    A function that fails or is wrong is named, with ``ms`` None and its ``error``.
    """
    inputs = shape.inputs()
    rows, right = [], {}
    for name, function in functions.items():
        try:
            error = error_of(function, *inputs, shape, **options)
            if not error < ALLOWED_ERROR:
                raise ArithmeticError(f"wrong by {error}")
            right[name] = lambda function=function: function(*inputs)
        except (RuntimeError, ArithmeticError) as failure:
            failed = {"ms": None, "error": str(failure)}
            rows.append({"kernel": name, **shape.columns(), **failed})
    for name, samples in time_in_turn(right).items():
        row = {"kernel": name, **shape.columns(), **summarise(samples)}
        row["tflops"] = round(shape.flops() / row["ms"] / 1e9, 2)
        row["peak_bytes"] = peak_bytes(right[name])
        rows.append(row)
    return rows
