"""Who waits for whom in the Hopper kernels, on the CPU: see ``gluon_stand_in``.

The kernels' own source runs in drawn interleavings. No role may hang or touch what is
not its own; every tile is loaded, released and multiplied as often as it should be; and
the values are attention's. Planted faults show that these tests can fail.
"""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from gluon_stand_in import Call, Fault, check, load_kernels

from kernels.hopper_schedule import has_skips, tiles_of_a_head
from kernels.reference import reference_attention

KERNELS = load_kernels()
LENGTHS = (1, 2, 63, 64, 65, 100, 127, 128, 129, 191, 192, 193, 256, 300, 385, 512, 640)
CASES = 280  # drawn ones


def drawn(draw: random.Random) -> dict:
    """Shapes, the number of programs and of consumers, and one interleaving."""
    group = draw.choice((1, 1, 2, 3))
    queries = draw.choice(LENGTHS)
    kernel = draw.choice(("hopper_attention", *["hopper_top"] * 3))
    is_causal = draw.random() < 0.7
    has_window = kernel == "hopper_top" and is_causal and draw.random() < 0.4
    return {
        "kernel": kernel,
        "batch": draw.choice((1, 1, 2)),
        "heads": group * draw.choice((1, 2, 3)),
        "group": group,
        "queries": queries,
        "keys": queries if draw.random() < 0.4 else draw.choice(LENGTHS),
        "is_causal": is_causal,
        "window_size": draw.choice((1, 20, 64, *LENGTHS)) if has_window else None,
        "sink_size": draw.choice((None, 0, *LENGTHS)) if has_window else None,
        "consumers": draw.choice((2, 3)),
        "takes_turns": draw.random() < 0.6,
        "is_predicated": draw.random() < 0.3,
        "keeps_max": draw.random() < 0.5,
        "scale": draw.choice((1, 1, 10, 40)),  # of the scores
        "places": draw.choice((2, 2, 3, 4)),
        "programs": draw.choice((1, 2, 3, 5, 132)),
        "together": draw.random(),
        "seed": draw.randrange(2**31),
    }


def run(kernels, case: dict) -> None:
    """Run a case, and check all there is to check."""
    module = getattr(kernels, case["kernel"])
    is_persistent = case["kernel"] == "hopper_top"
    random_numbers = np.random.default_rng(case["seed"])
    heads = (
        case["heads"],
        case["heads"] // case["group"],
        case["heads"] // case["group"],
    )
    lengths = case["queries"], case["keys"], case["keys"]
    qkv = [
        torch.from_numpy(random_numbers.standard_normal((case["batch"], h, n, 16)))
        for h, n in zip(heads, lengths)
    ]
    qkv[0] *= case["scale"]
    mask = {name: case[name] for name in ("window_size", "sink_size")}
    names = ("consumers", "takes_turns", "is_predicated") if is_persistent else ()
    options = {name: case[name] for name in names}
    options |= mask if is_persistent else {}
    all_heads = case["batch"] * case["heads"]
    divisors = [n for n in range(1, all_heads + 1) if all_heads % n == 0]
    together = divisors[int(case["together"] * len(divisors))]
    module.heads_at_a_time = lambda *sizes: together
    changes = {"PLACES": case["places"]}
    if is_persistent:  # the host does so for bfloat16, and these are of float64
        changes["KEEPS_MAX"] = case["keeps_max"]
    call = Call(
        module, *qkv, case["is_causal"], case["seed"], case["programs"], options,
        **changes,
    )  # fmt: skip
    times = {1}  # that a tile is visited
    if is_persistent and case["keeps_max"] and case["scale"] > 1:
        times = {1, 2}
    check_rings(call, is_persistent)
    check_turns(call, is_persistent and case["takes_turns"])
    check_pairs(call, case, is_persistent, times)
    check_outputs(call, qkv, case["is_causal"], mask, times)


def check_rings(call: Call, is_persistent: bool) -> None:
    """All that was loaded was released by all, but what nothing is loaded over."""
    for program in call.programs:
        kept = Counter()
        for name, tiles, ready, free in program.rings:
            for tile, barrier in zip(tiles, ready, strict=True):
                check(barrier.completed == tile.loads, barrier.name, "waits for more")
                is_kept = tile.loads and len(tile.released_by) < max(tile.readers, 1)
                kept[name] += bool(is_kept)
                is_shared = 0 < len(tile.released_by) < tile.readers
                check(not is_shared, name, "is released by some and not by all")
            if name != "q":  # offered before the first load, but for one that is early
                is_early = name == "k" and not is_persistent
                early = [int(is_early), *[0] * (len(tiles) - 1)]
                for tile, barrier, n in zip(tiles, free, early, strict=True):
                    offered = tile.loads - n
                    check(barrier.completed == offered, barrier.name, "too often")
        expected = {"q": 0 if is_persistent else 2, "k": 0, "v": 1 - is_persistent}
        check(dict(kept) == expected, "kept in the rings:", dict(kept))


def check_turns(call: Call, takes_turns: bool) -> None:
    """Of all turns, the last is left over: it is consumer 0's again."""
    for program in call.programs:
        left = [len(barrier.came) for barrier in program.named[5:8]]
        check(left == [int(takes_turns), 0, 0], "turns left over:", left)


def check_pairs(call: Call, case: dict, is_persistent: bool, times: set) -> None:
    """64 rows and a block of keys meet once if one sees the other, and seldom else.

    Or twice, if the first pass may have failed.
    """
    scores = {key[1:]: n for key, n in call.log.items() if key[0] == "scores"}
    outputs = sum(n for key, n in call.log.items() if key[0] == "output")
    check(set(scores.values()) <= times, "a pair is visited twice")
    check(outputs == sum(scores.values()), "P V is computed as often as Q Kᵀ")
    queries, keys, group = case["queries"], case["keys"], case["group"]
    for batch in range(case["batch"]):
        for head in range(case["heads"]):
            for row in range(0, queries, 64):
                last = min(row + 63, queries - 1)
                seen = (
                    min(last + keys - queries + 1, keys) if case["is_causal"] else keys
                )
                first, window_size = 0, case["window_size"]
                if window_size is not None:
                    first = max(row + keys - queries + 1 - window_size, 0) // 128 * 128
                needed = {
                    ("k", batch, head // group, n)
                    for n in range(0, max(seen, 1), 128)
                    if n >= first or n < (case["sink_size"] or 0)
                }
                visited = {
                    k for q, k in scores if q == ("q", batch, head, row)
                }  # fmt: skip
                check(needed <= visited, "left out:", needed - visited)
                if is_persistent:
                    spare = (last < row + 63) + (window_size is not None)
                    check(len(visited) <= len(needed) + spare, "one too many")


def check_outputs(
    call: Call, qkv: list, is_causal: bool, mask: dict, times: set
) -> None:
    rows, elements = call.written
    stored = Counter(rows.ravel().tolist())
    check(set(stored) <= times, "rows of o are stored", stored)
    check(set(elements.values()) <= times, "elements of lse are stored twice")
    check(len(elements) == call.lse.numel(), "elements of lse are left out")
    o, lse = reference_attention(*qkv, is_causal, **mask, return_lse=True)
    torch.testing.assert_close(call.o, o, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(call.lse, lse.float(), rtol=1e-5, atol=1e-5)


def blocks_seen(end_m: int, queries: int, keys: int) -> int:
    """Blocks of keys that the causal rows before end_m see; one if they see none."""
    return max(1, -(-min(end_m + keys - queries, keys) // 128))


@pytest.mark.parametrize("block_m", [128, 192])
def test_has_skips(block_m):
    """No tile has a block to skip where it says so; and it says so where it pays."""
    for queries in range(1, 450):
        for keys in {queries, *range(1, 700, 9), *range(64, 700, 64)}:
            skipped = any(
                blocks_seen(start_m + seen, queries, keys) < n_blocks
                for start_m, _, n_blocks in tiles_of_a_head(
                    queries, keys, block_m, True
                )
                for seen in range(64, block_m + 1, 64)
            )
            assert has_skips(queries, keys, block_m) or not skipped, (queries, keys)
    assert not has_skips(1024, 1024, 128) and not has_skips(1000, 1000, 128)


@pytest.mark.parametrize("part", range(4))
def test_drawn_interleavings(part):
    draw = random.Random(part)
    for _ in range(CASES // 4):
        case = drawn(draw)
        try:
            run(KERNELS, case)
        except Exception as fault:
            raise AssertionError(f"{case}: {fault}") from fault


# what is wrong, module, a line of it, what stands there instead, what is said of it
FAULTS = [
    ("the output's tile is reused too early", "hopper",
     "    tma.store_wait(0)  # the", "    pass  # the", "still leaving"),
    ("one thread alone has waited", "hopper",
     "    thread_barrier()", "    pass", "no barrier of the threads"),
    ("no fence before the store", "hopper",
     "    fence_async_shared()\n    if start_m", "    if start_m", "before the fence"),
    ("a store before row 0", "hopper", "if start_m >= 0:", "if True:", "before row 0"),
    ("the other lap is waited for", "hopper_rings",
     "(j // PLACES & 1)", "(j // PLACES + 1 & 1)", "deadlock|empty|loading"),
    ("places are found with a sign", "hopper_rings", ".to(gl.uint32)", "",
     "no such place"),
    ("a place is not waited for", "hopper_rings",
     "    sync(ring.free + place, ring.threads)\n", "",
     "comes twice|not released by all"),
    ("a tile is skipped unread", "hopper_rings", "        wait_for(ring, j - 1)  #",
     "        pass  #", "comes twice|releases a tile"),
    ("a ring's barrier counts a warp less", "hopper_rings",
     "READERS * 128 + 32", "READERS * 128", "counts less|deadlock"),
    ("a ring's barrier counts a warp more", "hopper_rings",
     "READERS * 128 + 32", "READERS * 128 + 64", "deadlock"),
    ("two rings share barriers", "named_barriers",
     "V_FREE = gl.constexpr(12)", "V_FREE = gl.constexpr(11)", "shared by two rings"),
    ("turns take a ring's barrier", "named_barriers",
     "TURN = gl.constexpr(5)", "TURN = gl.constexpr(7)", "counts|releases a tile"),
    ("turns take Triton's barrier", "named_barriers",
     "TURN = gl.constexpr(5)", "TURN = gl.constexpr(4)", "Triton's own"),
    ("a turn counts one consumer", "named_barriers",
     "TURN + CONSUMER, 256", "TURN + CONSUMER, 128", "of one role|counts"),
    ("the turn goes to the wrong consumer", "named_barriers",
     "(CONSUMER + 1) % TURNS", "(TURNS - 1 - CONSUMER)", "deadlock"),
    ("K is not released", "hopper_attention",
     "    release(k_ring, j)\n", "", "deadlock|kept|released"),
    ("V is released too early", "hopper_attention",
     "    acc = warpgroup_mma_wait(0, deps=(acc,))\n    release(v_ring, j - 1)",
     "    release(v_ring, j - 1)\n    acc = warpgroup_mma_wait(0, deps=(acc,))",
     "that an own product reads"),
    ("a product too few is waited for", "hopper_attention",
     "warpgroup_mma_wait(1, deps=(qk,))", "warpgroup_mma_wait(2, deps=(qk,))",
     "too few"),
    ("K is not waited for", "hopper_attention",
     "wait_for(k_ring, j, comes)", "wait_for(k_ring, j, False)",
     "has not waited for|product of a tile|loading"),
    ("a ring is not offered", "hopper_attention",
     "    offer(v_ring)\n", "", "deadlock"),
    ("a place is offered that is taken", "hopper_attention",
     "offer(k_ring, 1)", "offer(k_ring)", "releases a tile that"),
    ("a ring is not offered, further up", "hopper_passes",
     "        offer(k_ring)\n", "", "deadlock"),
    ("K has a reader less", "hopper_passes",
     "K_FREE, READERS=CONSUMERS)", "K_FREE, READERS=CONSUMERS - 1)",
     "deadlock|releases a tile|counts"),
    ("Q is not released", "hopper_persistent",
     "        mbarrier.arrive(q_free.index(place), count=1)\n", "", "deadlock|kept"),
    ("Q is released too early", "hopper_persistent",
     "        last = first + n_blocks - 1\n",
     "        last = first + n_blocks - 1\n"
     "        place, _ = find_place(q_ring, (before + i) * CONSUMERS + CONSUMER)\n"
     "        mbarrier.arrive(q_free.index(place), count=1)\n",
     "product of a tile|releases a tile"),
    ("K is released behind the last tile", "hopper_persistent",
     "        if goes_on:\n", "        if True:\n",
     "comes twice|releases a tile"),
    ("K is awaited behind the last tile", "hopper_persistent",
     "issue_scores(q, k_ring, first, QK, goes_on)",
     "issue_scores(q, k_ring, first, QK)", "deadlock"),
    ("the next Q is not waited for", "hopper_persistent",
     "wait_for(q_ring, q_place, goes_on)", "wait_for(q_ring, q_place, False)",
     "product of a tile|has not waited for"),
    ("the product behind the last tile is used", "hopper_persistent",
     "        o = (acc * scale)", "        o = (acc * scale + 0 * l_next[0, 0])",
     "product of a tile"),
    ("a skipped block keeps its turn", "hopper_rings",
     "        wait_turn(CONSUMER, TURNS)\n        pass_turn(CONSUMER, TURNS)\n",
     "        wait_turn(CONSUMER, TURNS)\n", "deadlock"),
    ("a skipped block takes no turn", "hopper_rings",
     "        wait_turn(CONSUMER, TURNS)\n        pass_turn(CONSUMER, TURNS)\n",
     "        pass\n", "deadlock|comes twice|turns left over"),
    ("nobody has the first turn", "hopper_passes",
     "if CONSUMER == CONSUMERS - 1:", "if False:", "deadlock"),
    ("the ring is counted wrong", "hopper_persistent",
     "first = last + 1 + skips", "first = last + 1", "releases a tile|deadlock"),
    ("a block of keys is left out", "hopper_persistent",
     "if MASKED_BLOCKS == 2:", "if False:",
     "deadlock|kept|left out|released|releases"),
    ("the program ends before its store", "hopper_passes",
     "    tma.store_wait(0)\n", "", "a store under way"),
    ("the output goes to the next tile", "hopper_persistent",
     "o, batch, head, start_m)", "o, batch, head, after[2])",
     "rows of o|not close"),
    ("the lists have no end", "hopper_schedule",
     "max(table) + 2", "max(table) + 1", "outside the table"),
    ("tiles overlap", "hopper_schedule", "end_m -= block_m", "end_m -= 64",
     "visited twice"),
    ("nobody skips", "hopper_schedule", "return block_m != 128 or", "return False and",
     "released|releases|deadlock|kept|left out|visited"),
    ("two consumers never skip", "hopper_schedule", "!= 128 or 0 <", "!= 128 and 0 <",
     "released|releases|deadlock|kept|left out|visited"),
    ("a window's left edge has no mask", "hopper_schedule",
     "BLOCK_N - gap, 0)", "BLOCK_N - gap, 0) * 0", "not close"),
    ("of its masked blocks one is forgotten", "hopper_schedule",
     "left + BLOCK_N - 1", "left - 1", "not close"),
    ("a window is too wide", "hopper_softmax", "< reach\n", "<= reach\n",
     "not close"),
    ("a window begins a block late", "hopper_schedule",
     "left // 128 - sink_blocks", "(left + 127) // 128 - sink_blocks",
     "left out|not close|twice|releases"),
    ("the blocks with sinks are not counted", "hopper_schedule",
     "left // 128 - sink_blocks", "left // 128", "left out|not close"),
    ("the gap begins a block late", "hopper",
     "i * BLOCK_N < sink_size", "(i - 1) * BLOCK_N < sink_size",
     "left out|not close|one too many"),
    ("every block has sinks", "hopper_softmax", "sink_size - block * BLOCK_N",
     "sink_size", "not close"),
    ("sinks are no farther than the window", "hopper_softmax", "is_sink, 2**31 - 1,",
     "is_sink, window_size,", "not close"),
    ("nobody goes through the tiles again", "hopper_passes",
     "fits = gl.min(fit, 0) == 1", "fits = True", "not close"),
    ("the second roles are handed out at once", "hopper_passes",
     "    thread_barrier()\n", "", "before all have read"),
    ("one consumer's notes are not read", "hopper_passes",
     "range(1, CONSUMERS)", "range(2, CONSUMERS)", "not close"),
    ("no consumer notes anything", "hopper_passes",
     "    notes.index(CONSUMER).store(fits.to(gl.int32))\n", "", "not written"),
    ("the first pass may still be storing", "hopper_passes",
     "        finish_stores()  #", "        pass  #", "not close"),
    ("the second pass keeps the maximum, too", "hopper_passes",
     "KEEPS_MAX and not IS_AGAIN", "KEEPS_MAX", "not close"),
    ("the second pass offers the rings again", "hopper_passes",
     "    else:\n        offer(k_ring)", "    if 1:\n        offer(k_ring)",
     "comes twice|releases a tile"),
    ("the second pass counts blocks from 0", "hopper_passes",
     "count_tiles(table), end", "count_tiles(table), start[1]",
     "deadlock|releases|counts|product of a tile|has not waited|not released"),
    ("the second pass counts tiles from 0", "hopper_passes",
     "count_tiles(table), end", "start[0], end",
     "deadlock|releases|counts|product of a tile|has not waited|not released"),
    ("no sum is out of range", "hopper_softmax",
     "l_i < LARGEST_SUM", "l_i == l_i", "not close"),
    ("the wrong rows are rescaled", "hopper_softmax", "k // 2 % 2", "k // 4 % 2",
     "not close"),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0])
def test_a_planted_fault_is_found(fault):
    _, module, line, instead, said = fault

    def edit(name, text):
        if name != module:
            return text
        assert line in text, line
        return text.replace(line, instead, 1)

    kernels, draw = load_kernels(edit), random.Random(1)
    with pytest.raises((Fault, AssertionError), match=said):
        for _ in range(200):
            run(kernels, drawn(draw))


@pytest.mark.parametrize("is_planted", [False, True], ids=["as it is", "planted"])
def test_a_sum_out_of_range_is_not_hidden(is_planted):
    """By blocks at a window's left edge that would follow the maximum again.

    Rows 512 and on see three sizes of scores: 0 on the diagonal, then one of 200, for
    which the sum ends, and last one of 100, to which it would be rescaled.
    """

    def edit(name, text):
        line = " " * 20 + "IS_PREDICATED, CONSUMER, TURNS, KEEPS_MAX,"
        if not is_planted or name != "hopper_persistent":
            return text
        assert line in text
        return text.replace(line, line.replace("KEEPS_MAX,", ""))

    module = load_kernels(edit).hopper_top
    q, k = torch.zeros(2, 1, 1, 640, 16, dtype=torch.float64)
    q[..., 0], k[0, 0, 400, 0], k[0, 0, 350, 0] = 4, 200, 100
    v = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 640, 16)))
    mask = {"window_size": 300, "sink_size": None}
    call = Call(module, q, k, v, True, 0, 132, mask, PLACES=2, KEEPS_MAX=True)
    if is_planted:
        with pytest.raises(AssertionError, match="not close"):
            check_outputs(call, (q, k, v), True, mask, {1, 2})
    else:
        check_outputs(call, (q, k, v), True, mask, {1, 2})
