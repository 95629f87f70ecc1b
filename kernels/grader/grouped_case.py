"""The graded cases of problems 5 to 7: fewer K/V heads, a window, first-token sinks."""

import inspect
from dataclasses import dataclass
from functools import lru_cache

import torch

from kernels.grader.cases import AttentionCase


@lru_cache(maxsize=1)
def has_sinks_on(fn) -> bool:
    """Whether ``fn`` takes a sink_size that, left out, is neither None nor 0."""
    try:
        parameter = inspect.signature(fn).parameters.get("sink_size")
    except (TypeError, ValueError):  # some built-in callables have no signature
        return False
    return parameter is not None and parameter.default not in (None, 0)


def with_room(x: torch.Tensor, factor: int) -> torch.Tensor:
    """``x``, laid out as it is, between zeros.

    As many as its own elements lie before it, and ``factor − 1`` times as many behind.
    """
    room = torch.zeros((1 + factor) * x.numel(), dtype=x.dtype, device=x.device)
    return room[x.numel() :].as_strided(x.shape, x.stride()).copy_(x)


@dataclass(frozen=True)
class GroupedCase(AttentionCase):
    """Causal attention as models use it: k and v are (B, H_kv, N_k, d), H_kv | H.

    ``window_size`` w and ``sink_size`` s are None where the problem has none.
    ``hidden_key_counts`` makes the nearest key that the window hides from the last
    query twice that query: a kernel that counts this one key shows.
    """

    n_kv_heads: int = 1
    window_size: int | None = None
    sink_size: int | None = None
    hidden_key_counts: bool = False

    @property
    def sizes(self) -> str:
        heads = f"B={self.batch}, H_Q={self.n_heads}, H_KV={self.n_kv_heads}"
        sizes = f"{heads}, {self.length}, D={self.head_dim}"
        if self.window_size is not None:
            sizes += f", W={self.window_size}, S={self.sink_size}"
        return sizes

    @property
    def mask(self) -> dict:
        sizes = {"window_size": self.window_size, "sink_size": self.sink_size}
        return super().mask | sizes

    def inputs(self, dtype: torch.dtype, generator: torch.Generator) -> tuple:
        q, k, v = super().inputs(dtype, generator)
        if self.hidden_key_counts:
            self.follow_last_query(q, k, self.n_keys - 1 - self.window_size)
        return q, k, v

    def call(self, fn, q, k, v):
        """Call ``fn`` with the sizes that its problem has.

        The course passes sink_size=None for a window without sinks. Its solutions may
        or may not take it, so it is passed to those that would have sinks without.
        """
        sizes = {name: size for name, size in self.mask.items() if size is not None}
        if self.window_size is not None and self.sink_size is None and has_sinks_on(fn):
            sizes["sink_size"] = None
        return fn(q, k, v, **sizes)

    def guarded(self, q, k, v) -> tuple:
        """Zeros lie around k and v, for a kernel that reads keys before the first, or
        heads past the last.
        """
        group = self.n_heads // self.n_kv_heads
        return q, with_room(k, group), with_room(v, group)
