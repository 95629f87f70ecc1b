"""Measurements of chapter 10: the ladder's rungs, every tile size, one launch watched.

``kernels.ladder.measure`` does the work: it compiles everything first and then times
all kernels of a shape in turn.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import product

import torch
from tqdm import tqdm

from kernels import fast_attention as top
from kernels.attention_rows import Shape, expected_part, why_it_fails
from kernels.ladder import DEAD_ENDS, RUNGS
from kernels.ladder.measure import (
    COMPILE_SECONDS,
    RESOURCES,
    compile_all,
    resources,
    rows_of_shape,
)
from kernels.ladder.timeline import ORDERS, watch
from kernels.peers import PEERS
from kernels.sweep import COLUMNS, TOKENS, chapter_06
from kernels.tests.solutions import seed_problem_4
from kernels.tiles import Tiles

LAUNCHES = 51
SEED_SHAPE = Shape(1, 16, 4096, 16)
SHAPES = [
    Shape(TOKENS // n, COLUMNS // d, n, d)
    for d in (64, 128)
    for n in (1024, 4096, TOKENS)
]
CHAPTER_PEERS = [
    "SDPA FlashAttention-2", "SDPA cuDNN", "FlexAttention", "FlashAttention-3",
]  # fmt: skip


def top_of(tiles: Tiles | None, q, k, v) -> torch.Tensor:
    return top.fast_attention(q, k, v, tiles=tiles)[0]


def resources_of_top(tiles: Tiles | None, q, k, v) -> dict:
    return resources(partial(top_of, tiles, q, k, v), top, "fast_attention_kernel")


def resources_of_rung(module: str, q, k, v) -> dict:
    rung = import_module(f"kernels.ladder.{module}")
    return resources(partial(rung.attention, q, k, v), rung, "attention_kernel")


def contestants(shape: Shape) -> dict[str, Callable]:
    """Everything that the ladder's table compares at a shape."""
    rungs = {rung.name: rung.attention for rung in (*RUNGS, *DEAD_ENDS)}
    if shape == SEED_SHAPE:
        rungs = {}
    ours = {
        "top": partial(top_of, None),
        "chapter 06": partial(chapter_06, is_causal=True),
        "seed": seed_problem_4.flash_attention_forward,
    }
    return rungs | ours | {name: PEERS[name](True) for name in CHAPTER_PEERS}


def compile_contestant(shape: Shape, name: str) -> None:
    contestants(shape)[name](*shape.inputs())


def ladder() -> dict:
    """Every rung, what did not help, the top and its peers, at every shape."""
    shapes = [*SHAPES, SEED_SHAPE]
    slow = [partial(compile_contestant, s, "FlexAttention") for s in shapes]
    ours = [r.name for r in (*RUNGS, *DEAD_ENDS)] + ["top", "chapter 06", "seed"]
    compile_all(
        slow + [partial(compile_contestant, s, name) for s in SHAPES for name in ours],
        "ladder",
    )
    extra = {r.name: partial(resources_of_rung, r.module) for r in RUNGS + DEAD_ENDS}
    extra["top"] = partial(resources_of_top, None)
    rows = []
    for shape in tqdm(shapes, desc="ladder"):
        rows += rows_of_shape(contestants(shape), shape, extra)
    return {"rows": rows}


def tile_sizes(head_dim: int) -> list[Tiles]:
    """All sizes of the heat maps, which are for 64 and 128; else the likely ones."""
    if head_dim in (64, 128):
        sizes = product((64, 128), (32, 64, 128), (4, 8), (2, 3, 4))
    else:
        sizes = product((64, 128), (64, 128), (4, 8), (2, 3))
    return [Tiles(m, n, head_dim, warps, stages) for m, n, warps, stages in sizes]


TILE_SHAPES = [
    Shape(1, 16, 4096, 16), Shape(4, 64, 4096, 32), Shape(16, 32, 1024, 64),
    Shape(4, 32, 4096, 64), Shape(4, 16, 4096, 128), Shape(4, 8, 4096, 256),
]  # fmt: skip


def compile_tiles(shape: Shape, tiles: Tiles) -> None:
    top_of(tiles, *shape.inputs())


def not_compiled(q, k, v) -> None:
    raise RuntimeError(f"did not compile within {COMPILE_SECONDS} s")


def tiles() -> dict:
    """The top's kernel in every tile size; what does not fit is named with why."""
    sizes = [
        (shape, size) for shape in TILE_SHAPES for size in tile_sizes(shape.head_dim)
    ]
    done = compile_all([partial(compile_tiles, *job) for job in sizes], "tiles")
    is_compiled = dict(zip(sizes, done))
    rows = []
    for shape in tqdm(TILE_SHAPES, desc="tiles"):
        names = {str(size): size for size in tile_sizes(shape.head_dim)}
        functions = {
            name: partial(top_of, size) if is_compiled[shape, size] else not_compiled
            for name, size in names.items()
        }
        extra = {name: partial(resources_of_top, size) for name, size in names.items()}
        for row in rows_of_shape(functions, shape, extra):
            size = names[row["kernel"]]
            columns = {name.lower(): value for name, value in size._asdict().items()}
            rows.append(dict.fromkeys(RESOURCES) | row | {"kernel": "top"} | columns)
    return {"rows": rows}


def timeline() -> dict:
    """One causal launch in each of two orders: where and when each program ran.

    Of many launches back to back it is the one whose length is the median.
    """
    shape = Shape(1, 16, 4096, 128)
    inputs, rows = shape.inputs(), []
    for order in tqdm(ORDERS, desc="timeline"):
        attention = partial(watched_output, order)
        wrong = why_it_fails(attention, inputs, shape, expected_part(inputs, shape))
        if wrong:
            raise RuntimeError(f"the watched kernel, {order}: {wrong}")
        runs = [watch(*inputs, order)[1] for _ in range(LAUNCHES)]
        runs.sort(key=lambda run: max(row["end_us"] for row in run))
        rows += [{"order": order, **row} for row in runs[LAUNCHES // 2]]
    return {**shape.columns(), "launches": LAUNCHES, "rows": rows}


def watched_output(order: str, q, k, v) -> torch.Tensor:
    return watch(q, k, v, order)[0]


_TOP = [
    "step", "tiles", "descriptors", "launch", "order", "kept_maximum", "fast_attention",
]  # fmt: skip
_LADDER = [f"ladder/{rung.module}" for rung in (*RUNGS, *DEAD_ENDS)]
LADDER_EXPERIMENTS = {
    "ladder": (
        [*_TOP, *_LADDER, "ladder/inputs", "causal_attention", "reference"],
        ladder,
    ),
    "tiles": ([*_TOP, "ladder/occupancy", "reference"], tiles),
    "timeline": ([*_TOP, "ladder/timeline", "ladder/inputs", "reference"], timeline),
}
