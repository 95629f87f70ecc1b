"""The public call: check the arguments, choose a kernel, launch it."""

from collections.abc import Callable

import torch

from kernels import fast_attention, hopper
from kernels.checks import check_attention, check_mask, check_per_head, check_softcap
from kernels.device import capability
from kernels.hopper_top import hopper_attention
from kernels.model_attention import model_attention


def plain_kernel(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window_size: int | None = None
) -> Callable:
    """The fastest kernel for attention with no options but a window and its sinks.

    Chapter 11's on Hopper. For what that one does not serve there, and on later cards,
    chapter 10's, which knows no window. Else that of chapters 07 to 09; so too for a
    few queries of grouped heads, which that one packs into one tile.
    """
    n_queries = q.shape[2]
    if q.shape[1] > k.shape[1] and n_queries < 64:
        return model_attention
    if capability() == (9, 0) and n_queries >= 128 and hopper.serves(q, k, v):
        return hopper_attention
    has_window = window_size is not None
    if capability() >= (9, 0) and not has_window and fast_attention.serves(q, k, v):
        return fast_attention.fast_attention
    return model_attention


def flash_attention_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    is_causal: bool = True,
    window_size: int | None = None,
    sink_size: int | None = None,
    *,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
    alibi_slopes: torch.Tensor | None = None,
    return_lse: bool = False,
):
    """Attention by the book's kernel: softmax(Q Kᵀ / √d + mask) V.

    Parameters
    ----------
    q : (B, H, N_q, d), float16, bfloat16 (not under the interpreter) or float32, on
        ``kernels.DEVICE``, with any strides. d is 16 to 256; any length from 1 up.
    k, v : (B, H_kv, N_k, d), same dtype and device. H_kv divides H: query head h reads
        K/V head h // (H / H_kv).
    is_causal : the query at position p = i + N_k − N_q sees the keys j ≤ p (aligned
        at the end).
    window_size : w, at least 1: of these it sees only the last w, p − w < j.
    sink_size : s, with a window: it sees the first s keys as well, j < s and j ≤ p;
        up to 2³⁰.
    sinks : (H,), any floating dtype: a learned logit a head, one more term exp(sink)
        of the denominator, neither scaled nor capped; it has no value.
    softcap : c, up to 1000, turns each score s = q·k/√d into c·tanh(s / c).
    alibi_slopes : (H,), any floating dtype: slope·|p − j| is then taken from it.
    return_lse : also return the log-sum-exp of each row's scores.

    Returns
    -------
    o : (B, H, N_q, d) in q's dtype. A row that sees no key gives zeros.
    lse : (B, H, N_q), float32, natural logarithm; −inf for a row that sees no key,
        or its sink if it has one.

    Raises
    ------
    TypeError, ValueError : naming the argument, what was given and what is allowed.

    The first call with new shapes or dtypes compiles a kernel, or makes a table of its
    tiles, which is kept: make it before you capture a CUDA graph.

    In bfloat16 chapter 11's kernel takes up to twice as long if a row's largest score
    exceeds those of its last one or two blocks of 128 keys by more than about 44. It
    relies on values of v up to 2⁶²; larger ones may make the output infinite.
    """
    check_attention(q, k, v)
    check_mask(is_causal, window_size, sink_size)
    if sinks is not None:
        check_per_head("sinks", sinks, q)
        sinks = sinks.contiguous()
    if alibi_slopes is not None:
        check_per_head("alibi_slopes", alibi_slopes, q)
        alibi_slopes = alibi_slopes.contiguous()
    if softcap is not None:
        check_softcap(softcap)
    if window_size is not None and window_size >= k.shape[2]:  # it hides nothing
        window_size = sink_size = None
    options = window_size, sink_size, sinks, softcap, alibi_slopes
    if options == (None,) * 5:
        o, lse = plain_kernel(q, k, v)(q, k, v, is_causal)
    elif options[2:] == (None,) * 3:
        attention = plain_kernel(q, k, v, window_size)
        o, lse = attention(q, k, v, is_causal, window_size, sink_size)
    else:
        o, lse = model_attention(q, k, v, is_causal, *options)
    return (o, lse) if return_lse else o
