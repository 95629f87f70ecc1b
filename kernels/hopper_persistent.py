"""FlashAttention for Hopper, further up: programs that stay and do not pause.

The kernel of ``hopper_attention``, with its rings and its step, and

    a program a multiprocessor   works through a list of tiles, see hopper_schedule
    no pause between the tiles   the next one's first scores and softmax go with this
                                 one's last P V and with its output's way out
    three consumers              up to head dim 64; each skips the block that only the
                                 rows further down see
    turns                        each consumer hands over its products, then the next
    a window, sinks              blocks between the two are not visited
    a predicated rescale         leaves rows alone whose maximum stayed

A program's tiles follow each other as the blocks of one do: the rings count on.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.hopper import BLOCK_N, ROWS, find_block, write_out
from kernels.hopper_attention import issue_scores, step
from kernels.hopper_rings import (
    find_place,
    load,
    load_at_once,
    make_barriers,
    make_ring,
    offer,
    release,
    skip,
    skip_scores,
    wait_for,
)
from kernels.hopper_schedule import count_left, count_tiles, find_rows, read_tile
from kernels.hopper_softmax import find_visible, finish_rows, first_softmax
from kernels.named_barriers import K_FREE, V_FREE, pass_turn, wait_turn


@gluon.jit
def producer(args, CONSUMERS: gl.constexpr):
    """Load everything, in the order in which the consumers need it."""
    q_desc, k_desc, v_desc, table, q_ring, q_free, k_ring, v_ring, group, sizes = args
    j = 0
    for i in range(count_tiles(table)):
        batch, head, start_m, gap, n_blocks = read_tile(table, i)
        kv_head = head // group
        start_n = find_block(n_blocks - 1, gap, sizes) * BLOCK_N
        load(k_ring, j, k_desc, batch, kv_head, start_n)
        for c in gl.static_range(CONSUMERS):
            place, is_odd = find_place(q_ring, i * CONSUMERS + c)
            mbarrier.wait(q_free.index(place), is_odd ^ 1)  # on lap 0 it is free
            row = start_m + c * ROWS
            load_at_once(q_ring, i * CONSUMERS + c, q_desc, batch, head, row)
        for done in range(1, n_blocks):
            j += 1
            next_n = find_block(n_blocks - 1 - done, gap, sizes) * BLOCK_N
            load(k_ring, j, k_desc, batch, kv_head, next_n)
            load(v_ring, j - 1, v_desc, batch, kv_head, start_n)
            start_n = next_n
        load(v_ring, j, v_desc, batch, kv_head, start_n)
        j += 1


@gluon.jit
def consumer(
    args, CONSUMER: gl.constexpr, CONSUMERS: gl.constexpr, TURNS: gl.constexpr,
    IS_CAUSAL: gl.constexpr, MASKED_BLOCKS: gl.constexpr, SKIPS: gl.constexpr,
    IS_PREDICATED: gl.constexpr,
):  # fmt: skip
    """Attention of 64 rows of each tile; SKIPS: some do not see a tile's last block."""
    o_desc, LSE, table, q_ring, q_free, k_ring, v_ring, o_tiles, sizes, qk_scale = args
    window_size = sizes[3]
    BLOCK_D: gl.constexpr = o_desc.block_type.shape[3]
    QK: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    P: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)
    n_tiles = count_tiles(table)
    rows = find_rows(read_tile(table, 0), sizes, CONSUMER, IS_CAUSAL)
    batch, head, start_m, gap, n_blocks, skips = rows
    next_tile = read_tile(table, 1)
    offer(k_ring)
    offer(v_ring)
    if CONSUMER == CONSUMERS - 1:
        pass_turn(CONSUMER, TURNS)
    first = skips  # where in the rings this consumer's first block of the tile is
    if SKIPS:
        skip_scores(k_ring, first, skips, CONSUMER, TURNS)
    q = wait_for(q_ring, CONSUMER)
    qk = warpgroup_mma_wait(0, deps=(issue_scores(q, k_ring, first, QK),))
    release(k_ring, first)
    block = find_block(n_blocks - 1, gap, sizes)
    visible = find_visible(start_m, block, sizes, QK, IS_CAUSAL)
    m_i, l_i, p = first_softmax(qk, qk_scale, visible, MASKED_BLOCKS > 0)
    p = gl.convert_layout(p.to(o_desc.dtype), P)
    for i in range(n_tiles):
        after = find_rows(next_tile, sizes, CONSUMER, IS_CAUSAL)
        next_tile = read_tile(table, i + 2)  # it takes its time
        if SKIPS:
            skip(v_ring, first, skips)
        last = first + n_blocks - 1
        state = m_i, l_i, gl.zeros([ROWS, BLOCK_D], gl.float32, ACC), p
        block = find_block(n_blocks - 2, gap, sizes)
        visible = find_visible(start_m, block, sizes, QK, IS_CAUSAL)
        if MASKED_BLOCKS == 2:  # noqa: SIM102  # known when compiling; the next is not
            if n_blocks > 1:
                state = step(
                    state, q, k_ring, v_ring, first + 1, qk_scale, visible, True,
                    IS_PREDICATED, CONSUMER, TURNS,
                )  # fmt: skip
        n_left = 0 if window_size is None else count_left(start_m, gap, sizes)
        middle, left = first + max(MASKED_BLOCKS, 1), last + 1 - n_left
        for j in range(middle, left):
            state = step(
                state, q, k_ring, v_ring, j, qk_scale, visible, False,
                IS_PREDICATED, CONSUMER, TURNS,
            )  # fmt: skip
        if window_size is not None:
            for j in range(max(middle, left), last + 1):
                block = find_block(last - j, gap, sizes)
                visible = find_visible(start_m, block, sizes, QK, IS_CAUSAL)
                state = step(
                    state, q, k_ring, v_ring, j, qk_scale, visible, True,
                    IS_PREDICATED, CONSUMER, TURNS,
                )  # fmt: skip
        m_i, l_i, acc, p = state
        place, _ = find_place(q_ring, i * CONSUMERS + CONSUMER)
        mbarrier.arrive(q_free.index(place), count=1)
        # The last P V goes with the next tile's first block; behind the last tile, with
        # a product of what lies around, which nobody uses.
        _, _, start_next, gap, n_blocks, skips = after
        goes_on = i + 1 < n_tiles
        first = last + 1 + skips
        if SKIPS:
            skip_scores(k_ring, first, skips, CONSUMER, TURNS)
        wait_turn(CONSUMER, TURNS)
        q = wait_for(q_ring, (i + 1) * CONSUMERS + CONSUMER, goes_on)
        qk = issue_scores(q, k_ring, first, QK, goes_on)
        acc = warpgroup_mma(p, wait_for(v_ring, last), acc, is_async=True)
        pass_turn(CONSUMER, TURNS)
        scale = finish_rows(m_i, l_i, LSE, batch, head, start_m, sizes, ACC)
        qk = warpgroup_mma_wait(1, deps=(qk,))
        if goes_on:
            release(k_ring, first)
        block = find_block(n_blocks - 1, gap, sizes)
        visible = find_visible(start_next, block, sizes, QK, IS_CAUSAL)
        m_next, l_next, p_next = first_softmax(qk, qk_scale, visible, MASKED_BLOCKS > 0)
        acc = warpgroup_mma_wait(0, deps=(acc,))
        release(v_ring, last)
        o = (acc * scale).to(o_desc.dtype)
        write_out(o_desc, o_tiles.index(CONSUMER), o, batch, head, start_m)
        m_i, l_i = m_next, l_next
        p = gl.convert_layout(p_next.to(o_desc.dtype), P)
        batch, head, start_m, _, _, _ = after
    tma.store_wait(0)


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
    IS_PREDICATED: gl.constexpr,
):  # fmt: skip
    """Set up the rings, and give each warp its role."""
    q_ring = make_ring(q_desc, 2 * CONSUMERS, FREE=0, READERS=0)  # two tiles' queries
    q_free = make_barriers(2 * CONSUMERS)  # the sixteen named ones are taken
    k_ring = make_ring(k_desc, PLACES, K_FREE, READERS=CONSUMERS)
    v_ring = make_ring(v_desc, PLACES, V_FREE, READERS=CONSUMERS)
    o_shape: gl.constexpr = [CONSUMERS, 1, 1, ROWS, o_desc.block_type.shape[3]]
    o_tiles = gl.allocate_shared_memory(o_desc.dtype, o_shape, o_desc.layout)
    fence_async_shared()
    sizes = n_queries, n_keys, n_heads, window_size, sink_size
    loads = q_desc, k_desc, v_desc, table, q_ring, q_free, k_ring, v_ring, group, sizes
    a = o_desc, LSE, table, q_ring, q_free, k_ring, v_ring, o_tiles, sizes, qk_scale
    gl.warp_specialize(
        [  # all of them, or all but the first
            (consumer, (a, 2, CONSUMERS, TURNS, IS_CAUSAL, MASKED_BLOCKS, SKIPS,
                        IS_PREDICATED)),
            (consumer, (a, 1, CONSUMERS, TURNS, IS_CAUSAL, MASKED_BLOCKS, SKIPS,
                        IS_PREDICATED)),
            (consumer, (a, 0, CONSUMERS, TURNS, IS_CAUSAL, MASKED_BLOCKS, SKIPS,
                        IS_PREDICATED)),
            (producer, (loads, CONSUMERS)),
        ][3 - CONSUMERS :],
        [4, 4, 1][3 - CONSUMERS :],
        [160, 160, 24] if CONSUMERS == 3 else [240, 24],
    )  # fmt: skip
