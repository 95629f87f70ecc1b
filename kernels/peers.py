"""The attention functions that are measured beside each other, by name."""

from collections.abc import Callable

import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention import flash_attention_forward
from kernels.reference import naive_attention


def sdpa(backend: SDPBackend, is_causal: bool) -> Callable:
    """PyTorch's attention by one named backend; its own choice is not its fastest."""

    def attention(q, k, v):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    return attention


def peers(is_causal: bool) -> dict[str, Callable]:
    """Functions of q, k, v (B, H, N, d) that return o; ours is one of them."""
    return {
        "ours": lambda q, k, v: flash_attention_forward(q, k, v, is_causal),
        "naive": lambda q, k, v: naive_attention(q, k, v, is_causal),
        "SDPA FlashAttention-2": sdpa(SDPBackend.FLASH_ATTENTION, is_causal),
        "SDPA cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION, is_causal),
    }
