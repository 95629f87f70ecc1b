"""Time functions on the GPU: in turn, on a card that has been kept busy."""

import random
import statistics
from collections.abc import Callable

import torch

ROUNDS = 7
WARM_UP = 600  # milliseconds
SAMPLES_KEPT = 20  # of each round; evenly spaced where there are more


def time_in_turn(
    functions: dict[str, Callable[[], object]],
    say: Callable[[str], object] = lambda name: None,
) -> dict[str, list[float]]:
    """Milliseconds of each function: a few rounds, each function once a round.

    ``triton.testing.do_bench`` times with CUDA events and clears the L2 cache before
    each run. Before the first round all functions are kept running for a while: a card
    that was idle starts at a higher clock than it can hold. The order is drawn anew in
    each round: the clock that a function finds depends on what ran before it, and a
    fixed neighbour was seen to make 5%. ``say`` is told whose turn it is.
    """
    from triton.testing import do_bench

    for name, function in functions.items():
        say(name)
        do_bench(function, warmup=WARM_UP / len(functions), rep=1)
    samples = {name: [] for name in functions}
    order, draw = list(functions), random.Random(0)
    for _ in range(ROUNDS):
        draw.shuffle(order)
        for name in order:
            say(name)
            times = do_bench(functions[name], warmup=10, rep=30, return_mode="all")
            step = max(1, len(times) // SAMPLES_KEPT)
            samples[name] += [float(f"{ms:.5g}") for ms in times[::step][:SAMPLES_KEPT]]
    return samples


def summarise(samples: list[float]) -> dict:
    """Median and spread (interquartile range over median) of samples in ms."""
    low, median, high = statistics.quantiles(samples, n=4)
    return {
        "ms": statistics.median(samples),
        "spread": round((high - low) / median, 4),
        "samples": samples,
    }


def peak_bytes(function: Callable[[], object]) -> int:
    """The most memory a call holds beyond what was there, its result included."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def ceilings(dtype: str) -> dict:
    """The card's two ceilings, measured: a large matrix product and a large copy.

    ``gemm_tflops`` is of 8192³ in that dtype; ``copy_tbps`` counts bytes read and
    bytes written, 4 GiB each. ``rows`` has the samples.
    """
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=getattr(torch, dtype)) for _ in "ab")
    source = torch.randn(2**30, device="cuda")  # 4 GiB
    target = torch.empty_like(source)
    times = time_in_turn(
        {"matmul": lambda: a @ b, "copy": lambda: target.copy_(source)}
    )
    matmul, copy = summarise(times["matmul"]), summarise(times["copy"])
    return {
        "gemm_tflops": round(2 * n**3 / matmul["ms"] / 1e9, 1),
        "copy_tbps": round(2 * source.nbytes / copy["ms"] / 1e9, 3),
        "rows": [
            {"kernel": f"matmul 8192³ {dtype}", "flops": 2 * n**3, **matmul},
            {"kernel": "copy 4 GiB", "bytes": 2 * source.nbytes, **copy},
        ],
    }
