"""How large a tile each program works on, and how it is launched.

A program holds BLOCK_M queries and, for each stage of its pipeline, BLOCK_N keys and
values in shared memory, so what fits depends on the head dim, the dtype and the card.
"""

from functools import cache
from typing import NamedTuple

import triton


class Tiles(NamedTuple):
    """Sizes a kernel is compiled for."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_D: int
    num_warps: int
    num_stages: int

    def shared_bytes(self, itemsize: int) -> int:
        """Shared memory for the tiles of Q, K and V, in bytes."""
        rows = self.BLOCK_M + 2 * self.num_stages * self.BLOCK_N
        return rows * self.BLOCK_D * itemsize


@cache
def choose_tiles(
    head_dim: int, itemsize: int, shared_memory: int, in_pairs: bool = False
) -> Tiles:
    """The fastest size, or the first of some smaller ones that fits the card.

    BLOCK_D is the head dim rounded up to a power of two; the columns in excess are
    masked. ``itemsize`` is the dtype's size in bytes and ``shared_memory`` the card's
    limit for one program. ``in_pairs``: small tiles, of which a multiprocessor runs two
    at once; where a loop is short, or its scores take long to make, each fills the
    other's gaps. "Fastest" is of those tried, on an H200.
    """
    block_d = max(16, triton.next_power_of_2(head_dim))
    if itemsize == 4 or shared_memory <= 64 * 1024:
        # Products on the ordinary cores, whose operands wait in registers: float32
        # everywhere, and all of Turing, whose tensor cores Triton leaves unused.
        fastest = (32, 32, 4, 2) if block_d <= 64 else (32, 16, 4, 2)
    elif in_pairs and block_d <= 128:
        fastest = (64, 64, 4, 3)
    elif block_d <= 32:
        fastest = (64, 128, 4, 3)
    elif block_d == 64:
        fastest = (128, 64, 8, 3)
    elif block_d == 128:
        fastest = (128, 128, 8, 3)
    else:
        fastest = (128, 64, 8, 2)
    sizes = [fastest, (64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 1), (32, 16, 4, 1)]
    for block_m, block_n, num_warps, num_stages in sizes:
        tiles = Tiles(block_m, block_n, block_d, num_warps, num_stages)
        if tiles.shared_bytes(itemsize) <= shared_memory:
            return tiles
    raise ValueError(
        f"head_dim {head_dim} at {itemsize} bytes an element needs "
        f"{tiles.shared_bytes(itemsize)} bytes of shared memory; "
        f"the card has {shared_memory}"
    )
