"""The top of the ladder on Hopper: chapter 11's kernel, called.

The host's part of ``hopper_passes``: how many consumers there are, which tiles run
where, what the copy engine has to know, and a launch that costs it little.
"""

import math
from functools import cache

import torch

from kernels.hopper import describe
from kernels.hopper_passes import hopper_persistent_kernel
from kernels.hopper_schedule import has_skips, make_table
from kernels.launch import empty_lse, launch
from kernels.order import heads_at_a_time
from kernels.step import LOG2_E


def choose_consumers(n_queries: int, n_keys: int, is_causal: bool) -> int:
    """Two or three, for head dims up to 64: which were faster on an H200.

    Tiles of 192 rows read K and V less often, but many of them have rows that lie
    before the queries, or end in few keys.
    """
    if n_keys <= 1024:
        return 2
    return 3 if is_causal or -n_queries % 192 < n_queries // 12 else 2


@cache  # for good, since a captured CUDA graph may read the table later
def plan(
    device: torch.device, dtype: torch.dtype, q_shape: torch.Size, k_shape: torch.Size,
    mask: tuple[bool, int | None, int | None], consumers: int | None, takes_turns: bool,
    is_predicated: bool, keeps_max: bool,
) -> tuple[int, tuple[int, int, int], tuple, tuple]:  # fmt: skip
    """All of a launch but its tensors: (block_d, grid, arguments, key)."""
    is_causal, window_size, sink_size = mask
    batch, n_heads, n_queries, head_dim = q_shape
    group, n_keys = n_heads // k_shape[1], k_shape[2]
    block_d = max(16, 1 << (head_dim - 1).bit_length())  # the next power of two
    if block_d == 128 or window_size is not None:
        consumers = 2
    elif consumers is None:
        consumers = choose_consumers(n_queries, n_keys, is_causal)
    masked_blocks = 1 if is_causal or n_keys % 128 else 0
    if is_causal and (n_keys - n_queries) % 64:
        masked_blocks = 2  # the diagonal of 64 rows crosses two blocks
    together = heads_at_a_time(batch * n_heads, group, 4 * n_keys * head_dim)
    table, programs = make_table(
        device, batch, n_heads, n_queries, n_keys, 64 * consumers, mask, together
    )
    turns = consumers if takes_turns else 0
    places = 2 if block_d == 128 else 4
    skips = is_causal and has_skips(n_queries, n_keys, 64 * consumers)
    keeps_max = keeps_max and dtype == torch.bfloat16  # which has float32's range
    modes = (
        is_causal, masked_blocks, skips, places, consumers, turns, is_predicated,
        keeps_max,
    )  # fmt: skip
    arguments = (
        table, n_queries, n_keys, n_heads, group, LOG2_E.value / math.sqrt(head_dim),
        window_size, sink_size, *modes,
    )  # fmt: skip
    key = device, dtype, block_d, window_size is None, sink_size is None, *modes
    return block_d, (programs, 1, 1), arguments, key


def hopper_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = True,
    window_size: int | None = None, sink_size: int | None = None, *,
    consumers: int | None = None, takes_turns: bool = True, is_predicated: bool = True,
    keeps_max: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """What ``kernels.hopper_attention`` computes, of the same tensors, faster.

    Causal, a query may see only the last ``window_size`` of its keys, and besides
    them the first ``sink_size`` of all. The first call of a shape makes its table, so
    it cannot be in a CUDA graph. ``consumers``: 2 or 3, up to head dim 64 and without a
    window. ``keeps_max``: keep the maximum of a row's first blocks, in bfloat16 only; a
    second pass follows it where that was wrong, if no value of v exceeds 2⁶².
    """
    o = torch.empty_like(q)
    lse = empty_lse(q)
    mask = is_causal, window_size, sink_size
    block_d, grid, arguments, key = plan(
        q.device, q.dtype, q.shape, k.shape, mask, consumers, takes_turns,
        is_predicated, keeps_max,
    )  # fmt: skip
    tensors = (
        describe(q, 64, block_d), describe(k, 128, block_d),
        describe(v, 128, block_d), describe(o, 64, block_d), lse,
    )  # fmt: skip
    launch(hopper_persistent_kernel, grid, (*tensors, *arguments), key, num_warps=4)
    return o, lse
