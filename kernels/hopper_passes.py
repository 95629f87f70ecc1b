"""FlashAttention for Hopper, further up: once through the tiles, and again if need be.

The first pass keeps the maximum of a row's first blocks; ``kernels.kept_maximum`` says
how far a row may outgrow it, and that the sum l tells in the end. Every consumer notes
whether it has rows whose sum is out of range. If one has, the program works through all
its tiles once more and follows the maximum, as FlashAttention does.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma

from kernels.hopper import ROWS, thread_barrier
from kernels.hopper_persistent import attend_tiles, load_tiles
from kernels.hopper_rings import make_barriers, make_ring, offer
from kernels.hopper_schedule import count_tiles
from kernels.named_barriers import K_FREE, V_FREE, pass_turn


@gluon.jit
def finish_stores():
    """Wait until what the copy engine stores is in the card's memory, not just read."""
    gl.inline_asm_elementwise(
        "cp.async.bulk.wait_group 0; mov.u32 $0, 0;", "=r", [], gl.int32,
        is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def consumer(
    args, notes, start, CONSUMER: gl.constexpr, CONSUMERS: gl.constexpr,
    TURNS: gl.constexpr, IS_CAUSAL: gl.constexpr, MASKED_BLOCKS: gl.constexpr,
    SKIPS: gl.constexpr, IS_PREDICATED: gl.constexpr, KEEPS_MAX: gl.constexpr,
    IS_AGAIN: gl.constexpr,
):  # fmt: skip
    """Attention of 64 rows of each tile; notes for which the sums were in range."""
    _, _, _, _, _, k_ring, v_ring, _, _, _ = args
    before, first = start
    if IS_AGAIN:
        finish_stores()  # there are others to come in the same places
    else:
        offer(k_ring)
        offer(v_ring)
        if CONSUMER == CONSUMERS - 1:
            pass_turn(CONSUMER, TURNS)
    end, fits = attend_tiles(
        args, before, first, CONSUMER, CONSUMERS, TURNS, IS_CAUSAL, MASKED_BLOCKS,
        SKIPS, IS_PREDICATED, KEEPS_MAX and not IS_AGAIN,
    )  # fmt: skip
    notes.index(CONSUMER).store(fits.to(gl.int32))
    tma.store_wait(0)
    return (end,)


@gluon.jit
def go_through(
    a, notes, loads, start, CONSUMERS: gl.constexpr, TURNS: gl.constexpr,
    IS_CAUSAL: gl.constexpr, MASKED_BLOCKS: gl.constexpr, SKIPS: gl.constexpr,
    IS_PREDICATED: gl.constexpr, KEEPS_MAX: gl.constexpr, IS_AGAIN: gl.constexpr,
):  # fmt: skip
    """Give each warp its role, and wait until all are through.

    start: the tiles and the blocks of keys that the rings have had before. Returns the
    blocks they have had then.
    """
    (end,) = gl.warp_specialize(
        [  # all of them, or all but the first
            (consumer, (a, notes, start, 2, CONSUMERS, TURNS, IS_CAUSAL, MASKED_BLOCKS,
                        SKIPS, IS_PREDICATED, KEEPS_MAX, IS_AGAIN)),
            (consumer, (a, notes, start, 1, CONSUMERS, TURNS, IS_CAUSAL, MASKED_BLOCKS,
                        SKIPS, IS_PREDICATED, KEEPS_MAX, IS_AGAIN)),
            (consumer, (a, notes, start, 0, CONSUMERS, TURNS, IS_CAUSAL, MASKED_BLOCKS,
                        SKIPS, IS_PREDICATED, KEEPS_MAX, IS_AGAIN)),
            (load_tiles, (loads, start, CONSUMERS)),
        ][3 - CONSUMERS :],
        [4, 4, 1][3 - CONSUMERS :],
        [160, 160, 24] if CONSUMERS == 3 else [240, 24],
    )  # fmt: skip
    return end


@gluon.jit
def all_fit(notes, CONSUMERS: gl.constexpr):
    """Whether all rows of all consumers had their sums in range.

    The answer is found in shared memory, where Triton then puts what it hands to the
    roles; so nobody leaves before all have read it.
    """
    ROW: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    fit = notes.index(0).load(ROW)
    for c in gl.static_range(1, CONSUMERS):
        fit &= notes.index(c).load(ROW)
    fits = gl.min(fit, 0) == 1
    thread_barrier()
    return fits


@gluon.jit(
    do_not_specialize=[
        "n_queries", "n_keys", "n_heads", "group", "window_size", "sink_size",
    ]
)  # fmt: skip
def hopper_persistent_kernel(
    q_desc, k_desc, v_desc, o_desc, LSE, table,
    n_queries, n_keys, n_heads, group, qk_scale, window_size, sink_size,
    IS_CAUSAL: gl.constexpr, MASKED_BLOCKS: gl.constexpr, SKIPS: gl.constexpr,
    PLACES: gl.constexpr, CONSUMERS: gl.constexpr, TURNS: gl.constexpr,
    IS_PREDICATED: gl.constexpr, KEEPS_MAX: gl.constexpr,
):  # fmt: skip
    """Set up the rings, and go through the tiles once or twice."""
    q_ring = make_ring(q_desc, 2 * CONSUMERS, FREE=0, READERS=0)  # two tiles' queries
    q_free = make_barriers(2 * CONSUMERS)  # the sixteen named ones are taken
    k_ring = make_ring(k_desc, PLACES, K_FREE, READERS=CONSUMERS)
    v_ring = make_ring(v_desc, PLACES, V_FREE, READERS=CONSUMERS)
    o_shape: gl.constexpr = [CONSUMERS, 1, 1, ROWS, o_desc.block_type.shape[3]]
    o_tiles = gl.allocate_shared_memory(o_desc.dtype, o_shape, o_desc.layout)
    NOTES: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, order=[0])
    notes = gl.allocate_shared_memory(gl.int32, [CONSUMERS, ROWS], NOTES)
    fence_async_shared()
    sizes = n_queries, n_keys, n_heads, window_size, sink_size
    loads = q_desc, k_desc, v_desc, table, q_ring, q_free, k_ring, v_ring, group, sizes
    a = o_desc, LSE, table, q_ring, q_free, k_ring, v_ring, o_tiles, sizes, qk_scale
    start = gl.to_tensor(0), gl.to_tensor(0)
    end = go_through(
        a, notes, loads, start, CONSUMERS, TURNS, IS_CAUSAL, MASKED_BLOCKS, SKIPS,
        IS_PREDICATED, KEEPS_MAX, False,
    )  # fmt: skip
    if KEEPS_MAX:  # noqa: SIM102  # known when compiling; the next is not
        if not all_fit(notes, CONSUMERS):
            start = count_tiles(table), end
            go_through(
                a, notes, loads, start, CONSUMERS, TURNS, IS_CAUSAL, MASKED_BLOCKS,
                SKIPS, IS_PREDICATED, KEEPS_MAX, True,
            )  # fmt: skip
