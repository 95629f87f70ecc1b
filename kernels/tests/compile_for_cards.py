"""Compile the kernels for cards that this machine lacks; print what each one takes.

    TRITON_INTERPRET=0 python compile_for_cards.py '[[90, "full", "float16", 64], ...]'

prints one JSON object a job: the shared memory in bytes, the bytes of stack a thread
spills to, and the PTX. Nothing is launched: where Triton asks the driver for the card,
it is told one, and the host functions get tensors without memory.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from kernels.causal_attention import causal_attention
from kernels.full_attention import full_attention
from kernels.tiles import choose_tiles

# Compute capability -> shared memory that one program may use, in KiB (CUDA C++
# Programming Guide, "Technical specifications per compute capability").
SHARED_KIB = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227}
HOSTS = {"full": full_attention, "causal": causal_attention}


class Card:
    """As much of a driver as Triton needs to compile for a card."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)


COMPILED = []
run = JITFunction.run


def only_compile(self, *args, warmup, **kwargs):
    COMPILED.append(run(self, *args, warmup=True, **kwargs))


JITFunction.run = only_compile


def compile_one(job) -> dict:
    capability, host, dtype, head_dim = job
    dtype, shared_limit = getattr(torch, dtype), SHARED_KIB[capability] * 1024
    tiles = choose_tiles(head_dim, dtype.itemsize, shared_limit)
    x = torch.empty(2, 8, 4096, head_dim, dtype=dtype, device="meta")
    triton.runtime.driver.set_active(Card(capability))
    HOSTS[host](x, x, x, tiles)
    kernel = COMPILED.pop()
    return {
        "job": job,
        "tiles": tiles,
        "shared": kernel.metadata.shared,
        "shared_limit": shared_limit,
        "stack": stack_bytes(kernel.asm["cubin"]),
        "ptx": kernel.asm["ptx"],
    }


def stack_bytes(cubin: bytes) -> int:
    """Local memory of a thread: what its registers could not hold."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    return int(said.split("STACK:")[1].split()[0])


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for result in pool.imap(compile_one, json.loads(sys.argv[1])):
            print(json.dumps(result), flush=True)
