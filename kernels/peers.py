"""The attention functions that are measured beside each other, by name.

Each takes q (B, H, N_q, d) and k, v (B, H_kv, N_k, d) and returns o.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from kernels.causal_attention import causal_attention
from kernels.full_attention import full_attention
from kernels.reference import naive_attention


def sdpa(backend: SDPBackend, is_causal: bool) -> Callable:
    """PyTorch's attention by one named backend; its own choice is not its fastest."""

    def attention(q, k, v):
        grouped = q.shape[1] != k.shape[1]
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(
                q, k, v, is_causal=is_causal, enable_gqa=grouped
            )

    return attention


def library_peers(is_causal: bool) -> dict[str, Callable]:
    """What PyTorch ships, for masks that it knows; causal with equal lengths alone."""
    return {
        "SDPA FlashAttention-2": sdpa(SDPBackend.FLASH_ATTENTION, is_causal),
        "SDPA cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION, is_causal),
    }


def peers(is_causal: bool) -> dict[str, Callable]:
    """The kernels of chapters 05 and 06, and what they are measured against."""
    ours = causal_attention if is_causal else full_attention
    return {
        "ours": lambda q, k, v: ours(q, k, v)[0],
        "naive": lambda q, k, v: naive_attention(q, k, v, is_causal),
    } | library_peers(is_causal)


def flex(sees: Callable, score_mod: Callable | None = None) -> Callable:
    """FlexAttention, compiled, where query i sees key j if ``sees(i, j)``."""
    torch.compiler.reset()  # it gives up compiling when it has seen a few masks
    compiled = torch.compile(flex_attention, dynamic=False)

    @cache
    def block_mask(n_queries, n_keys):
        return create_block_mask(
            lambda b, h, i, j: sees(i, j), None, None, n_queries, n_keys, "cuda"
        )

    def attention(q, k, v):
        return compiled(
            q, k, v,
            block_mask=block_mask(q.shape[2], k.shape[2]),
            score_mod=score_mod,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip

    return attention
