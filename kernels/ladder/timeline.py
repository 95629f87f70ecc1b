"""One causal launch, watched: when and where each program of the top kernel ran.

Each program reads the card's clock (%globaltimer, nanoseconds) and the number of its
multiprocessor (%smid) before and after its tile. GPU only: the interpreter has neither.
"""

import math

import torch
import triton
import triton.language as tl
from triton.language.extra import cuda

from kernels.fast_attention import attention_tile, fast_tiles
from kernels.ladder.inputs import check_rung_inputs, describe
from kernels.order import tile_of_program

ORDERS = ("as they come", "longest first")
COLUMNS = 5  # tile, head, multiprocessor, start, end


@triton.jit
def watched_kernel(
    q_desc, k_desc, v_desc, o_desc, LSE, SEEN, n_tiles, n_heads, n, sm_scale,
    HEADS: tl.constexpr, LONGEST_FIRST: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    tile, head = program % n_tiles, program // n_tiles
    if LONGEST_FIRST:
        tile, head = tile_of_program(program, n_tiles, HEADS)
    start = cuda.globaltimer()
    attention_tile(
        tile, head, n_heads, q_desc, k_desc, v_desc, o_desc, LSE, n, n, sm_scale,
        group=1, IS_CAUSAL=True, HAS_EDGE=True,
    )  # fmt: skip
    row = SEEN + program * COLUMNS
    tl.store(row, tile)
    tl.store(row + 1, head)
    tl.store(row + 2, cuda.smid())
    tl.store(row + 3, start)
    tl.store(row + 4, cuda.globaltimer())


def watch(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, order: str
) -> tuple[torch.Tensor, list[dict]]:
    """Causal attention and, for each program in the order they start, what it did.

    q, k, v as a rung takes them. ``order``: "as they come" (tiles ascending, head after
    head) or "longest first" (all heads). Returns o and rows with tile, head, sm,
    start_us and end_us, in microseconds since the first start; ValueError for another
    order.
    """
    check_rung_inputs(q, k, v)
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; there are {ORDERS}")
    batch, n_heads, n, head_dim = q.shape
    o = torch.empty_like(q)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    tiles = fast_tiles(head_dim, n)
    n_tiles, heads = n // tiles.BLOCK_M, batch * n_heads
    seen = torch.empty(n_tiles * heads, COLUMNS, dtype=torch.int64, device=q.device)
    watched_kernel[(n_tiles * heads,)](
        *describe(q, k, v, o, tiles), lse, seen, n_tiles, heads, n,
        1 / math.sqrt(head_dim), HEADS=heads, LONGEST_FIRST=order == "longest first",
        COLUMNS=COLUMNS, num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    return o, rows_of(seen.tolist())


def rows_of(seen: list[list[int]]) -> list[dict]:
    """The table's rows by name, times in microseconds since the first start."""
    first = min(start for *_, start, _ in seen)
    return [
        {
            "tile": tile,
            "head": head,
            "sm": sm,
            "start_us": (start - first) / 1000,
            "end_us": (end - first) / 1000,
        }
        for tile, head, sm, start, end in seen
    ]
