"""Where the kernels run: on the GPU, or on the CPU through Triton's interpreter.

Triton reads ``TRITON_INTERPRET`` when it is first imported, because its own library
functions are compiled or interpreted like ours. This module therefore decides before
anything here imports triton, and says so when it comes too late.
"""

import os
import sys
from functools import cache

import torch


def _choose_interpreter() -> bool:
    """True if kernels run in Triton's interpreter; sets it up if there is no GPU.

    TRITON_INTERPRET decides if it is set; 0 without a GPU is for compiling alone.
    """
    if os.environ.get("TRITON_INTERPRET") in ("0", "1"):
        return os.environ["TRITON_INTERPRET"] == "1"
    if torch.cuda.is_available():
        return False
    if "triton" in sys.modules:
        raise RuntimeError(
            "There is no GPU, so the kernels need Triton's interpreter, but triton was "
            "imported before it could be switched on. Import `kernels` first, or set "
            "TRITON_INTERPRET=1 in the environment."
        )
    os.environ["TRITON_INTERPRET"] = "1"
    return True


INTERPRETED = _choose_interpreter()
DEVICE = "cpu" if INTERPRETED else "cuda"


@cache
def tensor_core_dtype() -> torch.dtype:
    """The 16-bit dtype to prefer: bfloat16 where the card has it, else float16.

    Triton's interpreter computes wrong results in bfloat16, so it gets float16.
    """
    if not INTERPRETED and torch.cuda.get_device_capability() >= (8, 0):
        return torch.bfloat16
    return torch.float16


@cache
def shared_memory_bytes() -> int:
    """Bytes of shared memory one program may use on this GPU.

    Under the interpreter there is no such limit; an H100's 227 KiB stands in for it.
    """
    if INTERPRETED:
        return 227 * 1024
    return torch.cuda.get_device_properties().shared_memory_per_block_optin


@cache
def capability() -> tuple[int, int]:
    """The GPU's compute capability; (0, 0) under the interpreter."""
    return (0, 0) if INTERPRETED else torch.cuda.get_device_capability()
