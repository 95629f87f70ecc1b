"""FlashAttention for Hopper, further up: programs that stay and do not pause.

With the rings and the step of ``hopper_attention``, and

    a program a multiprocessor   works through a list of tiles, see hopper_schedule
    no pause between the tiles   the next one's first scores and softmax go with this
                                 one's last P V and with its output's way out
    three consumers              up to head dim 64; each skips the block that only the
                                 rows further down see
    turns                        each consumer hands over its products, then the next
    a window, sinks              blocks between the two are not visited
    a predicated rescale         leaves rows alone whose maximum stayed
    a maximum that is kept       after a tile's first blocks it stays, and nothing is
                                 rescaled; see hopper_passes

A program's tiles follow each other as the blocks of one do: the rings count on.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.hopper import BLOCK_N, ROWS, find_block, write_out
from kernels.hopper_attention import issue_scores, step
from kernels.hopper_rings import (
    find_place,
    load,
    load_at_once,
    release,
    skip,
    skip_scores,
    wait_for,
)
from kernels.hopper_schedule import count_left, count_tiles, find_rows, read_tile
from kernels.hopper_softmax import find_visible, finish_rows, first_softmax
from kernels.named_barriers import pass_turn, wait_turn


@gluon.jit
def load_first(args, tile, i, j, CONSUMERS: gl.constexpr):
    """What a tile begins with: its last block of keys, and the queries. Returns where.

    They are tile j of the keys' ring, and tiles i · CONSUMERS and on of the queries'.
    """
    q_desc, k_desc, _, _, q_ring, q_free, k_ring, _, group, sizes = args
    batch, head, start_m, gap, n_blocks = tile
    start_n = find_block(n_blocks - 1, gap, sizes) * BLOCK_N
    load(k_ring, j, k_desc, batch, head // group, start_n)
    for c in gl.static_range(CONSUMERS):
        place, is_odd = find_place(q_ring, i * CONSUMERS + c)
        mbarrier.wait(q_free.index(place), is_odd ^ 1)  # on lap 0 it is free
        row = start_m + c * ROWS
        load_at_once(q_ring, i * CONSUMERS + c, q_desc, batch, head, row)
    return start_n


@gluon.jit
def load_tiles(args, start, CONSUMERS: gl.constexpr):
    """Producer: load everything, in the order in which the consumers need it.

    start: the tiles and the blocks of keys that the rings have had before.
    """
    _, k_desc, v_desc, table, _, _, k_ring, v_ring, group, sizes = args
    before, j = start
    n_tiles = count_tiles(table)
    tile = read_tile(table, 0)
    start_n = load_first(args, tile, before, j, CONSUMERS)
    for i in range(n_tiles):
        batch, head, _start_m, gap, n_blocks = tile
        tile = read_tile(table, i + 1)
        kv_head = head // group
        for block in range(n_blocks - 2, -1, -1):
            j += 1
            next_n = find_block(block, gap, sizes) * BLOCK_N
            load(k_ring, j, k_desc, batch, kv_head, next_n)
            load(v_ring, j - 1, v_desc, batch, kv_head, start_n)
            start_n = next_n
        j += 1
        next_n = start_n
        if i + 1 < n_tiles:  # its queries come from far
            next_n = load_first(args, tile, before + i + 1, j, CONSUMERS)
        load(v_ring, j - 1, v_desc, batch, kv_head, start_n)
        start_n = next_n


@gluon.jit
def attend_tiles(
    args, before, first, CONSUMER: gl.constexpr, CONSUMERS: gl.constexpr,
    TURNS: gl.constexpr, IS_CAUSAL: gl.constexpr, MASKED_BLOCKS: gl.constexpr,
    SKIPS: gl.constexpr, IS_PREDICATED: gl.constexpr, KEEPS_MAX: gl.constexpr,
):  # fmt: skip
    """Attention of 64 rows of each tile; SKIPS: some do not see a tile's last block.

    The rings have had as many tiles ``before``, and ``first`` blocks of keys. Returns
    the next block, and for which rows all sums were in range.
    """
    o_desc, LSE, table, q_ring, q_free, k_ring, v_ring, o_tiles, sizes, qk_scale = args
    window_size = sizes[3]
    BLOCK_D: gl.constexpr = o_desc.block_type.shape[3]
    QK: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    P: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)
    fits = gl.full([ROWS], True, gl.int1, gl.SliceLayout(1, QK))
    n_tiles = count_tiles(table)
    rows = find_rows(read_tile(table, 0), sizes, CONSUMER, IS_CAUSAL)
    batch, head, start_m, gap, n_blocks, skips = rows
    next_tile = read_tile(table, 1)
    last = first
    first += skips  # where in the rings this consumer's first block of the tile is
    if SKIPS:
        skip_scores(k_ring, first, skips, CONSUMER, TURNS)
    q = wait_for(q_ring, before * CONSUMERS + CONSUMER)
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
                IS_PREDICATED, CONSUMER, TURNS, KEEPS_MAX,
            )  # fmt: skip
        if window_size is not None:
            for j in range(max(middle, left), last + 1):
                block = find_block(last - j, gap, sizes)
                visible = find_visible(start_m, block, sizes, QK, IS_CAUSAL)
                state = step(
                    state, q, k_ring, v_ring, j, qk_scale, visible, True,
                    IS_PREDICATED, CONSUMER, TURNS, KEEPS_MAX,
                )  # fmt: skip
        m_i, l_i, acc, p = state
        place, _ = find_place(q_ring, (before + i) * CONSUMERS + CONSUMER)
        mbarrier.arrive(q_free.index(place), count=1)
        # The last P V goes with the next tile's first block; behind the last tile, with
        # a product of what lies around, which nobody uses.
        _, _, start_next, gap, n_blocks, skips = after
        goes_on = i + 1 < n_tiles
        first = last + 1 + skips
        if SKIPS:
            skip_scores(k_ring, first, skips, CONSUMER, TURNS)
        wait_turn(CONSUMER, TURNS)
        q_place = (before + i + 1) * CONSUMERS + CONSUMER
        q = wait_for(q_ring, q_place, goes_on)
        qk = issue_scores(q, k_ring, first, QK, goes_on)
        acc = warpgroup_mma(p, wait_for(v_ring, last), acc, is_async=True)
        pass_turn(CONSUMER, TURNS)
        scale, fit = finish_rows(m_i, l_i, LSE, batch, head, start_m, sizes, ACC)
        fits &= fit
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
    return last + 1, fits
