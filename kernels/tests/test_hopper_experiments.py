"""What chapter 11 measures, as far as it goes without a GPU."""

import time
from dataclasses import replace

import pytest
import torch

from kernels import hopper_experiments as experiments
from kernels import host_experiments
from kernels.attention_rows import Shape
from kernels.hopper_experiments import GROUPED, SHAPES, WATCHED, our_kernels
from kernels.hopper_timeline import MAX_KEYS
from kernels.model_attention import model_attention


@pytest.fixture
def portable(monkeypatch):
    """Kernels that run here stand in for those by hand; notes what they were given."""
    given = []

    def attention(q, k, v, is_causal=True, **options):
        given.append((is_causal, options))
        return model_attention(q, k, v, is_causal)

    modules = experiments.hopper_attention, experiments.hopper_top
    for module in modules:
        monkeypatch.setattr(module, "hopper_attention", attention)
    return given


def test_shapes_have_the_work_of_a_layer():
    for shape in SHAPES:
        assert shape.batch * shape.length == 16384
        assert shape.heads * shape.head_dim == 2048
    assert len(set(SHAPES)) == 20
    assert all(shape.length <= MAX_KEYS for shape in WATCHED)
    few, all_heads = sorted(GROUPED, key=lambda shape: shape.kv_heads)
    assert (few.kv_heads, all_heads.kv_heads) == (8, few.heads)
    assert replace(few, kv_heads=few.heads) == all_heads


def test_rungs_are_switched_on_in_turn(portable):
    one_more = {"persistent", "turns", "predicated", "top"}
    for head_dim, rungs in ((64, one_more | {"three consumers"}), (128, one_more)):
        portable.clear()
        shape = Shape(1, 2, 64, head_dim, is_causal=False, dtype="float16")
        kernels = our_kernels(shape)
        assert list(kernels)[:2] == ["chapter 10", "ping-pong"]
        assert list(kernels)[2] == "persistent" and list(kernels)[-1] == "top"
        assert set(list(kernels)[2:]) == rungs
        outputs = [kernel(*shape.inputs()) for kernel in kernels.values()]
        assert all(o.shape == (1, 2, 64, head_dim) for o in outputs)
        assert all(is_causal is False for is_causal, _ in portable)
        options = [given for _, given in portable]
        plain = {"is_predicated": False, "keeps_max": False}
        two = {"consumers": 2, "takes_turns": False, **plain}
        wider = [two | {"consumers": 3}] if head_dim == 64 else []
        turns = {"consumers": 3, **plain}
        assert options == [{}, two, *wider, turns, {"keeps_max": False}, {}]


def test_hopper_measures_every_kernel_at_every_shape(portable, monkeypatch):
    few = [Shape(1, 2, 128, 64, dtype="float16")]
    monkeypatch.setattr(experiments, "SHAPES", few)
    grouped = Shape(1, 2, 128, 64, kv_heads=1, dtype="float16")
    monkeypatch.setattr(experiments, "GROUPED", [grouped])
    monkeypatch.setattr(experiments, "compile_all", lambda jobs, say: jobs)
    monkeypatch.setattr(
        experiments,
        "time_sustained",
        lambda functions: {name: [1.0, 2.0, 3.0] for name in functions},
    )
    result = experiments.hopper()
    names = [(row["kernel"], row["kv_heads"]) for row in result["rows"]]
    ours = our_kernels(few[0])
    kernels = [*ours, *experiments.HOPPER_PEERS]
    assert names == [(kernel, n) for n in (2, 1) for kernel in kernels]
    for row in result["rows"]:
        assert row["ms"] == 2 or row["kernel"] not in ours


def test_the_hosts_part_is_the_time_until_all_is_handed_over(monkeypatch):
    """Not the time until the card is done."""
    waits = []
    monkeypatch.setattr(
        torch.cuda, "synchronize", lambda: waits.append(time.sleep(0.1))
    )
    taken = host_experiments.microseconds_of_calls(lambda: time.sleep(0.001), 20)
    assert 1000 <= taken < 4000 and len(waits) == 2


def test_the_host_experiment_says_microseconds(portable, monkeypatch):
    """Of a median call, for the kernels, the public call and a peer."""
    monkeypatch.setattr(
        host_experiments, "microseconds_of_calls", lambda function, calls: float(calls)
    )
    rows = {row["kernel"]: row for row in host_experiments.host()["rows"]}
    assert rows["hopper_top"]["us"] == host_experiments.CALLS
    assert "ms" not in rows["public call"] and len(rows) == 6
