"""Compile the ladder's rungs for Hopper on a machine without a GPU.

    TRITON_INTERPRET=0 python compile_ladder.py '[["two_phases", 128], ...]'

prints one JSON object a job (module of kernels/ladder, head dim): registers, bytes of
stack that a thread spills to, shared memory, and ptxas's word where it was asked. See
compile_for_cards.py, whose stand-in for a driver this uses.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
from importlib import import_module
from unittest import mock

import torch
import triton
from compile_for_cards import COMPILED, TILES, Card


def usage(cubin: bytes) -> dict:
    """Registers and stack bytes of a thread, from the compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
    return {
        name.lower(): int(said.split(f"{name}:")[1].split()[0])
        for name in ("REG", "STACK")
    }


def compile_one(job) -> dict:
    module, head_dim = job
    triton.runtime.driver.set_active(Card(90))
    x = torch.empty(4, 16, 4096, head_dim, dtype=torch.bfloat16, device="meta")
    rung = import_module(f"kernels.ladder.{module}")
    with mock.patch("kernels.ladder.inputs.check_attention"):  # "meta" is no GPU
        rung.attention(x, x, x)
    tiles, kernel = TILES.pop(), COMPILED.pop()
    return {
        "job": job,
        "tiles": tiles,
        "shared": kernel.metadata.shared,
        "ttgir": kernel.asm["ttgir"],
        **usage(kernel.asm["cubin"]),
    }


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for result in pool.imap(compile_one, json.loads(sys.argv[1])):
            print(json.dumps(result), flush=True)
