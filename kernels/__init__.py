"""The kernels of the FlashAttention book, from plain PyTorch to Triton.

Importing this package decides whether Triton compiles for a GPU or interprets on the
CPU, so import it before triton. ``DEVICE`` is where tensors for the kernels belong.
"""

from kernels.device import DEVICE, INTERPRETED

__all__ = ["DEVICE", "INTERPRETED", "flash_attention_forward", "grade"]


def __getattr__(name: str):
    # Loaded when first asked for: importing the package needs no triton.
    if name == "flash_attention_forward":
        from kernels.attention import flash_attention_forward

        return flash_attention_forward
    if name == "grade":
        from kernels.grader import grade

        return grade
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
