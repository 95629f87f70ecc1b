"""Which tile runs where and when, in a grid of one program a multiprocessor.

The work is dealt out on the host, once for a shape: every program gets a list of tiles
and works through it. Three things decide the order:

    heads in groups      as many at a time as the L2 cache holds K and V of
    longest tiles first  within a group, so that the short ones even out its end
    the least loaded     takes the next tile (Graham's rule, 1969)

The last tile of a head ends with its queries, rounded up to 64. So the first may begin
before them: rows that do not exist cost less there, where causal rows see few keys.
"""

import heapq

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels.hopper import BLOCK_N, ROWS, count_blocks

BOUNDARY = 0.3  # what a tile costs by itself, in blocks of keys


@gluon.jit
def count_tiles(table):
    """How many tiles this program takes."""
    return gl.load(table + gl.program_id(0))


@gluon.jit
def read_tile(table, i):
    """(batch, head, start_m, gap, n_blocks) of this program's i-th tile."""
    tile = table + gl.num_programs(0) * (1 + 5 * i) + 5 * gl.program_id(0)
    batch, head, start_m = gl.load(tile), gl.load(tile + 1), gl.load(tile + 2)
    return batch, head, start_m, gl.load(tile + 3), gl.load(tile + 4)


@gluon.jit
def find_rows(tile, sizes, CONSUMER: gl.constexpr, IS_CAUSAL: gl.constexpr):
    """(batch, head, start_m, gap, n_blocks, skips) of a consumer's rows.

    skips is 1 if none of them sees the tile's last block of keys, else 0.
    """
    n_queries, n_keys, _, window_size, _ = sizes
    batch, head, start_m, gap, n_tile = tile
    if window_size is None:
        gap = 0  # known when compiling, it takes no register
    start_m += CONSUMER * ROWS
    end = count_blocks(start_m + ROWS, n_queries, n_keys, IS_CAUSAL)
    skips = gap + n_tile - end
    return batch, head, start_m, gap, n_tile - skips, skips


@gluon.jit
def count_left(start_m, gap, sizes):
    """How many blocks, from the left, not all of a consumer's rows see whole."""
    n_queries, n_keys, _, window_size, _ = sizes
    left = start_m + ROWS + n_keys - n_queries - window_size  # the last row's first key
    return max((left + BLOCK_N - 1) // BLOCK_N - gap, 0)


def tiles_of_a_head(
    n_queries: int, n_keys: int, block_m: int, is_causal: bool,
    window_size: int | None = None, sink_size: int | None = None,
) -> list[tuple[int, int, int]]:  # fmt: skip
    """(start_m, gap, n_blocks) of each tile, the longest first."""
    tiles = []
    end_m = -(-n_queries // 64) * 64
    while end_m > 0:
        n_seen = min(end_m + n_keys - n_queries, n_keys) if is_causal else n_keys
        end, gap = max(-(-n_seen // 128), 1), 0
        if window_size is not None:  # where that of the tile's first row begins
            left = end_m - block_m + n_keys - n_queries + 1 - window_size
            sink_blocks = -(-(sink_size or 0) // 128)
            gap = max(left // 128 - sink_blocks, 0)
        tiles.append((end_m - block_m, gap, end - gap))
        end_m -= block_m
    return sorted(tiles, key=lambda tile: -tile[2])


def has_skips(n_queries: int, n_keys: int, block_m: int) -> bool:
    """Whether in causal tiles some consumer sees no key of the last block.

    Of two, the first sees 64 keys fewer than the second: it sees none of the last block
    if the second sees no more than 64 there.
    """
    end_m = -(-n_queries // 64) * 64
    return block_m != 128 or 0 < (end_m + n_keys - n_queries) % 128 <= 64


def deal(
    tiles: list[tuple[int, int, int]], n_heads: int, together: int, programs: int
) -> list[list[tuple[int, int, int, int]]]:
    """The (head, start_m, gap, n_blocks) of each program's tiles, in order."""
    lists = [[] for _ in range(min(programs, n_heads * len(tiles)))]
    loads = [(0.0, program) for program in range(len(lists))]  # a heap: least first
    for first in range(0, n_heads, together):
        for tile in tiles:
            for head in range(first, min(first + together, n_heads)):
                load, program = loads[0]
                heapq.heapreplace(loads, (load + tile[-1] + BOUNDARY, program))
                lists[program].append((head, *tile))
    return lists


def make_table(
    device: torch.device, batch: int, n_heads: int, n_queries: int, n_keys: int,
    block_m: int, mask: tuple[bool, int | None, int | None], together: int,
) -> tuple[torch.Tensor, int]:  # fmt: skip
    """The lists on the card, int32, and the number of programs.

    mask: is_causal, window_size, sink_size.
    First each program's number of tiles, then everyone's first tile, everyone's second,
    …, each as ``read_tile`` returns it; shorter lists end in zeros, and so do all.
    """
    programs = torch.cuda.get_device_properties(device).multi_processor_count
    tiles = tiles_of_a_head(n_queries, n_keys, block_m, *mask)
    lists = deal(tiles, batch * n_heads, together, programs)
    table = [len(tiles) for tiles in lists]
    for i in range(max(table) + 2):
        for tiles in lists:
            head, *rest = tiles[i] if i < len(tiles) else (0, 0, 0, 0)
            table += [head // n_heads, head % n_heads, *rest]
    return torch.tensor(table, dtype=torch.int32, device=device), len(lists)
