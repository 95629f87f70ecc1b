"""Attention in plain PyTorch: the specification that every kernel is tested against.

    O = softmax(Q Kᵀ / √d + mask) V        (Vaswani et al., 2017)

``reference_attention`` covers all that the book's kernels do, in any floating dtype up
to float64. ``naive_attention`` is the textbook's three steps, kept apart because its
time and memory are what the kernels are measured against.
"""

import math

import torch

from kernels.checks import check_mask


def attention_mask(
    n_queries: int,
    n_keys: int,
    is_causal: bool = False,
    window_size: int | None = None,
    sink_size: int | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Which key each query sees: a bool tensor (n_queries, n_keys), True = visible.

    Causal masks are aligned at the end: query i stands at position
    p = i + n_keys − n_queries among the keys and sees j ≤ p. A window of w keeps
    p − w < j; the first ``sink_size`` keys stay visible whatever the window is.

    Raises ValueError for a window without causality, sinks without a window, and
    sizes out of range, TypeError for sizes that are no int.
    """
    check_mask(is_causal, window_size, sink_size)
    position = torch.arange(n_queries, device=device)[:, None] + n_keys - n_queries
    key = torch.arange(n_keys, device=device)[None, :]
    if not is_causal:
        return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    visible = key <= position
    if window_size is not None:
        near = key > position - window_size
        visible &= near if sink_size is None else near | (key < sink_size)
    return visible


def reference_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    is_causal: bool = False,
    window_size: int | None = None,
    sink_size: int | None = None,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
    alibi_slopes: torch.Tensor | None = None,
    return_lse: bool = False,
):
    """softmax(Q Kᵀ / √d) V with every option of the book.

    Parameters
    ----------
    q : (B, H, N_q, d), any floating dtype.
    k, v : (B, H_kv, N_k, d); H_kv divides H, and query head h reads K/V head
        h // (H / H_kv).
    is_causal, window_size, sink_size : see ``attention_mask``.
    sinks : (H,), one learned logit a head: a term of the denominator, with no
        value, neither scaled nor capped.
    softcap : c turns each score s into c·tanh(s / c).
    alibi_slopes : (H,), then taken from each score times the distance |p − j|.
    return_lse : also return the log-sum-exp of each row.

    Returns
    -------
    o : (B, H, N_q, d) in q's dtype. A row that sees no key gives zeros.
    lse : (B, H, N_q), natural logarithm, in float32 (float64 for float64 inputs).
        A row that sees no key gives −inf, or its sink's logit.

    Products are taken in q's dtype and the softmax in float32 or better.
    """
    n_heads, n_kv_heads = q.shape[1], k.shape[1]
    if n_heads % n_kv_heads:
        raise ValueError(
            f"k has {n_kv_heads} heads, which do not divide q's {n_heads} heads"
        )
    k = k.repeat_interleave(n_heads // n_kv_heads, dim=1)
    v = v.repeat_interleave(n_heads // n_kv_heads, dim=1)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores.to(torch.promote_types(q.dtype, torch.float32))
    n_queries, n_keys = scores.shape[-2:]
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi_slopes is not None:
        position = torch.arange(n_queries, device=q.device) + n_keys - n_queries
        distance = position[:, None] - torch.arange(n_keys, device=q.device)
        scores = scores - alibi_slopes.to(scores.dtype)[:, None, None] * distance.abs()
    visible = attention_mask(
        n_queries, n_keys, is_causal, window_size, sink_size, q.device
    )
    scores = scores.masked_fill(~visible, -math.inf)
    lse = torch.logsumexp(scores, dim=-1)
    if sinks is not None:
        lse = torch.logaddexp(lse, sinks.to(lse.dtype)[:, None])
    # exp(−inf − 0) = 0: a row that sees nothing gets zero weights, not NaN.
    shift = lse.masked_fill(lse == -math.inf, 0.0)
    weights = torch.exp(scores - shift[..., None])
    o = weights.to(v.dtype) @ v
    return (o, lse) if return_lse else o


def naive_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    is_causal: bool = False,
    window_size: int | None = None,
    sink_size: int | None = None,
) -> torch.Tensor:
    """The three textbook steps, each a pass over an (N_q, N_k) matrix in memory.

    q (B, H, N_q, d) and k, v (B, H_kv, N_k, d) of one dtype, where H_kv divides H;
    returns (B, H, N_q, d) in it. Grouped heads of K and V are copied out first.
    ``window_size`` and ``sink_size``: see ``attention_mask``.
    """
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if is_causal:
        visible = attention_mask(
            q.shape[2], k.shape[2], True, window_size, sink_size, q.device
        )
        scores.masked_fill_(~visible, -math.inf)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return weights @ v
