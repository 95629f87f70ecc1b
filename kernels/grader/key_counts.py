"""Which keys count, and how often: mistakes in what each program goes over.

As in ``attention_mistakes``, each is a plain PyTorch model for one head: attention in
which a key may count twice, or not at all, or though it is hidden.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from kernels.reference import attention_mask


class Head(NamedTuple):
    """One head's inputs (float32), its scores q kᵀ/√d, and which keys it may see."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scores: torch.Tensor
    visible: torch.Tensor
    is_causal: bool
    dtype: torch.dtype  # of the inputs as the kernel got them
    window_size: int | None = None
    sink_size: int | None = None

    @property
    def keys(self) -> torch.Tensor:
        return torch.arange(len(self.k), device=self.k.device)[None, :]

    @property
    def rows(self) -> torch.Tensor:
        return torch.arange(len(self.q), device=self.q.device)[:, None]

    @property
    def position(self) -> torch.Tensor:
        """Where each query stands among the keys (N_q, 1)."""
        return self.rows + len(self.k) - len(self.q)

    def near(self, j, position) -> torch.Tensor:
        """Whether window or sinks allow key j for a query at ``position``."""
        if self.window_size is None:
            return (j >= 0) | (position < 0)
        return (j > position - self.window_size) | (j < (self.sink_size or 0))


def head_of(case, inputs: tuple, batch: int, n_head: int) -> Head:
    """A query head of ``inputs`` with its own head of K and V."""
    group = inputs[0].shape[1] // inputs[1].shape[1]
    heads = (n_head, n_head // group, n_head // group)
    q, k, v = (x[batch, h].float() for x, h in zip(inputs, heads, strict=True))
    visible = attention_mask(len(q), len(k), **case.mask, device=q.device)
    mask = {"window_size": None, "sink_size": None} | case.mask
    scores = q @ k.T / math.sqrt(q.shape[1])
    return Head(q, k, v, scores, visible, dtype=inputs[0].dtype, **mask)


def weighted(scores, v, counts):
    """Attention in which key j counts ``counts[i, j]`` times for query i.

    A row that sees no key gives NaN.
    """
    counts = counts.to(scores.dtype)
    top = scores.masked_fill(counts == 0, -math.inf).amax(1, keepdim=True)
    p = torch.exp((scores - top).clamp(max=0)) * counts
    return p @ v / p.sum(1, keepdim=True)


def weighted_once(head: Head) -> Callable:
    """Outputs from mistakes in the counts: (cause, counts) become (cause, output).

    Counts that have been there before, under whatever cause, are left out: block sizes
    often make no difference.
    """
    generator = torch.Generator().manual_seed(0)
    rows, columns = (
        torch.rand(n, dtype=torch.float64, generator=generator).to(head.q.device)
        for n in head.scores.shape
    )
    known = set()

    def outputs(mistakes: Iterator) -> Iterator[tuple[str, torch.Tensor]]:
        for cause, counts in mistakes:
            signature = (rows @ counts.double() @ columns).item()
            if signature not in known:
                known.add(signature)
                yield cause, weighted(head.scores, head.v, counts)

    return outputs


def with_tail(scores, visible, v, block_n: int, is_seen: bool):
    """The three with zeros up to a whole block of keys, visible if ``is_seen``."""
    n_zeros = -len(v) % block_n
    pad = torch.nn.functional.pad
    return (
        pad(scores, (0, n_zeros)),
        pad(visible, (0, n_zeros), value=is_seen),
        pad(v, (0, 0, 0, n_zeros)),
    )


def whole_blocks(n_keys, block_n: int):
    """How many keys a loop over ``n_keys`` of them in blocks really takes."""
    return -(-n_keys // block_n) * block_n


def counting_mistakes(
    head: Head, block_m: int, block_n: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """(cause, counts) of the mistakes in which keys each program visits."""
    n_queries, n_keys = head.scores.shape
    j, i, visible = head.keys, head.rows, head.visible
    # The program's queries stand at the positions first … last; its second phase starts
    # at key ``below``.
    first = i // block_m * block_m + n_keys - n_queries
    last = (first + block_m).clamp(max=n_keys) - 1
    below = (first + 1).clamp(min=0) // block_n * block_n
    if head.is_causal:
        on_diagonal = (j >= below) & (j <= last)
        end_early = below + whole_blocks(last - below, block_n)
        yield from [
            ("diagonal-skipped", visible & (j < below)),
            ("diagonal-late", visible & ~((j >= below) & (j < below + block_n))),
            ("diagonal-short", visible & (j < first + block_m - block_n)),
            ("last-key-skipped", visible & (j < end_early)),
            ("diagonal-unmasked", visible | on_diagonal),
            ("diagonal-twice", visible.int() + on_diagonal.int()),
            ("below-skipped", visible & (j >= below)),
            ("below-short", visible & ((j < below - block_n) | (j >= below))),
            ("first-block-skipped", visible & ((j >= block_n) | (j >= below))),
        ]
    else:
        last = torch.full_like(first, n_keys - 1)
    yield "first-block-skipped", visible & (j >= block_n)
    yield "last-block-only", visible & (j >= last // block_n * block_n)


def boundary_mistakes(
    head: Head, block_m: int, block_n: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """(cause, output) of two phases that do not meet on a whole block.

    The first phase takes the blocks from key 0 on, unmasked, until it has reached
    ``end``, past the last key if need be; the second, masked, starts at ``start``.
    """
    _, _, v, scores, visible, *_ = head
    n_queries, n_keys = scores.shape
    scores, visible, v = with_tail(scores, visible, v, block_n, False)
    j, i = torch.arange(len(v), device=v.device)[None, :], head.rows
    near = head.near(j, head.position)
    first = (i // block_m * block_m + n_keys - n_queries).clamp(min=0)
    below = (first + 1) // block_n * block_n
    above = whole_blocks(first + 1, block_n)
    for cause, end, start in (
        ("below-rounded-up", above, above),
        ("below-unrounded", first, first),
        ("below-unrounded", first + 1, first + 1),
        ("below-unrounded", first, below),
        ("below-unrounded", first + 1, below),
        ("below-twice", below, 0),
    ):
        in_phase_1 = near & (j < whole_blocks(end, block_n))
        in_phase_2 = visible & (j >= start)
        yield cause, weighted(scores, v, in_phase_1.int() + in_phase_2.int())
