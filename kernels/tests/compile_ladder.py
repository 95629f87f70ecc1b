"""Compile the ladder's rungs for Hopper on a machine without a GPU.

    TRITON_INTERPRET=0 python compile_ladder.py '[["two_phases", 128, null, null]]'

A job is a module of kernels/ladder, the head dim, and perhaps tiles and the number of
registers that a thread may have; "timeline" is the launch that is watched. For each job
one JSON object is printed: registers, bytes of stack that a thread spills to, shared
memory, Triton's IR and, if registers were limited, the assembler's remarks. See
compile_for_cards.py, whose stand-in for a driver this uses.
"""

import functools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from unittest import mock

import torch
import triton
from compile_for_cards import COMPILED, TILES, Card
from triton.runtime.jit import JITFunction

from kernels.fast_attention import fast_tiles
from kernels.ladder import timeline
from kernels.tiles import Tiles


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


def said_by_ptxas(ptx: str) -> str:
    """What the assembler remarks on a kernel; Triton itself throws it away."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [triton.knobs.nvidia.ptxas.path, "-arch=sm_90a", "-v", file.name]
        done = subprocess.run(
            [*command, "-o", os.devnull], check=True, capture_output=True, text=True
        )
    return done.stdout + done.stderr


def watch(x: torch.Tensor) -> None:
    """Launch the timeline's kernel in each order; its table has no memory to read."""
    TILES.append(fast_tiles(x.shape[3], x.shape[2]))
    empty = [[0] * timeline.COLUMNS]
    with mock.patch.object(torch.Tensor, "tolist", lambda seen: empty):
        for order in timeline.ORDERS:
            timeline.watch(x, x, x, order)


def compile_one(job) -> dict:
    module, head_dim, tiles, registers = job
    triton.runtime.driver.set_active(Card(90))
    x = torch.empty(4, 16, 4096, head_dim, dtype=torch.bfloat16, device="meta")
    rung = import_module(f"kernels.ladder.{module}")
    limit = {} if registers is None else {"maxnreg": registers}
    run = functools.partialmethod(JITFunction.run, **limit)
    with (
        mock.patch("kernels.ladder.inputs.check_attention"),  # "meta" is no GPU
        mock.patch.object(JITFunction, "run", run),
    ):
        if rung is timeline:
            watch(x)
        else:
            rung.attention(x, x, x, tiles and Tiles(*tiles))
    tiles, kernel = TILES.pop(), COMPILED.pop()
    return {
        "job": job,
        "tiles": tiles,
        "shared": kernel.metadata.shared,
        "ttgir": kernel.asm["ttgir"],
        "ptxas": said_by_ptxas(kernel.asm["ptx"]) if limit else "",
        **usage(kernel.asm["cubin"]),
    }


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for result in pool.imap(compile_one, json.loads(sys.argv[1])):
            print(json.dumps(result), flush=True)
