"""Which keys count, and how often: mistakes in what each program goes over.

As in ``attention_mistakes``, each is a plain PyTorch model for one head: attention in
which a key may count twice, or not at all, or though it is hidden.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch


class Head(NamedTuple):
    """One head's inputs (float32), its scores q kᵀ/√d, and which keys it may see."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scores: torch.Tensor
    visible: torch.Tensor
    is_causal: bool
    dtype: torch.dtype  # of the inputs as the kernel got them


def weighted(scores, v, counts):
    """Attention in which key j counts ``counts[i, j]`` times for query i.

    A row that sees no key gives NaN.
    """
    counts = counts.to(scores.dtype)
    top = scores.masked_fill(counts == 0, -math.inf).amax(1, keepdim=True)
    p = torch.exp((scores - top).clamp(max=0)) * counts
    return p @ v / p.sum(1, keepdim=True)


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
    """(cause, output) of the mistakes in which keys each program visits."""
    _, _, v, scores, visible, *_ = head
    n_queries, n_keys = scores.shape
    j = torch.arange(n_keys, device=v.device)[None, :]
    i = torch.arange(n_queries, device=v.device)[:, None]
    # The program's queries stand at the positions first … last; its second phase starts
    # at key ``below``.
    first = i // block_m * block_m + n_keys - n_queries
    last = (first + block_m).clamp(max=n_keys) - 1
    below = (first + 1).clamp(min=0) // block_n * block_n
    counts = []
    if head.is_causal:
        on_diagonal = (j >= below) & (j <= last)
        end_early = below + whole_blocks(last - below, block_n)
        counts += [
            ("diagonal-skipped", j < below),
            ("diagonal-late", visible & ~((j >= below) & (j < below + block_n))),
            ("diagonal-short", visible & (j < first + block_m - block_n)),
            ("last-key-skipped", visible & (j < end_early)),
            ("diagonal-unmasked", j <= last),
            ("diagonal-twice", visible.int() + on_diagonal.int()),
            ("below-skipped", visible & (j >= below)),
            ("below-short", visible & ((j < below - block_n) | (j >= below))),
            ("first-block-skipped", visible & ((j >= block_n) | (j >= below))),
        ]
    else:
        last = torch.full_like(first, n_keys - 1)
    counts += [
        ("first-block-skipped", visible & (j >= block_n)),
        ("last-block-only", visible & (j >= last // block_n * block_n)),
    ]
    for cause, count in counts:
        yield cause, weighted(scores, v, count)


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
    j = torch.arange(len(v), device=v.device)[None, :]
    i = torch.arange(n_queries, device=v.device)[:, None]
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
        in_phase_1, in_phase_2 = j < whole_blocks(end, block_n), visible & (j >= start)
        yield cause, weighted(scores, v, in_phase_1.int() + in_phase_2.int())
