"""Chapter 10's ladder: every rung is right, and its diff shows its idea.

The last section compiles the rungs for Hopper, where a test says so (see
compile_ladder.py); it needs no GPU. What needs one says so when it is skipped.
"""

import functools
import json
import os
import subprocess
import sys
import time
from fractions import Fraction
from functools import partial
from itertools import pairwise
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import DTYPES, KEPT_IN, check_rms, compare, inputs, name_of
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention_rows import Shape
from kernels.device import INTERPRETED
from kernels.fast_attention import (
    fast_attention,
    fast_tiles,
    heads_at_a_time,
    tile_of_program,
)
from kernels.ladder import DEAD_ENDS, RUNGS, changes, measure, persistent, timeline
from kernels.ladder.inputs import first_tiles
from kernels.ladder.occupancy import programs_per_sm
from kernels.ladder.schedule import simulate
from kernels.ladder_experiments import SHAPES, TILE_SHAPES, tile_sizes
from kernels.launch import launch
from kernels.reference import naive_attention
from kernels.tiles import Tiles

SHORT_DTYPES = [dtype for dtype in DTYPES if dtype.itemsize == 2]
ALL = (*RUNGS, *DEAD_ENDS)
BY_NAME = {rung.name: rung for rung in ALL}
# (length, head dim): one tile and more, one block of keys and more
CASES = [(128, 16), (128, 32), (128, 64), (128, 128), (256, 64), (384, 16)]
# What tiles a rung may be given; the diagonal of "next scores first" is one block.
DRAWN_TILES = [(32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 32), (64, 16)]

every_rung = pytest.mark.parametrize("rung", ALL, ids=lambda rung: rung.module)
every_dtype = pytest.mark.parametrize("dtype", SHORT_DTYPES, ids=name_of)
needs_gpu = pytest.mark.skipif(INTERPRETED, reason="needs a GPU: reads its clock")


@pytest.fixture(autouse=True)
def few_multiprocessors(monkeypatch):
    """So that a persistent program has several tiles in these small shapes, too."""
    monkeypatch.setattr(persistent, "multiprocessors", lambda x: 1)


def error_of(rung, qkv, tiles=None):
    def ours(q, k, v):
        return rung.attention(q, k, v, tiles), None

    return compare(ours, naive_attention, qkv, is_causal=True)


@every_rung
@every_dtype
def test_error(rung, dtype):
    measured = []
    for length, head_dim in CASES:
        case = error_of(rung, inputs(length, length, head_dim, dtype))
        case.check_max((length, head_dim))
        measured.append(case)
    check_rms(measured)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_drawn(data):
    """Rung, dtype, shape and tiles in combinations nobody thought of."""
    draw = data.draw
    rung = draw(st.sampled_from(ALL), "rung")
    dtype = draw(st.sampled_from(SHORT_DTYPES), "dtype")
    batch, n_heads = draw(st.tuples(*[st.integers(1, 2)] * 2), "batch, heads")
    length = 128 * draw(st.integers(1, 2), "length / 128")
    head_dim = draw(st.sampled_from([16, 32, 64]), "head_dim")
    blocks = draw(st.sampled_from(DRAWN_TILES), "blocks")
    if rung.module == "next_scores_first" and blocks[0] > blocks[1]:
        blocks = blocks[::-1]
    tiles = Tiles(*blocks, head_dim, num_warps=4, num_stages=2)
    qkv = inputs(length, length, head_dim, dtype, batch, n_heads)
    error_of(rung, qkv, tiles).check_max()


@pytest.mark.filterwarnings("ignore:invalid value")  # of the other head, NaN
@every_rung
def test_no_head_reads_another(rung):
    """What lies behind a head's last row is another head's: infinite here."""
    q, k, v = inputs(128, 128, 32, torch.float16)
    expected = rung.attention(q, k, v)[:, 0]
    for x in (q, k, v):
        x[:, 1] = torch.inf
    assert torch.equal(rung.attention(q, k, v)[:, 0], expected)


@every_rung
@every_dtype
def test_large_logits(rung, dtype):
    """Scores of several hundreds: e^score alone would overflow."""
    q, k, v = inputs(128, 128, 64, dtype)
    error_of(rung, (100 * q, k, v)).check_max()


@every_rung
@every_dtype
def test_same_bits_every_time(rung, dtype):
    qkv = inputs(256, 256, 64, dtype)
    assert torch.equal(rung.attention(*qkv), rung.attention(*qkv))


# A rung that changes no arithmetic, and the one before it.
SAME_ARITHMETIC = [
    ("two phases", "copy engine"),
    ("small tiles", "longest first"),
    ("longest first", "heads grouped"),
    ("partial sums", "persistent"),
    ("partial sums", "next scores first"),
]


@pytest.mark.parametrize("pair", SAME_ARITHMETIC, ids="-".join)
@pytest.mark.parametrize("head_dim", (16, 128))
def test_same_arithmetic_same_bits(pair, head_dim):
    """How tiles are loaded, and in which order they run, changes no bit of them."""
    before, after = (BY_NAME[name] for name in pair)
    qkv = inputs(256, 256, head_dim, torch.float16)
    tiles = Tiles(64, 64, head_dim, num_warps=4, num_stages=2)
    o = before.attention(*qkv, tiles)
    assert torch.equal(o, after.attention(*qkv, tiles))


@pytest.mark.parametrize("dtype", [torch.float16, KEPT_IN], ids=str)
@pytest.mark.parametrize("factor", [1, 1000])
@pytest.mark.parametrize("head_dim", (16, 64, 128))
def test_the_last_rung_is_the_top(head_dim, factor, dtype, monkeypatch):
    """Also where the maximum is kept, and where it must be followed after all."""
    monkeypatch.setattr("kernels.ladder.kept_maximum.check_rung_inputs", lambda *_: 0)
    q, k, v = inputs(256, 256, head_dim, dtype)
    k[:, 0, 10] *= factor if dtype == KEPT_IN else 1
    o = RUNGS[-1].attention(q, k, v)
    assert torch.equal(o, fast_attention(q, k, v)[0]) and o.isfinite().all()


@every_rung
def test_what_a_rung_refuses(rung):
    q, k, v = inputs(128, 128, 64, torch.float16)

    def refuses(error, words, q=q, k=k, v=v, tiles=None):
        with pytest.raises(error, match=words):
            rung.attention(q, k, v, tiles)

    long, wide = q.new_zeros(1, 2, 192, 64), q.new_zeros(1, 2, 128, 80)
    odd = q.transpose(1, 2).contiguous().transpose(1, 2)
    many = q.new_zeros(1, 1, 128, 64).expand(2, 40000, 128, 64)
    refuses(TypeError, "q is torch.float32", *[x.float() for x in (q, k, v)])
    refuses(ValueError, "k has shape", k=k[:, :1], v=v[:, :1])  # grouped queries
    refuses(ValueError, "q has head dim 80", wide, wide, wide)
    refuses(ValueError, "q has length 192", long, long, long)
    refuses(ValueError, "q has 80000 heads", many, many, many)
    for name in ("q", "k", "v"):
        refuses(ValueError, f"{name} has strides", **{name: odd})
    refuses(ValueError, "BLOCK_M 256", tiles=Tiles(256, 64, 64, 4, 2))
    refuses(ValueError, "BLOCK_N 48", tiles=Tiles(64, 48, 64, 4, 2))
    refuses(ValueError, "BLOCK_D 32", tiles=Tiles(64, 64, 32, 4, 2))


def test_a_diagonal_of_two_blocks_is_refused():
    q, k, v = inputs(128, 128, 64, torch.float16)
    tiles = Tiles(128, 64, 64, num_warps=8, num_stages=2)
    with pytest.raises(ValueError, match="tiles has BLOCK_M 128"):
        BY_NAME["next scores first"].attention(q, k, v, tiles)


# The diffs: what each must show, and how many lines it may add and take away.
IDEAS = {
    "16-bit operands": ["+        k = tl.load(k_ptrs + start_n * BLOCK_D)"],
    "base two": ["+        p = tl.exp2(qk * qk_scale - m_new[:, None])"],
    "two phases": ["+            if IS_MASKED:", "-    for start_n in range(0,"],
    "copy engine": ["+            k = load_rows(k_desc, 0, head, start_n)"],
    "small tiles": ["+    tiles = tiles or fast_tiles(head_dim, n)"],
    "longest first": ["+    tile, head = n_tiles - 1 - tl.program_id(1),"],
    "heads grouped": ["+    heads = heads_at_a_time(", "+    tile, head = tile_of_"],
    "partial sums": ["+            l_i = l_i * alpha[:, None] + tl.sum(columns, 1)"],
    "kept maximum": [
        "+                    if IS_MASKED or not KEEPS_MAX:",
        "+            fits = tl.min((tl.sum(l_i, 1) < LARGEST_SUM)",
    ],
    "persistent": ["+    for program in range(tl.program_id(0), n_programs,"],
    "next scores first": ["+                next_qk = tl.dot(q, k.T)"],
}


@pytest.mark.parametrize("name", IDEAS)
def test_a_diff_shows_the_idea_and_little_else(name):
    after = BY_NAME[name]
    before = BY_NAME["partial sums"]  # that of what did not help
    if after in RUNGS:
        before = RUNGS[RUNGS.index(after) - 1]
    lines = changes(before, after).splitlines()
    for idea in IDEAS[name]:
        assert any(line.startswith(idea) for line in lines), idea
    assert sum(line[0] in "+-" for line in lines) <= 20


def test_every_rung_has_its_diff():
    assert [rung.name for rung in ALL[1:]] == list(IDEAS)
    assert len({rung.module for rung in ALL}) == len(ALL)
    assert changes(RUNGS[0], RUNGS[0]) == ""
    small, copy = BY_NAME["small tiles"], BY_NAME["copy engine"]
    assert "@@ kernel @@" not in changes(copy, small)  # other tiles, the same kernel


def test_a_diff_skips_what_only_moved_to_the_right():
    shown = changes(BY_NAME["base two"], BY_NAME["two phases"]).splitlines()
    assert not any(line.startswith("+            p = ") for line in shown)
    assert " " * 17 + 'qk = tl.where(visible, qk, -float("inf"))' in shown


# The order of the programs, and how they fill the card.


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_measured_launches_cover_every_tile_once(shape):
    """And as many heads at a time as 16 MiB of K and V hold."""
    heads = shape.batch * shape.heads
    kv_bytes = 2 * shape.length * shape.head_dim * 2
    HEADS = heads_at_a_time(heads, 1, kv_bytes)
    assert HEADS * kv_bytes == 16 * 2**20
    n_tiles = shape.length // 64
    places = [tile_of_program.fn(p, n_tiles, HEADS) for p in range(n_tiles * heads)]
    assert len(set(places)) == len(places)
    assert {head for _, head in places} == set(range(heads))
    assert {tile for tile, _ in places} == set(range(n_tiles))


@pytest.mark.parametrize("rung", ALL[7:], ids=lambda rung: rung.module)
def test_heads_are_grouped_by_the_bytes_of_k_and_v(rung, monkeypatch):
    """Six heads in all, each with 128 keys and values of 32 numbers of 2 bytes."""
    asked = []

    def two(*arguments):
        asked.append(arguments)
        return 2

    monkeypatch.setattr(f"kernels.ladder.{rung.module}.heads_at_a_time", two)
    qkv = inputs(128, 128, 32, torch.float16, batch=2, n_heads=3)
    expected = RUNGS[6].attention(*qkv)
    torch.testing.assert_close(rung.attention(*qkv), expected, rtol=0, atol=1e-3)
    assert asked == [(6, 1, 2 * 128 * 32 * 2)]


def test_simulate_known_cases():
    assert simulate([], 3) == []
    assert simulate([2, 1], 4) == [(0, 0, 2), (1, 0, 1)]
    # Slot 1 is free first; at time 3 both are, and the lower one is taken.
    assert simulate([3, 1, 2, 1], 2) == [(0, 0, 3), (1, 0, 1), (1, 1, 3), (0, 3, 4)]
    with pytest.raises(ValueError, match="slots is 0"):
        simulate([1], 0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 9))
def test_simulate_wastes_no_slot(costs, slots):
    """Nobody waits while a slot is free, no slot runs two, Graham's bounds hold."""
    placed = simulate(costs, slots)
    assert [end - start for _, start, end in placed] == costs
    for slot in range(slots):
        mine = [(start, end) for s, start, end in placed if s == slot]
        assert all(a[1] == b[0] for a, b in pairwise(mine))
    starts = [start for _, start, _ in placed]
    assert starts == sorted(starts)
    length = max(end for *_, end in placed)
    least = max(Fraction(sum(costs), slots), max(costs))
    assert least <= length <= Fraction(sum(costs), slots) + max(costs)


def test_longest_first_shortens_the_tail():
    """Tiles of 1 … 64 blocks, 16 heads, two programs on each of 132 multiprocessors."""
    as_they_come = [tile + 1 for _ in range(16) for tile in range(64)]
    longest_first = sorted(as_they_come, reverse=True)
    ends = [
        max(end for *_, end in simulate(costs, 264))
        for costs in (as_they_come, longest_first)
    ]
    ideal = sum(as_they_come) / 264
    assert ends[1] <= 1.05 * ideal < 1.2 * ideal < ends[0]


# registers, shared bytes, warps -> programs on a multiprocessor
OCCUPANCY = {
    (138, 115712, 4): 2,  # d = 128: shared memory, to the last byte
    (138, 115712 + 1, 4): 1,
    (154, 74752, 4): 3,  # d = 64: registers, and shared memory as well
    (32, 0, 4): 16,  # all 64 warps
    (32, 0, 1): 32,  # no more programs than 32
    (255, 0, 8): 1,
    (168, 0, 4): 3,  # 12 warps of 168 · 32 registers
    (169, 0, 4): 2,  # a register more is eight more
    (128, 0, 8): 2,
    (129, 0, 8): 1,
    (255, 0, 16): 0,
    (32, 228 * 1024, 4): 0,
    (32, 227 * 1024, 4): 1,
}


@pytest.mark.parametrize("taken", OCCUPANCY, ids=name_of)
def test_programs_per_multiprocessor(taken):
    assert programs_per_sm(*taken) == OCCUPANCY[taken]


# The measurements, as far as they go without a GPU.


def test_a_wrong_kernel_gets_its_reason_and_no_time(monkeypatch):
    """And the resources of the others stand in their rows."""
    shape = Shape(1, 2, 128, 64, dtype="float16")
    monkeypatch.setattr(
        measure,
        "time_shuffled",
        lambda functions: {name: [1.0, 2.0, 4.0] for name in functions},
    )
    functions = {"right": RUNGS[0].attention, "wrong": lambda q, k, v: v}
    extra = {"right": lambda q, k, v: {"registers": 77}}
    right, wrong = measure.rows_of_shape(functions, shape, extra)
    assert right["ms"] == 2 and right["registers"] == 77
    assert right["tflops"] == round(shape.flops() / 2e9, 2)
    assert wrong["ms"] is None and wrong["error"].startswith("wrong by")


def test_what_does_not_compile_in_time_is_told(monkeypatch):
    """And a job that fails has ended. Threads stand in for the processes."""
    threads = SimpleNamespace(Pool=ThreadPool)
    monkeypatch.setattr(measure.multiprocessing, "get_context", lambda name: threads)
    monkeypatch.setattr(measure.os, "sched_getaffinity", lambda pid: range(6))
    jobs = [partial(time.sleep, 0), partial(time.sleep, 5), partial(int, "x")]
    start = time.monotonic()
    assert measure.compile_all(jobs, "three", seconds=0.5) == [True, False, True]
    assert time.monotonic() - start < 4


def test_kernels_take_turns(monkeypatch):
    """Every round has each kernel once, in an order of its own; the first is lost."""
    calls = []

    def do_bench(function, warmup, rep, return_mode):
        calls.append(function)
        return len(calls)

    monkeypatch.setattr("triton.testing.do_bench", do_bench)
    samples = measure.time_shuffled({name: name for name in "abcdef"})
    rounds = [tuple(calls[i : i + 6]) for i in range(0, len(calls), 6)]
    assert len(rounds) == measure.ROUNDS + 1
    assert all(sorted(r) == list("abcdef") for r in rounds)
    assert len(set(rounds)) > measure.ROUNDS / 2
    assert all(len(times) == measure.ROUNDS for times in samples.values())
    assert min(min(times) for times in samples.values()) > 6


class Event:
    """A clock that the card's stream moves on: by what each function takes."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = Event.now

    def elapsed_time(self, after):
        return after.time - self.time


def test_kernels_take_turns_launch_by_launch(monkeypatch):
    """Each round has each kernel once, in an order of its own; the lead is not kept."""
    calls = []

    def launch(name):
        calls.append(name)
        Event.now += ord(name)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(measure, "SUSTAINED_WARM_UP", 0)
    samples = measure.time_sustained({name: partial(launch, name) for name in "abcde"})
    rounds = [tuple(calls[i : i + 5]) for i in range(0, len(calls), 5)]
    assert len(rounds) == measure.SUSTAINED + measure.LEAD
    assert all(sorted(r) == list("abcde") for r in rounds)
    assert len(set(rounds)) > 30
    for name, times in samples.items():
        assert times == [ord(name)] * measure.SUSTAINED


def test_the_timer_can_be_chosen():
    shape = Shape(1, 1, 128, 64, dtype="float16")
    functions = {"one": RUNGS[0].attention}
    rows = measure.rows_of_shape(
        functions, shape, {}, lambda right: {name: [3.0, 5.0, 4.0] for name in right}
    )
    assert rows[0]["ms"] == 4


def test_the_kernel_that_was_launched_at_little_cost_is_looked_at(monkeypatch):
    """``kernels.launch`` compiles with ``warmup`` and keeps what it compiled."""
    monkeypatch.setattr("kernels.launch.INTERPRETED", False)

    class Compiled(SimpleNamespace):
        def __getitem__(self, grid):
            return lambda *args: None

    taken = SimpleNamespace(shared=65536, num_warps=4)
    compiled = Compiled(n_regs=168, n_spills=0, metadata=taken)
    kernel = SimpleNamespace(warmup=lambda *args, **options: compiled)
    module = SimpleNamespace(kernel=kernel)

    def call():
        launch(module.kernel, (1, 1, 1), (5,), "key", num_warps=4)

    for _ in range(2):  # compiled or not
        assert measure.resources(call, module, "kernel")["registers"] == 168


def test_the_kernel_that_ran_is_the_one_looked_at():
    compiled = SimpleNamespace(
        n_regs=138, n_spills=2, metadata=SimpleNamespace(shared=115712, num_warps=4)
    )
    module = SimpleNamespace(kernel={(1,): lambda *args: compiled})
    original = module.kernel
    said = measure.resources(lambda: module.kernel[(1,)](5), module, "kernel")
    assert said == {
        "registers": 138, "spilled_bytes": 8, "shared_bytes": 115712,
        "programs_per_sm": 2,
    }  # fmt: skip
    assert module.kernel is original


def test_tile_sizes_hold_the_chosen_ones():
    """The heat map's best can be compared with what the kernels use."""
    for shape in TILE_SHAPES:
        sizes = tile_sizes(shape.head_dim)
        assert len(set(sizes)) == len(sizes)
        assert fast_tiles(shape.head_dim, shape.length) in sizes


def test_rows_of_a_watched_launch():
    seen = [[3, 1, 17, 1500, 4000], [2, 0, 5, 1000, 3500]]
    rows = timeline.rows_of(seen)
    assert rows[1] == {"tile": 2, "head": 0, "sm": 5, "start_us": 0.0, "end_us": 2.5}
    assert rows[0]["start_us"] == 0.5 and rows[0]["end_us"] == 3.0


def test_a_launch_is_watched_in_known_orders():
    with pytest.raises(ValueError, match="order is 'backwards'"):
        timeline.watch(*inputs(128, 128, 64, torch.float16), "backwards")


@needs_gpu
@pytest.mark.parametrize("order", timeline.ORDERS)
def test_a_watched_launch_is_right(order):
    qkv = inputs(1024, 1024, 128, torch.float16, n_heads=4)
    o, rows = timeline.watch(*qkv, order)
    assert torch.equal(o, fast_attention(*qkv)[0])
    places = [(row["tile"], row["head"]) for row in rows]
    by_head = [(tile, head) for head in range(4) for tile in range(16)]
    by_length = [(tile, head) for tile in range(15, -1, -1) for head in range(4)]
    assert places == (by_head if order == "as they come" else by_length)
    assert min(row["start_us"] for row in rows) == 0
    assert all(row["start_us"] < row["end_us"] for row in rows)
    multiprocessors = torch.cuda.get_device_properties().multi_processor_count
    assert all(0 <= row["sm"] < multiprocessors for row in rows)


# Compiled for Hopper, with a GPU or without.

SCRIPT = Path(__file__).with_name("compile_ladder.py")
JOBS = [(rung.module, 128, None, None) for rung in ALL]
JOBS += [(rung.module, 64, None, None) for rung in (RUNGS[0], *RUNGS[4:6], *ALL[8:])]
JOBS += [("timeline", head_dim, None, None) for head_dim in (64, 128)]
# 128 × 64 tiles, two programs at once: a thread would have to do with 128 registers.
TWICE = ("partial_sums", 128, (128, 64, 128, 8, 2), None)
FORCED = (*TWICE[:3], 128)


@functools.cache
def compiled() -> dict:
    """What compile_ladder.py says of each job."""
    jobs = [*JOBS, TWICE, FORCED]
    env = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable, str(SCRIPT), json.dumps(jobs)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(jobs, map(json.loads, done.stdout.splitlines()), strict=True))


def programs(result: dict) -> int:
    """How many programs of a compiled kernel share a multiprocessor."""
    num_warps = Tiles(*result["tiles"]).num_warps
    return programs_per_sm(result["reg"], result["shared"], num_warps)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: "{}-d{}".format(*job[:2]))
def test_compiles_for_hopper_without_spills(job):
    result = compiled()[job]
    assert result["stack"] == 0
    assert result["shared"] <= 227 * 1024
    assert "ttng.warp_group_dot " in result["ttgir"]  # Hopper's own products
    operands = ["f32", "bf16"][job[0] != "float32_operands"]
    assert f"x{operands}, #shared" in result["ttgir"]
    loads_by_engine = "ttng.async_tma_copy_global_to_local" in result["ttgir"]
    assert loads_by_engine == (job[0] not in [rung.module for rung in RUNGS[:4]])


def test_how_many_programs_share_a_multiprocessor():
    """Small tiles let two or three in; persistent programs are as many as fit."""
    for name, at_64, at_128 in [
        ("copy engine", 2, 1), ("small tiles", 3, 2), ("partial sums", 3, 2),
        ("kept maximum", 3, 2), ("next scores first", 3, 2),
    ]:  # fmt: skip
        module = BY_NAME[name].module
        assert programs(compiled()[module, 64, None, None]) == at_64, name
        assert programs(compiled()[module, 128, None, None]) == at_128, name
    for head_dim in (64, 128):
        result = compiled()["persistent", head_dim, None, None]
        assert programs(result) == persistent.PROGRAMS[head_dim]


@pytest.mark.parametrize("head_dim", (64, 128))
def test_the_compiler_waits_right_behind_the_next_scores(head_dim):
    """So nothing overlaps: the wait stands before the exponentials of this block."""
    result = compiled()["next_scores_first", head_dim, None, None]
    loop = result["ttgir"].split("scf.for")[1].splitlines()
    steps = [
        line.split("=", 1)[1].split()[0] + ("{pendings = 0" in line) * " all"
        for line in loop
        if "ttng.warp_group_dot" in line or "math.exp2" in line
    ]
    dot, wait = "ttng.warp_group_dot", "ttng.warp_group_dot_wait"
    assert steps[:5] == [dot, f"{wait} all", "math.exp2", "math.exp2", dot]


def test_two_programs_by_force_serialize_the_products():
    """With 128 registers a thread two would fit, and ptxas says what that costs."""
    assert programs(compiled()[TWICE]) == 1
    forced = compiled()[FORCED]
    assert programs(forced) == 2 and forced["stack"] == 0
    assert "wgmma.mma_async instructions are serialized" in forced["ptxas"]
    assert "insufficient register resources" in forced["ptxas"]
