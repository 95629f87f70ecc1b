"""FlashAttention in plain PyTorch, block by block (chapter 03, problem 1).

    for each block of queries:              read Q_i
        for each block of keys they see:    read K_j and V_j
            S = Q_i K_jᵀ / √d               BLOCK_M × BLOCK_N scores
            state ← update(state, S, V_j)
        o, lse ← finish(state)              write O_i and lse_i

The method is Dao et al.'s (2022), the order of the loops that of FlashAttention-2 (Dao,
2023). It is here to be read and counted, not to be fast: every block that is read or
written passes through ``Traffic``.
"""

import math
from collections import Counter

import torch

from kernels.checks import check_same, check_tensor
from kernels.online_softmax import finish, identity, update

BLOCK_M = BLOCK_N = 64


class Traffic:
    """Bytes moved from memory to the chip and back, by the name of the tensor."""

    def __init__(self):
        self.loaded, self.stored = Counter(), Counter()

    def load(self, name: str, block: torch.Tensor) -> torch.Tensor:
        self.loaded[name] += block.nbytes
        return block

    def store(self, name: str, block: torch.Tensor, place: torch.Tensor) -> None:
        self.stored[name] += place.nbytes
        place.copy_(block)

    def total(self) -> int:
        return self.loaded.total() + self.stored.total()


def tiled_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    is_causal: bool = False,
    block_m: int = BLOCK_M,
    block_n: int = BLOCK_N,
    traffic: Traffic | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q Kᵀ / √d + mask) V, without ever holding an (N_q, N_k) matrix.

    Parameters
    ----------
    q : (B, H, N_q, d), any floating dtype; computed in float32, or float64.
    k, v : (B, H, N_k, d), same dtype and device.
    is_causal : query i sees the keys j ≤ i + N_k − N_q (aligned at the end).
    block_m, block_n : how many queries and how many keys make a block.
    traffic : counts the bytes read and written, if given.

    Returns
    -------
    o : (B, H, N_q, d) in q's dtype. A row that sees no key gives zeros.
    lse : (B, H, N_q), float32 or float64, natural logarithm; −inf for such a row.
    """
    check_inputs(q, k, v, block_m, block_n)
    memory = Traffic() if traffic is None else traffic
    n_queries, n_keys, head_dim = q.shape[2], k.shape[2], q.shape[3]
    dtype = torch.promote_types(q.dtype, torch.float32)
    o = torch.empty_like(q)
    lse = torch.empty(q.shape[:3], dtype=dtype, device=q.device)
    for start_m in range(0, n_queries, block_m):
        rows = slice(start_m, min(start_m + block_m, n_queries))
        q_i = memory.load("q", q[:, :, rows]).to(dtype)
        state = identity(q_i.shape[:3], head_dim, dtype, q.device)
        n_seen = n_keys
        if is_causal:  # the last query of the block sees the most
            n_seen = min(rows.stop + n_keys - n_queries, n_keys)
        for start_n in range(0, n_seen, block_n):
            columns = slice(start_n, min(start_n + block_n, n_keys))
            k_j = memory.load("k", k[:, :, columns]).to(dtype)
            v_j = memory.load("v", v[:, :, columns]).to(dtype)
            scores = q_i @ k_j.mT / math.sqrt(head_dim)
            if is_causal:
                scores = hide_future(scores, start_m + n_keys - n_queries, start_n)
            state = update(state, scores, v_j)
        o_i, lse_i = finish(state)
        memory.store("o", o_i, o[:, :, rows])
        memory.store("lse", lse_i, lse[:, :, rows])
    return o, lse


def hide_future(
    scores: torch.Tensor, first_position: int, first_key: int
) -> torch.Tensor:
    """scores (..., rows, columns) with −inf where the key comes after the query.

    Row 0 stands at ``first_position`` among the keys, and column 0 is ``first_key``.
    """
    n_rows, n_columns = scores.shape[-2:]
    position = first_position + torch.arange(n_rows, device=scores.device)
    key = first_key + torch.arange(n_columns, device=scores.device)
    return scores.masked_fill(key > position[:, None], -math.inf)


class FlashAttention2Function(torch.autograd.Function):
    """Problem 1: ``apply(q, k, v, is_causal)`` → (o, lse), as ``tiled_attention``."""

    @staticmethod
    def forward(ctx, q, k, v, is_causal=False):
        o, lse = tiled_attention(q, k, v, is_causal)
        ctx.mark_non_differentiable(lse)
        return o, lse

    @staticmethod
    def backward(ctx, grad_o, grad_lse):
        raise NotImplementedError("chapter 12 writes the backward pass")


def check_inputs(q, k, v, block_m: int, block_n: int) -> None:
    """Raise TypeError or ValueError unless the arguments fit together."""
    for name, value in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, value, ndim=4)
        check_same(name, value, "q", q)
        if not value.is_floating_point():
            raise TypeError(f"{name} is {value.dtype}; it must be a floating dtype")
    batch, n_heads, _, head_dim = q.shape
    if tuple(k.shape) != (batch, n_heads, k.shape[2], head_dim):
        raise ValueError(
            f"k has shape {tuple(k.shape)}; with q of shape {tuple(q.shape)} "
            f"it must be ({batch}, {n_heads}, any length, {head_dim})"
        )
    if v.shape != k.shape:
        raise ValueError(
            f"v has shape {tuple(v.shape)}; it must have k's, {tuple(k.shape)}"
        )
    for name, size in (("block_m", block_m), ("block_n", block_n)):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} is {size!r}; it must be an integer, 1 or more")
