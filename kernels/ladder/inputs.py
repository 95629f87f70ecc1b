"""What a rung takes, checked in one place, and the tile size the ladder starts with."""

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.checks import MAX_GRID, check_attention
from kernels.descriptors import rows_of_a_head
from kernels.tiles import Tiles

HEAD_DIMS = (16, 32, 64, 128)
BLOCKS = (16, 32, 64, 128)
MAX_LENGTH = 2**24  # rung 1 keeps a key's place in its head, N·d at most, in 32 bits


def first_tiles(head_dim: int) -> Tiles:
    """The seed's 128 queries and 64 keys; on its 4 warps rungs 1 to 5 would spill."""
    return Tiles(128, 64, head_dim, num_warps=8, num_stages=3)


def check_rung_inputs(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tiles: Tiles | None = None
) -> None:
    """Raise unless a rung can take these tensors, and ``tiles`` if they are given.

    q, k, v: one contiguous shape (B, H, N, d) of one 16-bit dtype; N a multiple of 128,
    so that no block reaches past the end, and d 16, 32, 64 or 128. B·H is at most
    65535. Raises TypeError or ValueError, naming the argument.
    """
    check_attention(q, k, v)
    if q.element_size() != 2:
        raise TypeError(f"q is {q.dtype}; a rung takes torch.float16 or torch.bfloat16")
    batch, n_heads, length, head_dim = q.shape
    if k.shape != q.shape:
        raise ValueError(
            f"k has shape {tuple(k.shape)}; a rung takes q's, {(*q.shape,)}"
        )
    if head_dim not in HEAD_DIMS:
        raise ValueError(f"q has head dim {head_dim}; a rung takes {HEAD_DIMS}")
    if length % 128 or length > MAX_LENGTH:
        raise ValueError(
            f"q has length {length}; a rung takes multiples of 128 up to {MAX_LENGTH}"
        )
    if batch * n_heads > MAX_GRID:
        raise ValueError(
            f"q has {batch * n_heads} heads in all; a rung takes up to {MAX_GRID}"
        )
    for name, value in (("q", q), ("k", k), ("v", v)):
        if not value.is_contiguous():
            raise ValueError(
                f"{name} has strides {value.stride()}; a rung takes contiguous tensors"
            )
    if tiles is not None:
        check_rung_tiles(tiles, head_dim)


def check_rung_tiles(tiles: Tiles, head_dim: int) -> None:
    """Raise unless N is a multiple of both blocks and BLOCK_D is the head dim."""
    for name in ("BLOCK_M", "BLOCK_N"):
        if getattr(tiles, name) not in BLOCKS:
            raise ValueError(
                f"tiles has {name} {getattr(tiles, name)}; a rung takes {BLOCKS}"
            )
    if head_dim != tiles.BLOCK_D:
        raise ValueError(
            f"tiles has BLOCK_D {tiles.BLOCK_D}; a rung takes the head dim, {head_dim}"
        )


def describe(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o: torch.Tensor, tiles: Tiles
) -> list[TensorDescriptor]:
    """Descriptors of all four, their heads numbered through: (1, B·H, N, d)."""
    one_batch = [x.view(1, -1, *x.shape[2:]) for x in (q, k, v, o)]
    rows = (tiles.BLOCK_M, tiles.BLOCK_N, tiles.BLOCK_N, tiles.BLOCK_M)
    return [rows_of_a_head(x, r, tiles.BLOCK_D) for x, r in zip(one_batch, rows)]
