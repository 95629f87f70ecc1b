"""The kernels of the FlashAttention book, from plain PyTorch to Triton.

Importing this package decides whether Triton compiles for a GPU or interprets on the
CPU, so import it before triton. ``DEVICE`` is where tensors for the kernels belong.
"""

import contextlib
import importlib

# Loaded when first asked for: importing the package needs no triton.
_HOMES = {
    "DEVICE": "kernels.device",
    "INTERPRETED": "kernels.device",
    "flash_attention_forward": "kernels.attention",
    "grade": "kernels.grader",
}
__all__ = list(_HOMES)

# If triton came first, whatever needs a kernel says so. The bare import stays silent,
# since transformers makes it, in search of another package of the same name.
with contextlib.suppress(RuntimeError):
    importlib.import_module("kernels.device")


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
