"""The public call: check the arguments, then launch the kernel that fits."""

import torch

from kernels.causal_attention import causal_attention
from kernels.checks import check_attention
from kernels.full_attention import full_attention


def flash_attention_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    is_causal: bool = True,
    return_lse: bool = False,
):
    """Attention by the book's kernels: softmax(Q Kᵀ / √d + mask) V.

    Parameters
    ----------
    q : (B, H, N_q, d), float16, bfloat16 (not under the interpreter) or float32, on
        ``kernels.DEVICE``, with any strides. d is 16 to 256; any length from 1 up.
    k, v : (B, H, N_k, d), same dtype and device.
    is_causal : query i sees the keys j ≤ i + N_k − N_q (aligned at the end).
    return_lse : also return the log-sum-exp of each row's scores.

    Returns
    -------
    o : (B, H, N_q, d) in q's dtype. A row that sees no key gives zeros.
    lse : (B, H, N_q), float32, natural logarithm; −inf for a row that sees no key.

    Raises
    ------
    TypeError, ValueError : naming the argument, what was given and what is allowed.
    """
    check_attention(q, k, v)
    attention = causal_attention if is_causal else full_attention
    o, lse = attention(q, k, v)
    return (o, lse) if return_lse else o
