"""Measurements of chapter 11: what a call costs the host."""

import time
from collections.abc import Callable
from functools import partial

import torch
from tqdm import tqdm

from kernels import hopper_attention, hopper_top
from kernels.attention import flash_attention_forward
from kernels.attention_rows import Shape
from kernels.fast_attention import fast_attention
from kernels.hopper_experiments import HOPPER_SOURCE, PORTABLE_SOURCE
from kernels.model_attention import model_attention
from kernels.peers import PEERS
from kernels.timing import summarise

CALLS = 1000
ROUNDS = 15


def microseconds_of_calls(function: Callable[[], object], calls: int) -> float:
    """Of the host alone, a call: it hands the work over and does not wait for it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    taken = time.perf_counter() - start
    torch.cuda.synchronize()
    return float(f"{taken / calls * 1e6:.5g}")


def host() -> dict:
    """What a call costs the host: one tiny tile, so that the card keeps up with it.

    The kernels that the public call chooses from; that call, with its checks; cuDNN.
    In turn, since what else the host does comes and goes.
    """
    shape = Shape(1, 1, 64, 128)
    inputs = shape.inputs()
    functions = {
        "public call": flash_attention_forward,
        "model_attention": model_attention,
        "fast_attention": fast_attention,
        "hopper_attention": hopper_attention.hopper_attention,
        "hopper_top": hopper_top.hopper_attention,
        "SDPA cuDNN": PEERS["SDPA cuDNN"](True),
    }
    calls = {name: partial(functions[name], *inputs) for name in functions}
    for call in calls.values():
        microseconds_of_calls(call, 50)  # compiles it
    samples = {name: [] for name in calls}
    for _ in tqdm(range(ROUNDS), desc="host"):
        for name, call in calls.items():
            samples[name].append(microseconds_of_calls(call, CALLS))
    rows = []
    for name in samples:
        summary = summarise(samples[name])
        summary["us"] = summary.pop("ms")  # summarise takes any unit
        rows.append({"kernel": name, **shape.columns(), "calls": CALLS, **summary})
    return {"rows": rows}


HOST_EXPERIMENTS = {
    "host": (
        [
            *HOPPER_SOURCE, *PORTABLE_SOURCE,
            "checks", "attention", "model_attention",
        ],
        host,
    ),
}  # fmt: skip
