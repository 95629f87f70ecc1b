"""Measurements of chapter 11: rungs on Hopper, windows, one program watched.

Everything is compiled first. The kernels of a shape then take turns launch by launch on
a card that is kept busy (``time_sustained``), since Hopper's rungs lie closer together
than the clocks that a kernel may find. Ours write the log-sum-exp as well.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from tqdm import tqdm

from kernels import hopper_attention, hopper_top
from kernels.attention_rows import Shape, expected_part, timed, why_it_fails
from kernels.fast_attention import fast_attention
from kernels.hopper_timeline import place_of, rows_of, typical_program, watch
from kernels.ladder.measure import compile_all, rows_of_shape, time_sustained
from kernels.model_attention import model_attention
from kernels.model_experiments import banded
from kernels.peers import PEERS, flex
from kernels.sweep import COLUMNS, TOKENS

LENGTHS = (1024, 2048, 4096, 8192, TOKENS)
SHAPES = [
    Shape(TOKENS // n, COLUMNS // d, n, d, is_causal)
    for d in (64, 128)
    for is_causal in (True, False)
    for n in LENGTHS
]
GROUPED = [Shape(2, 32, 8192, 128, kv_heads=kv_heads) for kv_heads in (32, 8)]
WINDOWED = [
    Shape(2, 32, 8192, 128, kv_heads=8, window_size=window_size, sink_size=sink_size)
    for window_size in (128, 512, 1024, 4096)
    for sink_size in (None, 64)
]
HOPPER_PEERS = ("FlashAttention-3", "SDPA cuDNN", "SDPA FlashAttention-2")
# The persistent kernel's rungs, each with what it has besides the one before.
PLAIN = {"is_predicated": False, "keeps_max": False}
RUNGS = {
    "persistent": {"consumers": 2, "takes_turns": False, **PLAIN},
    "three consumers": {"consumers": 3, "takes_turns": False, **PLAIN},
    "turns": {"consumers": 3, **PLAIN},
    "predicated": {"keeps_max": False},
    "top": {},
}
WATCHED = [Shape(TOKENS // 4096, COLUMNS // d, 4096, d) for d in (64, 128)]
OUTGROWS = 300  # times: scores of that size need a second pass
LAUNCHES = 20  # before the one that is watched


def only_o(attention: Callable, is_causal: bool, options: dict, q, k, v):
    return attention(q, k, v, is_causal, **options)[0]


def our_kernels(shape: Shape) -> dict[str, Callable]:
    """Chapter 10's kernel, the ping-pong, and the rungs above it."""
    ours = {
        "chapter 10": (fast_attention, {}),
        "ping-pong": (hopper_attention.hopper_attention, {}),
    }
    for name, options in RUNGS.items():
        if shape.head_dim <= 64 or name != "three consumers":
            ours[name] = (hopper_top.hopper_attention, options)
    return {
        name: partial(only_o, attention, shape.is_causal, options)
        for name, (attention, options) in ours.items()
    }


def compile_ours(shape: Shape, name: str) -> None:
    our_kernels(shape)[name](*shape.inputs())


def hopper() -> dict:
    """Every rung and its peers, causal and full, over the lengths."""
    compiled_apart = [shape for shape in SHAPES if shape.length in (1024, 4096)]
    compile_all(
        [
            partial(compile_ours, s, name)
            for s in compiled_apart
            for name in our_kernels(s)
        ],
        "hopper",
    )
    rows = []
    for shape in tqdm(SHAPES + GROUPED, desc="hopper"):
        peers = {name: PEERS[name](shape.is_causal) for name in HOPPER_PEERS}
        rows += rows_of_shape(our_kernels(shape) | peers, shape, {}, time_sustained)
    return {"timed": "in turn under sustained load", "rows": rows}


def hopper_window() -> dict:
    """Windows: the portable kernel, the one by hand, and FlexAttention."""
    by_hand, rows = hopper_top.hopper_attention, []
    for shape in tqdm(WINDOWED, desc="hopper_window"):
        options = {"window_size": shape.window_size, "sink_size": shape.sink_size}
        kernels = {
            "chapters 07 to 09": partial(only_o, model_attention, True, options),
            "by hand": partial(only_o, by_hand, True, options),
            "FlexAttention": flex(banded(**options)),
        }
        rows += rows_of_shape(kernels, shape, {}, time_sustained)
    return {"timed": "in turn under sustained load", "rows": rows}


def second_pass() -> dict:
    """The maximum kept, followed, and kept in vain in every program.

    By hand, and without a choice in chapter 10's kernel.
    """
    rows = []
    for shape in tqdm(WATCHED, desc="second_pass"):
        q, k, v = shape.inputs()
        far = k.clone()
        far[:, :, 0] *= OUTGROWS  # the first key, which is visited late
        by_hand = hopper_top.hopper_attention
        calls = {
            "kept": (by_hand, k, {}),
            "followed": (by_hand, k, {"keeps_max": False}),
            "kept, then followed": (by_hand, far, {}),
            "chapter 10, kept": (fast_attention, k, {}),
            "chapter 10, kept, then followed": (fast_attention, far, {}),
        }
        functions = {}
        for name, (kernel, keys, options) in calls.items():
            attention = partial(only_o, kernel, True, options)
            functions[name] = partial(attention, q, keys, v)
            expected = expected_part((q, keys, v), shape)
            if reason := why_it_fails(attention, (q, keys, v), shape, expected):
                raise RuntimeError(f"{name}: {reason}")
        for name, samples in time_sustained(functions).items():
            rows.append({"kernel": name, **shape.columns(), **timed(samples, shape)})
    return {"timed": "in turn under sustained load", "rows": rows}


def watched_output(is_causal: bool, q, k, v) -> torch.Tensor:
    return watch(q, k, v, is_causal)[0]


def watch_typical(shape: Shape) -> tuple[dict, list[dict]]:
    """About a launch and one of its programs; and that program's events."""
    inputs = shape.inputs()
    functions = {
        "ms": partial(hopper_attention.hopper_attention, *inputs, shape.is_causal),
        "ms_watched": partial(watch, *inputs, shape.is_causal),
    }
    reason = why_it_fails(
        partial(watched_output, shape.is_causal), inputs, shape,
        expected_part(inputs, shape),
    )  # fmt: skip
    if reason:
        raise RuntimeError(f"the watched ping-pong: {reason}")
    for _ in range(LAUNCHES):
        _, times = watch(*inputs, shape.is_causal)
    program = typical_program(times)
    about = shape.columns() | {"program": program, **place_of(times, program)}
    for name, samples in time_sustained(functions).items():
        about[name] = statistics.median(samples)
    rows = [{"head_dim": shape.head_dim, **row} for row in rows_of(times, program)]
    return about, rows


def ping_pong() -> dict:
    """Who waits for whom in one program of the ping-pong, at each head dim."""
    launches, rows = [], []
    for shape in tqdm(WATCHED, desc="ping_pong"):
        about, events = watch_typical(shape)
        launches.append(about)
        rows += events
    return {"launches": launches, "rows": rows}


_PING_PONG = [
    "step", "launch", "order", "kept_maximum", "named_barriers", "hopper",
    "hopper_rings", "hopper_softmax", "hopper_stamps", "hopper_attention",
]  # fmt: skip
HOPPER_SOURCE = [
    *_PING_PONG,
    "hopper_schedule", "hopper_persistent", "hopper_passes", "hopper_top",
]  # fmt: skip
PORTABLE_SOURCE = ["tiles", "descriptors", "fast_attention"]
HOPPER_EXPERIMENTS = {
    "hopper": ([*HOPPER_SOURCE, *PORTABLE_SOURCE, "reference"], hopper),
    "hopper_window": (
        [*HOPPER_SOURCE, "tiles", "model_attention", "reference"], hopper_window,
    ),
    "second_pass": ([*HOPPER_SOURCE, *PORTABLE_SOURCE, "reference"], second_pass),
    "ping_pong": ([*_PING_PONG, "hopper_timeline", "reference"], ping_pong),
}  # fmt: skip
