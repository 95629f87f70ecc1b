"""Mistakes in which head is read: of K and V for a group of queries, or of anything.

As in ``attention_mistakes``, each is a plain PyTorch model.
"""

import math
from collections.abc import Iterator

import torch

from kernels.grader.key_counts import Head, weighted
from kernels.reference import attention_mask


def group_mistakes(case, inputs: tuple, batch: int):
    """The right answer for all heads of a batch, and (cause, o) of each mistake.

    Both are (H · N_q, d). With fewer heads of K and V than of queries, a wrong index
    may lead to the next batch's heads, and from there to the zeros that
    ``case.guarded`` puts behind them all.
    """
    q, k, v = (x.float() for x in inputs)
    n_heads, n_kv_heads = q.shape[1], k.shape[1]
    group = n_heads // n_kv_heads
    visible = attention_mask(q.shape[2], k.shape[2], **case.mask, device=q.device)
    # All heads of K and V in a row, and zeros behind.
    room = (0, 0, 0, 0, 0, n_heads)
    k, v = (torch.nn.functional.pad(x.flatten(0, 1), room) for x in (k, v))

    def attention(k_head, v_head) -> torch.Tensor:
        """o where query head h reads the heads k_head(h) and v_head(h)."""
        start = batch * n_kv_heads
        heads = [
            weighted(
                q[batch, h] @ k[start + k_head(h)].T / math.sqrt(q.shape[3]),
                v[start + v_head(h)],
                visible,
            )
            for h in range(n_heads)
        ]
        return torch.cat(heads)

    def right(h: int) -> int:
        return h // group

    wrong = {
        "group-undivided": lambda h: h,
        "group-transposed": lambda h: h % n_kv_heads,
        "group-count": lambda h: h // n_kv_heads,
        "group-remainder": lambda h: h % group,
        "group-first": lambda h: 0,
    }

    def predictions() -> Iterator[tuple[str, torch.Tensor]]:
        for cause, index in wrong.items():
            yield cause, attention(index, index)
        for index in wrong.values():
            yield "group-one-sided", attention(right, index)
            yield "group-one-sided", attention(index, right)

    return attention(right, right), predictions()


def other_heads(head: Head, inputs: tuple, batch: int, n_head: int) -> Iterator:
    """(cause, o) where another head or batch is read, or its output stored here."""
    q, k, v = inputs
    group = q.shape[1] // k.shape[1]
    root_d = math.sqrt(q.shape[3])
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            if (b, h) == (batch, n_head):
                continue
            k_head, v_head = k[b, h // group].float(), v[b, h // group].float()
            scores = head.q @ k_head.T / root_d
            yield "other-kv-head", weighted(scores, v_head, head.visible)
            scores = q[b, h].float() @ k_head.T / root_d
            yield "other-head", weighted(scores, v_head, head.visible)
