"""Tensor descriptors: what Hopper's copy engine (TMA) needs to know of a tensor.

A descriptor holds a tensor's address, shape and strides and the size of a block. One
thread then asks for the block at some place; the engine computes the addresses, fills
shared memory, and reads what lies outside the tensor as zeros. On the way back, what
lies outside is not written. (CUDA C++ Programming Guide, "Tensor Memory Accelerator".)
"""

import torch
import triton
import triton.language as tl  # noqa: F401  (the interpreter looks for it)
from triton.tools.tensor_descriptor import TensorDescriptor

ALIGNMENT = 16  # bytes: of a tensor's address and of all its strides but the last


def can_describe(*tensors: torch.Tensor) -> bool:
    """Whether the copy engine can read these tensors as they lie in memory."""
    return all(
        x.stride(-1) == 1
        and x.data_ptr() % ALIGNMENT == 0
        and all(s * x.element_size() % ALIGNMENT == 0 for s in x.stride()[:-1])
        for x in tensors
    )


class Descriptor(TensorDescriptor):
    """Triton's descriptor without its checks, 3 µs each: ``can_describe`` made them."""

    def __post_init__(self):
        pass


def rows_of_a_head(x: torch.Tensor, rows: int, block_d: int) -> Descriptor:
    """Blocks of some rows of one head of x (batch, head, row, column)."""
    return Descriptor(x, x.shape, x.stride(), [1, 1, rows, block_d])


@triton.jit
def load_rows(desc, batch, head, row):
    """The block [rows, BLOCK_D] of a head that begins at a row."""
    block = desc.load([batch, head, row, 0])
    return block.reshape(desc.block_shape[2], desc.block_shape[3])
