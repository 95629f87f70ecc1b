"""What ``python -m kernels.benchmark`` measures, one function a result file.

FLOPs of attention are 4·N²·d a head, half of that if causal, whatever a kernel really
computes.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from tqdm import tqdm

from kernels import first_kernels as first
from kernels.attention_rows import Shape, attention_rows
from kernels.causal_attention import causal_attention
from kernels.causal_one_phase import one_phase_attention
from kernels.full_attention import full_attention
from kernels.hopper_experiments import HOPPER_EXPERIMENTS
from kernels.host_experiments import HOST_EXPERIMENTS
from kernels.ladder_experiments import LADDER_EXPERIMENTS
from kernels.model_experiments import MODEL_EXPERIMENTS
from kernels.peers import library_peers
from kernels.reference import naive_attention
from kernels.sweep import LENGTHS, SEED_SHAPES, SWEEPS, layer_shapes
from kernels.tests.solutions import seed_problem_4
from kernels.timing import ceilings, peak_bytes, summarise, time_in_turn


def attention_shapes() -> list[tuple[int, int, int, int]]:
    """(batch, heads, length, head_dim) of chapters 05 and 06."""
    return [(*sizes, d) for d in (64, 128) for sizes in layer_shapes(d)]


def peers(is_causal: bool) -> dict[str, Callable]:
    """The kernels of chapters 05 and 06, and what they are measured against."""
    ours = causal_attention if is_causal else full_attention
    return {
        "ours": lambda q, k, v: ours(q, k, v)[0],
        "naive": lambda q, k, v: naive_attention(q, k, v, is_causal),
    } | library_peers(is_causal)


def full() -> dict:
    rows = []
    for shape in tqdm(attention_shapes(), desc="full"):
        rows += attention_rows(peers(is_causal=False), Shape(*shape, is_causal=False))
    return {"rows": rows}


def causal() -> dict:
    functions = peers(is_causal=True)
    one_phase = {
        "one phase, every block": lambda q, k, v: one_phase_attention(q, k, v, False),
        "one phase, no block above": lambda q, k, v: one_phase_attention(q, k, v, True),
    }
    seed = {"seed": seed_problem_4.flash_attention_forward}
    rows = []
    for shape in tqdm(attention_shapes(), desc="causal"):
        rows += attention_rows(functions | one_phase, Shape(*shape))
    for shape in tqdm(SEED_SHAPES, desc="causal, the seed's shapes"):
        rows += attention_rows(functions | seed, Shape(*shape, 16))
    return {"rows": rows}


def machine() -> dict:
    """The card's two ceilings: a large matrix product and a large copy."""
    return ceilings("bfloat16")


def naive_rows(length: int, heads: int = 16, head_dim: int = 64) -> list:
    """The three steps of naive attention, each alone, and all of them together."""
    q, k, v = (
        torch.randn(1, heads, length, head_dim, device="cuda", dtype=torch.bfloat16)
        for _ in range(3)
    )
    scores = q @ k.transpose(-1, -2) / math.sqrt(head_dim)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    steps = {
        "scores": lambda: q @ k.transpose(-1, -2) / math.sqrt(head_dim),
        "softmax": lambda: torch.softmax(scores, -1, torch.float32).to(q.dtype),
        "output": lambda: weights @ v,
        "all": lambda: naive_attention(q, k, v),
    }
    shape = {
        "batch": 1, "heads": heads, "length": length, "head_dim": head_dim,
        "is_causal": False, "dtype": "bfloat16",
    }  # fmt: skip
    rows = [
        {"step": step, **shape, **summarise(samples)}
        for step, samples in time_in_turn(steps).items()
    ]
    rows[-1]["peak_bytes"] = peak_bytes(steps["all"])
    return rows


def naive() -> dict:
    rows = []
    for length in tqdm(LENGTHS, desc="naive"):
        rows += naive_rows(length)
    return {"rows": rows}


def first_kernels() -> dict:
    """Chapter 04's kernels beside PyTorch's: products in FLOPs, the rest in bytes."""
    tasks = []  # (task, size, unit, work of one call, ours, PyTorch's)
    for length in (2**e for e in range(16, 29, 2)):
        x = torch.randn(length, device="cuda", dtype=torch.float16)
        work = 2 * x.nbytes
        tasks.append(("copy", length, "gbps", work, first.copy, torch.clone, (x,)))
    for n_columns in (2**e for e in range(8, 16)):
        x = torch.randn(8192, n_columns, device="cuda", dtype=torch.float16)
        theirs = partial(torch.softmax, dim=-1)
        tasks.append(
            ("softmax", n_columns, "gbps", 2 * x.nbytes, first.softmax, theirs, (x,))
        )
    for n in (2**e for e in range(9, 14)):
        a, b = (torch.randn(n, n, device="cuda", dtype=torch.float16) for _ in range(2))
        tasks.append(
            ("matmul", n, "tflops", 2 * n**3, first.matmul, torch.matmul, (a, b))
        )
    for n_rows, n_columns in [(512, 1024), (1024, 4096), (2048, 8192), (4096, 8192)]:
        x = torch.randn(n_rows, n_columns, device="cuda", dtype=torch.float16)
        w = torch.randn(n_columns, device="cuda", dtype=torch.float16)
        ours, theirs = first.weighted_row_sum_forward, torch.matmul
        size = n_rows * n_columns
        tasks.append(("weighted_row_sum", size, "gbps", x.nbytes, ours, theirs, (x, w)))
    rows = []
    for task, size, unit, work, ours, theirs, inputs in tqdm(tasks, desc="first"):
        torch.testing.assert_close(
            ours(*inputs),
            theirs(*inputs),
            atol=1e-1 if task == "matmul" else 2e-2,
            rtol=1e-2,
        )
        functions = {
            "ours": partial(ours, *inputs),
            "PyTorch": partial(theirs, *inputs),
        }
        for name, samples in time_in_turn(functions).items():
            row = {"kernel": name, "task": task, "size": size, **summarise(samples)}
            row[unit] = round(work / row["ms"] / (1e6 if unit == "gbps" else 1e9), 2)
            rows.append(row)
    return {"rows": rows}


# name: (the modules whose source the result depends on, the function that measures)
_STEP = ["step", "tiles"]
EXPERIMENTS = {
    "machine": ([], machine),
    "naive": (["reference"], naive),
    "first_kernels": (["first_kernels"], first_kernels),
    "full": ([*_STEP, "full_attention", "reference"], full),
    "causal": ([*_STEP, "causal_attention", "causal_one_phase", "reference"], causal),
}
EXPERIMENTS |= MODEL_EXPERIMENTS | LADDER_EXPERIMENTS
EXPERIMENTS |= HOPPER_EXPERIMENTS | HOST_EXPERIMENTS | SWEEPS
