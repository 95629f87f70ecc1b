"""The attention functions that ours are measured beside, by name.

Each takes q (B, H, N_q, d) and k, v (B, H_kv, N_k, d) and returns o. Causal, they are
meant for equal lengths: PyTorch aligns the mask at the start.
"""

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from kernels.device import DEVICE


def sdpa(backend: SDPBackend, is_causal: bool) -> Callable:
    """PyTorch's attention by one named backend; its own choice is not its fastest."""

    def attention(q, k, v):
        grouped = q.shape[1] != k.shape[1]
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(
                q, k, v, is_causal=is_causal, enable_gqa=grouped
            )

    return attention


def flex(sees: Callable | None, score_mod: Callable | None = None) -> Callable:
    """FlexAttention, compiled, where query i sees key j if ``sees(i, j)``.

    ``sees`` None means everywhere. It is compiled anew for every shape, which takes
    seconds: compiled for any shape, its kernel would check the bounds of every load.
    """
    # PyTorch keeps up to eight compiled shapes and masks of a function. Past them,
    # ``fullgraph`` makes it fail where it would run the uncompiled one without a word.
    torch.compiler.reset()
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    @cache
    def block_mask(n_queries, n_keys):
        return create_block_mask(
            lambda b, h, i, j: sees(i, j), None, None, n_queries, n_keys, DEVICE
        )

    def attention(q, k, v):
        return compiled(
            q, k, v,
            block_mask=block_mask(q.shape[2], k.shape[2]) if sees else None,
            score_mod=score_mod,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip

    return attention


def flash_attention_3(is_causal: bool) -> Callable:
    """FlashAttention-3 as the wheel ``fa3-fwd`` has it: Hopper, bfloat16, no window.

    It takes (batch, length, heads, head_dim) with any strides but the last.
    """

    def attention(q, k, v):
        try:
            from fa3_fwd_interface import flash_attn_func
        except ImportError as failure:
            raise RuntimeError(f"fa3-fwd cannot be imported: {failure}") from failure
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return flash_attn_func(q, k, v, causal=is_causal).transpose(1, 2)

    return attention


def not_after(i, j):
    """Causal attention, as FlexAttention asks for it."""
    return j <= i


PEERS = {  # name: a function that makes the peer for is_causal
    "SDPA FlashAttention-2": partial(sdpa, SDPBackend.FLASH_ATTENTION),
    "SDPA cuDNN": partial(sdpa, SDPBackend.CUDNN_ATTENTION),
    "SDPA efficient": partial(sdpa, SDPBackend.EFFICIENT_ATTENTION),
    "FlexAttention": lambda is_causal: flex(not_after if is_causal else None),
    "FlashAttention-3": flash_attention_3,
}


def library_peers(is_causal: bool) -> dict[str, Callable]:
    """PyTorch's two fastest, which every chapter compares with."""
    names = ["SDPA FlashAttention-2", "SDPA cuDNN"]
    return {name: PEERS[name](is_causal) for name in names}
