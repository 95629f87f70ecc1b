"""The ping-pong watched from inside: by ``gluon_stand_in``, and on Hopper."""

import itertools

import pytest
import torch
from gluon_stand_in import Call, load_kernels
from helpers import inputs
from test_hopper_attention import on_hopper

from kernels.hopper_attention import hopper_attention
from kernels.hopper_timeline import (
    MAX_KEYS,
    ROLE_NAMES,
    make_times,
    place_of,
    rows_of,
    typical_program,
    watch,
)


def check_story(rows: list[dict], n_blocks: int) -> None:
    """Each role's events are those of its program, in their order."""
    for name in ROLE_NAMES[:2]:
        story = [
            (row["ring"], row["tile"], row["event"])
            for row in rows
            if row["role"] == name
        ]
        q = [("q", ROLE_NAMES.index(name), event) for event in ("asks", "has")]
        first = [("k", 0, event) for event in ("asks", "has", "releases")]
        steps = [
            event
            for j in range(1, n_blocks)
            for event in [
                ("k", j, "asks"), ("k", j, "has"),
                ("v", j - 1, "asks"), ("v", j - 1, "has"),
                ("k", j, "releases"), ("v", j - 1, "releases"),
            ]
        ]  # fmt: skip
        last = [("v", n_blocks - 1, event) for event in ("asks", "has")]
        assert story == q + first + steps + last
    loads = [
        (row["ring"], row["tile"])
        for row in rows
        if row["role"] == "producer" and row["event"] == "has"
    ]
    asks = [
        row["ring"]
        for row in rows
        if row["role"] == "producer" and row["event"] == "asks"
    ]
    # What comes first is loaded before there is a producer.
    assert sorted(asks) == (n_blocks - 1) * ["k"] + n_blocks * ["v"]
    later = [(r, j - (r == "v")) for j in range(1, n_blocks) for r in "kv"]
    assert loads == [*later, ("v", n_blocks - 1)]
    # A consumer has no tile before the producer began with it, that is, before the
    # event in front of the producer's note that the load has been started.
    produced = [row for row in rows if row["role"] == "producer"]
    begun = {
        (row["ring"], row["tile"]): before["cycle"]
        for before, row in itertools.pairwise(produced)
        if row["event"] == "has"
    }
    for row in rows:
        if row["event"] == "has" and row["role"] != "producer":
            assert begun.get((row["ring"], row["tile"]), 0) < row["cycle"]


def test_the_story_of_a_program():
    """256 queries of 2 heads: four programs, the first two of the longer tile."""
    q, k, v = (torch.randn(1, 2, 256, 16, dtype=torch.float64) for _ in range(3))
    times = make_times(q)
    assert times.shape[0] == 4
    module = load_kernels().hopper_attention
    call = Call(module, q, k, v, True, seed=3, options={"times": times})
    assert set(call.arguments["TIMES"].written.values()) == {1}
    for program in range(4):
        check_story(rows_of(times, program), 2 if program in (0, 1) else 1)
    assert typical_program(times) in (0, 1)
    plain = Call(module, q, k, v, True, seed=3)
    assert torch.equal(plain.o, call.o)
    assert plain.key != call.key  # other code, so compiled anew


def test_rows_count_from_the_beginning():
    times = torch.zeros(3, 4, 64, 3, 3, dtype=torch.int64)
    times[1, -1, 0] = torch.tensor([17, 5000, 900])
    times[1, 2, 0, 1] = torch.tensor([901, 950, 0])
    times[1, 0, 5, 2, 2] = 940
    rows = rows_of(times, 1)
    assert [row["cycle"] for row in rows] == [1, 40, 50]
    assert rows[1] == {
        "role": "consumer 0", "ring": "v", "tile": 5, "event": "releases", "cycle": 40,
    }  # fmt: skip
    assert place_of(times, 1) == {"sm": 17, "start_ns": 5000}


def test_more_keys_than_can_be_watched():
    q = torch.zeros(1, 1, MAX_KEYS + 1, 16, dtype=torch.float16)
    with pytest.raises(ValueError, match=f"k has {MAX_KEYS + 1} keys"):
        watch(q, q, q)


@on_hopper
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
def test_a_watched_launch_is_right(is_causal, head_dim):
    qkv = inputs(2048, 2048, head_dim, torch.bfloat16, n_heads=8)
    o, times = watch(*qkv, is_causal)
    assert torch.equal(o, hopper_attention(*qkv, is_causal)[0])
    program = typical_program(times)
    rows = rows_of(times, program)
    check_story(rows, 16)
    multiprocessors = torch.cuda.get_device_properties().multi_processor_count
    assert 0 <= place_of(times, program)["sm"] < multiprocessors
