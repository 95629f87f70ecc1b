"""Compile the kernels for cards that this machine lacks; print what each one takes.

    TRITON_INTERPRET=0 python compile_for_cards.py '[[90, "full", "float16", 64], ...]'

prints one JSON object a job: the shared memory in bytes, the bytes of stack a thread
spills to, the PTX, and for kernels by hand the loops of their SASS. Nothing is
launched: where Triton asks the driver for the card, it is told one, and the host
functions get tensors without memory. "full" and "causal" are the kernels of chapters 05
and 06, "one_phase…" what the latter starts from, "fast_…" those of chapter 10,
"hopper_…" and "persistent_…" written in Gluon, the others model_attention with options.
``SIMPLE`` has the kernels that need only compile.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
from functools import partial
from types import SimpleNamespace
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

from kernels import launch
from kernels.causal_attention import causal_attention
from kernels.causal_one_phase import one_phase_attention
from kernels.fast_attention import fast_attention, fast_tiles
from kernels.first_kernels import (
    copy,
    copy_matrix,
    matmul,
    softmax,
    weighted_row_sum_forward,
)
from kernels.full_attention import full_attention
from kernels.grader.problems import PROBLEMS
from kernels.hopper import BLOCK_M, BLOCK_N
from kernels.hopper_attention import hopper_attention
from kernels.hopper_timeline import make_times
from kernels.hopper_top import hopper_attention as hopper_persistent
from kernels.model_attention import model_attention
from kernels.tests.planting import SOLUTIONS, load
from kernels.tests.sass import instructions_of, loops_with_products
from kernels.tiles import Tiles

# Compute capability -> shared memory that one program may use, in KiB (CUDA C++
# Programming Guide, "Technical specifications per compute capability").
SHARED_KIB = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227}
HOSTS = {
    "full": lambda x: full_attention(x, x, x),
    "causal": lambda x: causal_attention(x, x, x),
    "one_phase": lambda x: one_phase_attention(x, x, x, skips_above=False),
    "one_phase_skipping": lambda x: one_phase_attention(x, x, x, skips_above=True),
    "fast_full": lambda x: fast_attention(x, x, x, False, tiles_for(x)),
    "fast_causal": lambda x: fast_attention(x, x, x, True, tiles_for(x)),
    "hopper_full": lambda x: by_hand(hopper_attention, x, x, False),
    "hopper_tail": lambda x: by_hand(hopper_attention, x, x[:, :, 1:], False),
    "hopper_causal": lambda x: by_hand(hopper_attention, x, x),
    "hopper_unequal": lambda x: by_hand(hopper_attention, x, x[:, :, 1:]),
    "hopper_watched": lambda x: by_hand(hopper_attention, x, x, True, make_times(x)),
    "persistent_full": lambda x: by_hand(hopper_persistent, x, x, False),
    "persistent_tail": lambda x: by_hand(hopper_persistent, x, x[:, :, 1:], False),
    "persistent_causal": lambda x: by_hand(hopper_persistent, x, x),
    "persistent_unequal": lambda x: by_hand(hopper_persistent, x, x[:, :, 1:]),
    "persistent_two": lambda x: by_hand(
        partial(hopper_persistent, consumers=2, takes_turns=False, keeps_max=False),
        x, x,
    ),
    "persistent_window": lambda x: by_hand(hopper_persistent, x, x, True, 1000),
    "persistent_sinks": lambda x: by_hand(hopper_persistent, x, x, True, 1000, 5),
    "model": lambda x: with_options(x),
    "window": lambda x: with_options(x, window_size=1000),
    "sinks": lambda x: with_options(x, window_size=1000, sink_size=5),
    "learned_sink": lambda x: with_options(x, sinks=per_head(x)),
    "softcap": lambda x: with_options(x, softcap=50.0),
    "alibi": lambda x: with_options(x, alibi_slopes=per_head(x)),
    "everything": lambda x: with_options(
        x, window_size=1000, sink_size=5,
        sinks=per_head(x), softcap=50.0, alibi_slopes=per_head(x),
    ),
    # Triton compiles sizes of 1 in, and knows of a 0 that 16 divides it.
    "ones": lambda x: with_options(x[:, :, :1], window_size=1, sink_size=1),
    "no_sinks": lambda x: with_options(x, window_size=1, sink_size=0),
}  # fmt: skip
SIMPLE = {
    "copy": lambda x: copy(x.flatten()),
    "copy_matrix": lambda x: copy_matrix(x.flatten(0, 2)),
    "softmax": lambda x: softmax(x.flatten(0, 2)),
    "matmul": lambda x: matmul(x.flatten(0, 2), x[0, 0].T),
    "weighted_row_sum": lambda x: weighted_row_sum_forward(x.flatten(0, 2), x[0, 0, 0]),
    "solution_2": lambda x: solution("problem_2", 2)(x.flatten(0, 2), x[0, 0, 0]),
    **{
        f"solution_{n}": lambda x, n=n: solution(f"problem_{n}", n)(x, x, x)
        for n in (3, 4, 5, 6, 7)
    },
    "seed": lambda x: solution("seed_problem_4", 4)(x, x, x),
}


def solution(name: str, n: int):
    """What problem ``n`` asks for, of the grader's solution of that name."""
    return load(SOLUTIONS / f"{name}.py", PROBLEMS[n].entry)


def tiles_for(x: torch.Tensor) -> Tiles:
    """Of the fast kernel, noted here because it is not launched with their names."""
    TILES.append(fast_tiles(x.shape[3], x.shape[2]))
    return TILES[-1]


def by_hand(attention, q: torch.Tensor, kv: torch.Tensor, *options) -> None:
    """A kernel of chapter 11: two heads of keys and values for all of q's."""
    TILES.append((BLOCK_M.value, BLOCK_N.value))
    attention(q, kv[:, :2], kv[:, :2], *options)


def with_options(x: torch.Tensor, **options) -> None:
    """Launch with 2 heads of keys and values for all of x's queries."""
    kv = x[:, :2]
    model_attention(x, kv, kv, **options)


def per_head(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[1], dtype=torch.float32)


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


TILES, COMPILED = [], []
run = JITFunction.run


def only_compile(self, *args, warmup, **kwargs):
    if kwargs.keys() >= set(Tiles._fields):
        TILES.append(Tiles(*[kwargs[name] for name in Tiles._fields]))
    COMPILED.append(run(self, *args, warmup=True, **kwargs))
    return COMPILED[-1]


JITFunction.run = only_compile
CompiledKernel.__getitem__ = lambda self, grid: lambda *args: None  # a launch


def compile_one(job) -> dict:
    capability, host, dtype, head_dim = job
    dtype, shared_limit = getattr(torch, dtype), SHARED_KIB[capability] * 1024
    x = torch.empty(2, 8, 4096, head_dim, dtype=dtype, device="meta")
    triton.runtime.driver.set_active(Card(capability))
    launch._COMPILED.clear()  # what it holds may be of another job
    for module in (
        "full_attention", "causal_attention", "causal_one_phase", "model_attention"
    ):  # fmt: skip
        name = f"kernels.{module}.shared_memory_bytes"
        mock.patch(name, lambda: shared_limit).start()
    mock.patch("kernels.first_kernels.check_runs_here").start()  # "meta" is no GPU
    hopper = SimpleNamespace(multi_processor_count=132)  # which has as many programs
    mock.patch("torch.cuda.get_device_properties", lambda device: hopper).start()
    (HOSTS | SIMPLE)[host](x)
    tiles, kernel = TILES.pop() if host in HOSTS else None, COMPILED.pop()
    loops = None
    if host.startswith(("hopper_", "persistent_")):
        loops = loops_with_products(instructions_of(kernel.asm["cubin"]))
    return {
        "job": job,
        "tiles": tiles,
        "shared": kernel.metadata.shared,
        "shared_limit": shared_limit,
        "stack": stack_bytes(kernel.asm["cubin"]),
        "ptx": kernel.asm["ptx"],
        "loops": loops,
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
