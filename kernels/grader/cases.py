"""A graded case: one call of a learner's function, its inputs and its right answer.

Each class makes the inputs of one kind of problem, makes the call, and knows two right
answers: the series' own in the inputs' dtype (``expected``) and float64's (``exact``).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from kernels.device import DEVICE
from kernels.reference import naive_attention, reference_attention


def draw(shape: tuple, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Standard normal values from ``generator``, on the device of the kernels."""
    x = torch.randn(shape, dtype=dtype, device=generator.device, generator=generator)
    return x.to(DEVICE)


@dataclass(frozen=True)
class AttentionCase:
    """Attention on q (B, H, N_q, d) and k, v (B, H, N_k, d); the answer is o.

    ``layout`` says how the inputs lie in memory: "plain" (contiguous), "projected"
    (stored as (B, N, H, d)), "columns" (stored as (B, H, d, N)), "mixed" (each another
    way), or "shared" (one q for all heads, stride 0). A kernel that ignores a stride
    reads wrong values in these, but never memory outside the tensor.
    ``large_logits`` adds to the scores of a row a constant from −512 to 512.
    ``own_key_counts`` makes the last key twice the last query, whose output it then
    dominates: a kernel that misses this one key shows.
    """

    batch: int
    n_heads: int
    n_queries: int
    n_keys: int
    head_dim: int
    is_causal: bool
    layout: str = "plain"
    large_logits: bool = False
    own_key_counts: bool = False

    input_names: ClassVar = ("q", "k", "v")
    output_names: ClassVar = ("o",)
    axes: ClassVar = ("batch", "head", "row", "column")

    def __str__(self) -> str:
        layout = "" if self.layout == "plain" else f", layout={self.layout}"
        return f"{self.sizes}{layout}"

    @property
    def sizes(self) -> str:
        heads = f"B={self.batch}, H={self.n_heads}"
        return f"{heads}, {self.length}, D={self.head_dim}"

    @property
    def length(self) -> str:
        if self.n_queries == self.n_keys:
            return f"L={self.n_queries}"
        return f"N_q={self.n_queries}, N_k={self.n_keys}"

    @property
    def n_kv_heads(self) -> int:
        return self.n_heads

    @property
    def config(self) -> str:
        return f"{AttentionCase.__str__(self)}, Causal={self.is_causal}"

    def inputs(self, dtype: torch.dtype, generator: torch.Generator) -> tuple:
        q_shape = (self.batch, self.n_heads, self.n_queries, self.head_dim)
        kv_shape = (self.batch, self.n_kv_heads, self.n_keys, self.head_dim)
        q, k, v = (draw(s, dtype, generator) for s in (q_shape, kv_shape, kv_shape))
        if self.large_logits:
            # Column 0 alone adds q·k/√d = 512·r, with r from −1 to 1 down the rows.
            ramp = torch.linspace(-1, 1, self.n_queries, device=DEVICE)
            q[..., 0] = (16 * math.sqrt(self.head_dim) * ramp).to(dtype)
            k[..., 0] = 32
        if self.own_key_counts:
            self.follow_last_query(q, k, self.n_keys - 1)
        return self.laid_out(q, k, v)

    def follow_last_query(self, q, k, key: int) -> None:
        """Make ``key`` twice the last query, of the first head that reads it."""
        group = self.n_heads // self.n_kv_heads
        k[..., key, :] = 2 * q[:, ::group, -1, :]

    def laid_out(self, q, k, v) -> tuple:
        def projected(x):
            return x.transpose(1, 2).contiguous().transpose(1, 2)

        def columns(x):
            return x.transpose(2, 3).contiguous().transpose(2, 3)

        match self.layout:
            case "projected":
                return projected(q), projected(k), projected(v)
            case "columns":
                return columns(q), columns(k), columns(v)
            case "mixed":
                return q, projected(k), columns(v)
            case "shared":
                return q[:, :1].expand(q.shape), k, v
        return q, k, v

    @property
    def mask(self) -> dict:
        """What says which key each query sees, by argument of the reference."""
        return {"is_causal": self.is_causal}

    def call(self, fn, q, k, v):
        return fn(q, k, v, **self.mask)

    def guarded(self, *inputs) -> tuple:
        """The inputs as a solution gets them."""
        return inputs

    def peer(self, q, k, v):
        """What the solution is timed against: the textbook's three steps."""
        return naive_attention(q, k, v, **self.mask)

    def expected(self, q, k, v) -> tuple:
        """The series' answer: naive attention in the inputs' dtype."""
        return (self.peer(q, k, v),)

    def exact(self, q, k, v) -> tuple:
        """The answer in float64; head by head, for want of room for all scores."""
        group = q.shape[1] // k.shape[1]
        heads = []
        for h in range(q.shape[1]):
            kv = h // group
            wide = (x.double() for x in (q[:, [h]], k[:, [kv]], v[:, [kv]]))
            heads.append(reference_attention(*wide, **self.mask, return_lse=True))
        outputs = tuple(torch.cat(parts, dim=1) for parts in zip(*heads, strict=True))
        return outputs[: len(self.output_names)]


class TiledCase(AttentionCase):
    """Problem 1 also returns lse, the natural log-sum-exp of each row (B, H, N_q)."""

    output_names: ClassVar = ("o", "lse")

    def __str__(self) -> str:
        return self.config

    def call(self, fn, q, k, v):
        return fn(q, k, v, self.is_causal)

    def expected(self, q, k, v) -> tuple:
        _, lse = reference_attention(
            q.float(), k.float(), v.float(), self.is_causal, return_lse=True
        )
        return self.peer(q, k, v), lse
