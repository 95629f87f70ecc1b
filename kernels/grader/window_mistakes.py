"""Mistakes in the window and the sinks: which keys count, and how often.

As in ``key_counts``, each says how often every key counts for every query of one head.
"""

from collections.abc import Iterator

import torch

from kernels.grader.key_counts import Head, weighted, whole_blocks


def window_mistakes(head: Head) -> Iterator[tuple[str, torch.Tensor]]:
    """(cause, counts) of the mistakes that do not depend on any block size."""
    w, s = head.window_size, head.sink_size or 0
    j, i, position = head.keys, head.rows, head.position
    is_past, is_sink = j <= position, j < s
    is_near = is_past & (j > position - w)
    yield from [
        ("window-missing", is_past),
        ("window-wide", is_past & (is_sink | (j > position - w - 1))),
        ("window-narrow", is_past & (is_sink | (j > position - w + 1))),
        ("window-reversed", is_past & (is_sink | (j <= position - w))),
        ("window-rows", is_past & (is_sink | (j > i - w))),
    ]
    if s:
        yield from [
            ("sink-missing", is_near),
            ("sink-fewer", is_near | (is_past & (j < s - 1))),
            ("sink-more", is_near | (is_past & (j < s + 1))),
            ("sink-future", is_near | is_sink),
            ("sink-twice", is_near.int() + (is_past & is_sink).int()),
        ]


def part_mistakes(
    head: Head, block_m: int, block_n: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """(cause, counts) of the mistakes in the parts that each program goes over.

    The parts of the keys are those of chapter 08: [0, sinks) and [left, whole), masked,
    [whole, below), where every query of the program sees all keys, and the diagonal
    from ``below`` on, masked.
    """
    w, s = head.window_size, head.sink_size or 0
    j, i, position, visible = head.keys, head.rows, head.position, head.visible
    # The program's queries stand at the positions first … last.
    first = i // block_m * block_m + len(head.k) - len(head.q)
    last = (first + block_m).clamp(max=len(head.k)) - 1
    below = (first + 1).clamp(min=0) // block_n * block_n
    start, last_start = ((x + 1 - w).clamp(min=0) for x in (first, last))
    left, start_up = start // block_n * block_n, whole_blocks(start, block_n)
    last_left = last_start // block_n * block_n
    left_end = whole_blocks(last_start, block_n)
    whole = torch.minimum(left_end, below)
    in_left = (j >= left) & (j < whole)
    in_middle = (j >= whole) & (j < below)
    on_diagonal = (j >= below) & (j <= last)
    overlap = visible & on_diagonal & (j < left_end)
    is_past, is_sink = j <= position, j < s
    is_far = j <= position - w
    yield from [
        ("diagonal-unwindowed", visible | (is_past & on_diagonal)),
        ("window-reversed", in_middle | (is_past & (j >= left) & (is_far | is_sink))),
        ("window-first-row", is_past & ((j > first - w) | is_sink)),
        ("edge-skipped", visible & ~in_left),
        ("edge-skipped", is_past & ((j > last - w) | is_sink)),
        ("edge-skipped", visible & ((j >= last_left) | is_sink)),
        ("edge-rounded-up", visible & ((j >= start_up) | is_sink)),
        ("edge-unmasked", visible | in_left),
        ("edge-twice", visible.int() + in_left.int()),
        ("edge-past-diagonal", visible.int() + overlap.int()),
        ("middle-skipped", visible & ~in_middle),
        ("middle-twice", visible.int() + in_middle.int()),
    ]
    off_by_one = whole_blocks((last_start - 1).clamp(min=0), block_n)
    for early in (start_up, last_left, off_by_one):
        yield "middle-early", visible | ((j >= early) & (j < below))
    if s:
        yield from sink_part_mistakes(head, block_n, left, in_middle)


def sink_part_mistakes(head: Head, block_n: int, left, in_middle) -> list:
    """(cause, counts) of the mistakes in the sinks' part, given the others."""
    j, position, visible = head.keys, head.position, head.visible
    is_past, is_sink = j <= position, j < head.sink_size
    is_near = is_past & (j > position - head.window_size)
    sink_blocks = j < whole_blocks(head.sink_size, block_n)
    return [
        ("sink-skipped", visible & (j >= left)),
        ("sink-short", visible & ((j < block_n) | (j >= left))),
        ("sink-hidden", is_near | (is_past & is_sink & (j < left))),
        ("sink-unmasked", visible | (sink_blocks & (j < left))),
        ("sink-twice", visible.int() + (visible & is_sink & (j >= left)).int()),
        ("sink-twice", visible.int() + (visible & sink_blocks & (j >= left)).int()),
        ("sink-and", in_middle | (is_near & is_sink)),
    ]


def negative_keys(
    head: Head, block_m: int, block_n: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """(cause, output) where a part starts before key 0, and finds zeros there."""
    w, position = head.window_size, head.position
    pad = torch.nn.functional.pad
    scores, v = pad(head.scores, (w, 0)), pad(head.v, (0, 0, w, 0))
    visible = pad(head.visible, (w, 0))
    j = torch.arange(-w, len(head.k), device=v.device)[None, :]
    first = head.rows // block_m * block_m + len(head.k) - len(head.q)
    last = (first + block_m).clamp(max=len(head.k)) - 1

    def rounded(start):  # as Triton divides: towards zero
        return torch.div(start, block_n, rounding_mode="trunc") * block_n

    left, whole = rounded(first + 1 - w), rounded(last + block_n - w)
    for before in ((j >= left) & head.near(j, position), j >= whole):
        yield "edge-negative", weighted(scores, v, visible | (before & (j < 0)))
