"""The classic mistakes in an attention kernel, each as a plain PyTorch model.

A model computes what attention with one mistake in it would give, for one head: q
(N_q, d), k and v (N_k, d), float32. ``diagnosis`` compares a wrong output with
all of them. What a mistake does often depends on the kernel's block sizes, which nobody
tells us, so those models are tried with each of a few plausible ones.
"""

import math
from collections.abc import Iterator
from itertools import product

import torch

from kernels.grader.head_mistakes import other_heads
from kernels.grader.key_counts import (
    Head,
    boundary_mistakes,
    counting_mistakes,
    weighted,
    weighted_once,
    with_tail,
)
from kernels.grader.window_mistakes import (
    negative_keys,
    part_mistakes,
    window_mistakes,
)

BLOCKS = (16, 32, 64, 128)
LOG2_E = math.log2(math.e)


def true_lse(head: Head) -> torch.Tensor:
    return head.scores.masked_fill(~head.visible, -math.inf).logsumexp(1)


def online(head, block_n, x, y, acc_alpha=1.0, l_alpha=1.0, dtype=torch.float32):
    """The loop over blocks of keys, p = 2^(x − m) with m the running maximum of y.

    x and y (N_q, N_k) should both be the scores in base 2; ``acc_alpha`` and
    ``l_alpha`` are the powers of alpha that acc and l are multiplied by (1 is right, 0
    forgets it); p is rounded to ``dtype`` before it meets V. Where numbers overflow
    the output is infinite.
    """
    m = torch.full_like(x[:, 0], -math.inf)
    l, acc = torch.zeros_like(m), torch.zeros_like(head.q)
    for start_n in range(0, x.shape[1], block_n):
        keys = slice(start_n, start_n + block_n)
        seen = head.visible[:, keys]
        y_block = y[:, keys].masked_fill(~seen, -math.inf)
        m_new = torch.maximum(m, y_block.amax(1))
        shift = m_new.masked_fill(m_new == -math.inf, 0.0)
        p = torch.exp2(x[:, keys] - shift[:, None]).masked_fill(~seen, 0.0)
        alpha = torch.exp2(m - shift)
        l = l * alpha**l_alpha + p.sum(1)
        acc = acc * alpha[:, None] ** acc_alpha + p.to(dtype).float() @ head.v[keys]
        m = m_new
    return (acc / l[:, None]).nan_to_num(nan=math.inf)


def plain_mistakes(head: Head) -> Iterator[tuple[str, torch.Tensor]]:
    """(cause, output) of the mistakes that do not depend on any block size."""
    q, k, v, scores, visible, *_ = head
    j, i, position = head.keys, head.rows, head.position
    if head.is_causal:
        near = head.near(j, position)
        yield "mask-strict", weighted(scores, v, near & (j < position))
        yield "mask-next", weighted(scores, v, near & (j <= position + 1))
        yield "mask-missing", weighted(scores, v, near)
        yield "mask-reversed", weighted(scores, v, near & (j >= position))
        yield "mask-start", weighted(scores, v, head.near(j, i) & (j <= i))
    else:
        yield "mask-unasked", weighted(scores, v, j <= position)
        yield "mask-unasked", weighted(scores, v, j <= i)
    root_d = math.sqrt(q.shape[1])
    yield "scale-missing", weighted(scores * root_d, v, visible)
    yield "scale-twice", weighted(scores / root_d, v, visible)
    yield "log2e-missing", weighted(scores / LOG2_E, v, visible)
    yield "log2e-extra", weighted(scores * LOG2_E, v, visible)
    swapped = q @ v.T / root_d
    yield "kv-swapped", weighted(swapped, k, visible)
    yield "v-as-k", weighted(swapped, v, visible)
    yield "k-as-v", weighted(scores, k, visible)
    top = scores.masked_fill(~visible, -math.inf).amax(1, keepdim=True)
    p = torch.exp(scores - top).masked_fill(~visible, 0.0)
    yield "not-normalised", p @ v


def loop_mistakes(head: Head, block_n: int) -> Iterator[tuple[str, torch.Tensor]]:
    """(cause, output) of the mistakes inside the loop over blocks of keys."""
    q, _, v, scores, visible, _, dtype, *_ = head
    n_queries, n_keys = scores.shape
    x = scores * LOG2_E
    yield "alpha-acc", online(head, block_n, x, x, acc_alpha=0)
    yield "alpha-l", online(head, block_n, x, x, l_alpha=0)
    yield "alpha-both", online(head, block_n, x, x, acc_alpha=0, l_alpha=0)
    for power in (LOG2_E, 1 / LOG2_E):
        yield "alpha-units", online(head, block_n, x, x, power, power)
    for rounded in (dtype, torch.float32):
        yield "max-missing", online(head, block_n, x, 0 * x, dtype=rounded)
        for other in (scores, scores * math.sqrt(q.shape[1])):
            yield "max-units", online(head, block_n, x, other, dtype=rounded)

    wrapped = torch.arange(n_keys, device=q.device) % block_n
    yield "k-not-advanced", weighted(scores[:, wrapped], v, visible)
    yield "v-not-advanced", weighted(scores, v[wrapped], visible)
    yield "kv-not-advanced", weighted(scores[:, wrapped], v[wrapped], visible)
    rows = torch.arange(n_queries, device=q.device) % block_n  # here as BLOCK_M
    yield "q-not-advanced", weighted(scores[rows], v, visible)

    scores, visible, v = with_tail(scores, visible, v, block_n, True)
    yield "tail-keys", weighted(scores, v, visible)


def output_mistakes(head: Head, inputs, batch: int, n_head: int) -> Iterator:
    """(cause, o) of every mistake, the simple ones first."""
    outputs = weighted_once(head)
    yield from plain_mistakes(head)
    if head.window_size is not None:
        yield from outputs(window_mistakes(head))
        for block_n, block_m in product(BLOCKS, BLOCKS):
            yield from outputs(part_mistakes(head, block_m, block_n))
            yield from negative_keys(head, block_m, block_n)
    for block_n in BLOCKS:
        yield from loop_mistakes(head, block_n)
        for block_m in BLOCKS:
            yield from outputs(counting_mistakes(head, block_m, block_n))
            if head.is_causal:
                yield from boundary_mistakes(head, block_m, block_n)
    j = head.keys
    for block_n in BLOCKS:  # last: with few keys, much else comes to the same
        seen = head.visible & (j < len(head.v) // block_n * block_n)
        yield "tail-dropped", weighted(head.scores, head.v, seen)
    yield from other_heads(head, inputs, batch, n_head)


def lse_mistakes(head: Head) -> Iterator:
    """(cause, lse) of the classic mistakes in the log-sum-exp alone."""
    lse = true_lse(head)
    top = head.scores.masked_fill(~head.visible, -math.inf).amax(1)
    yield "lse-base-2", lse * LOG2_E
    yield "lse-no-max", lse - top
    yield "lse-no-max", (lse - top) * LOG2_E
    yield "lse-no-sum", top
    yield "lse-no-sum", top * LOG2_E
