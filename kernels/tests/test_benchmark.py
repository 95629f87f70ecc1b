"""The benchmark command: what it measures, what it skips, and how it fails.

Nothing is timed here: ``do_bench`` is a stand-in that hands out made-up times, and a
run "on a GPU" computes on this machine's device.
"""

import ast
import itertools
import json
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
import triton.testing

from kernels import attention_rows, benchmark, experiments, peers, sweep, timing
from kernels.attention_rows import Shape
from kernels.device import DEVICE
from kernels.reference import reference_attention

LENGTHS = [512, 1024, 2048, 4096, 8192, 16384]  # as the book's issue lists them
PEERS = ["SDPA FlashAttention-2", "SDPA cuDNN", "SDPA efficient"]
PEERS += ["FlexAttention", "FlashAttention-3"]
ABOUT = {
    "device": {"name": "a card", "driver": "1.0"},
    "torch": "2", "triton": "3", "cudnn": 9, "fa3-fwd": "0.1",
    "date": "2026-01-01", "commit": "abc",
}  # fmt: skip


@pytest.fixture
def turns(monkeypatch):
    """Stand-ins for what needs a GPU; the functions that were timed, in order."""
    timed = []

    def do_bench(function, warmup, rep, return_mode="mean"):
        function()
        if return_mode == "all":
            timed.append(function)
        return [2.0, 3.0, 4.0, 2.5, 3.5]

    monkeypatch.setattr(triton.testing, "do_bench", do_bench)
    monkeypatch.setattr(attention_rows, "peak_bytes", lambda function: 1)
    return timed


@pytest.fixture
def command(tmp_path, monkeypatch, turns, capsys):
    """Run the command on two made-up experiments; the calls and what was printed."""
    about, calls = {**ABOUT}, []

    def experiment(name):
        def measure():
            calls.append(name)
            if name in command.cut_off:
                raise KeyboardInterrupt
            return {"rows": [{"kernel": "ours", "ms": 1.0, "call": len(calls)}]}

        return measure

    def command(*arguments):
        calls.clear()
        code = benchmark.main(list(arguments))
        return code, [*calls], capsys.readouterr().out

    made_up = {name: (["step"], experiment(name)) for name in ("one", "two", "three")}
    command.cut_off, command.about, command.calls = set(), about, calls
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(benchmark, "about_this_run", lambda commit: {**about})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(experiments, "EXPERIMENTS", made_up)
    return command


# ---- What is measured ----


def test_there_is_one_file_for_each_head_dimension_and_dtype():
    expected = itertools.product((16, 64, 128, 256), ("bfloat16", "float16"))
    assert list(sweep.SWEEPS) == [f"forward_d{d}_{dtype}" for d, dtype in expected]
    assert sweep.SWEEPS.items() <= experiments.EXPERIMENTS.items()


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_the_sweep_keeps_the_work_of_a_layer(head_dim):
    shapes = sweep.layer_shapes(head_dim)
    assert [length for _, _, length in shapes] == LENGTHS
    for batch, heads, length in shapes:
        assert batch * length == 16384 and heads * head_dim == 2048


def test_head_dimension_16_has_the_shapes_of_the_seed():
    seeds = [(1, 8, 512), (1, 8, 1024), (1, 16, 2048), (1, 16, 4096)]
    assert sweep.layer_shapes(16) == seeds


def test_all_peers_of_the_sweep_are_named():
    assert list(sweep.PEERS) == PEERS
    assert {"ours", "naive", *PEERS} <= set(sweep.KERNELS)


def imported(module):
    """The modules of the package that a module imports, and those that they import."""
    package = Path(benchmark.__file__).parent
    tree = ast.parse((package / f"{module}.py").read_text("utf-8"))
    names = {
        node.module.removeprefix("kernels.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("kernels.")
    }
    return names.union(*map(imported, names))


MEASURED = dict.fromkeys(["grouped", "window", "options"], "model_attention")
MEASURED |= dict.fromkeys([*sweep.SWEEPS, "host"], "attention")
MEASURED |= dict.fromkeys(["hopper", "hopper_window", "second_pass"], "hopper_top")
MEASURED["ping_pong"] = "hopper_timeline"


@pytest.mark.parametrize("name", MEASURED)
def test_the_hash_covers_all_source_behind_what_is_measured(name):
    """But for head dim 256, at which none of the kernels by hand is called."""
    modules, _ = experiments.EXPERIMENTS[name]
    behind = {MEASURED[name]} | imported(MEASURED[name])
    if name.startswith("forward_d256"):
        x = torch.zeros(1, 1, 200, 256, dtype=torch.float16)
        assert not sweep.serves(x, x, x)
        behind -= {*sweep.BY_HAND}
    assert behind - {"checks", "device"} <= {*modules}


@pytest.mark.parametrize("is_causal", [True, False])
def test_kernels_of_the_sweep_are_right(is_causal):
    shape = Shape(1, 2, 200, 32, is_causal, dtype="float16")
    inputs = shape.inputs()
    expected = attention_rows.expected_part(inputs, shape)
    for name in ["ours", "chapter 06", "naive", "SDPA FlashAttention-2"]:
        function = sweep.contestant(name, is_causal)
        reason = attention_rows.why_it_fails(function, inputs, shape, expected)
        assert reason is None, name


@pytest.mark.parametrize("heads, kv_heads", [(4, 2), (4, 4), (1, 1)])
def test_a_head_is_checked_against_its_own_keys_and_sink(heads, kv_heads):
    shape = Shape(3, heads, 50, 16, True, kv_heads, 9, 2, queries=20, dtype="float16")
    inputs, sinks = shape.inputs(), torch.randn(heads, device=DEVICE)
    expected = attention_rows.expected_part(inputs, shape, sinks=sinks)
    in_float32 = (x.float() for x in inputs)
    o = reference_attention(*in_float32, True, 9, 2, sinks=sinks)

    def verdict():
        return attention_rows.why_it_fails(lambda *_: o, inputs, shape, expected)

    assert verdict() is None
    o[-1, min(1, heads - 1), -1, -1] += 1
    assert verdict().startswith("wrong by 1")


@pytest.mark.parametrize("is_causal", [True, False])
def test_flash_attention_3_gets_its_own_layout(monkeypatch, is_causal):
    def flash_attn_func(q, k, v, causal=False):
        assert q.shape == (2, 50, 4, 16) and k.shape == v.shape == (2, 50, 2, 16)
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        return reference_attention(*heads_first, causal).transpose(1, 2)

    wheel = types.SimpleNamespace(flash_attn_func=flash_attn_func)
    monkeypatch.setitem(sys.modules, "fa3_fwd_interface", wheel)
    q, k, v = torch.randn(2, 4, 50, 16), *torch.randn(2, 2, 2, 50, 16)
    o = peers.flash_attention_3(is_causal)(q, k, v)
    torch.testing.assert_close(o, reference_attention(q, k, v, is_causal))


# ---- How it is measured ----


def test_the_order_is_drawn_anew_in_each_round(turns, monkeypatch):
    """Every function once a round, and no two of them always neighbours."""
    monkeypatch.setattr(timing, "ROUNDS", 12)
    functions = {name: lambda name=name: name for name in "abc"}
    said = []
    samples = timing.time_in_turn(functions, said.append)
    order = "".join(function() for function in turns)
    rounds = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert all(sorted(turn) == list("abc") for turn in rounds) and len(rounds) == 12
    for pair in itertools.permutations("abc", 2):
        assert any("".join(pair) in turn for turn in rounds), pair
    assert "".join(said) == "abc" + order
    assert all(len(samples[name]) == 12 * 5 for name in "abc")


def right(q, k, v):
    return reference_attention(q.float(), k.float(), v.float(), True)


def wrong(q, k, v):
    return right(q, k, v) + 1e-2  # within bfloat16's bound, beyond float16's


def fails(q, k, v):
    warnings.warn("head dimension 7 is not served", stacklevel=1)
    raise RuntimeError("no kernel")


def odd(q, k, v):
    raise TypeError


def memory(q, k, v):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99 GiB")


def unread(q, k, v):
    return right(q, k, v).fill_(float("nan"))


FUNCTIONS = {
    "fails": fails, "right": right, "odd": odd, "memory": memory, "wrong": wrong,
    "unread": unread, "FlashAttention-3": peers.flash_attention_3(True),
}  # fmt: skip
ERRORS = {
    "fails": "no kernel; head dimension 7 is not served",
    "odd": "TypeError()",
    "memory": "CUDA out of memory. Tried to allocate 99 GiB",
    "unread": "wrong by nan",
    "FlashAttention-3": "fa3-fwd cannot be imported",
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_peer_that_fails_is_named_with_the_reason(turns, monkeypatch, dtype):
    monkeypatch.setitem(sys.modules, "fa3_fwd_interface", None)  # as if not installed
    errors = ERRORS | ({"wrong": "wrong by 0.01"} if dtype == "float16" else {})
    said = []
    shape = Shape(1, 2, 40, 16, dtype=dtype)
    rows = attention_rows.attention_rows(FUNCTIONS, shape, said.append)
    assert [row["kernel"] for row in rows] == list(FUNCTIONS)
    assert said[: len(FUNCTIONS)] == list(FUNCTIONS)
    for row in rows:
        assert row["dtype"] == dtype and row["direction"] == "forward"
        if row["kernel"] in errors:
            assert row["error"].startswith(errors[row["kernel"]])
            assert row["ms"] is row["tflops"] is row["spread"] is None
        else:
            assert row["ms"] == 3.0 and "error" not in row
    assert len(turns) == timing.ROUNDS * (len(FUNCTIONS) - len(errors))


def test_bytes_count_each_tensor_once():
    shape = Shape(2, 8, 100, 64, kv_heads=2, queries=7)
    assert shape.bytes() == 2 * (2 * 8 * 7 * 64 * 2 + 2 * 2 * 2 * 100 * 64)


def test_shares_are_of_the_measured_ceilings():
    shape = Shape(16, 32, 1024, 64)  # 64 MiB each of q, k, v and o
    card = {"gemm_tflops": 800.0, "copy_tbps": 4.0}
    found = sweep.shares({"ms": 0.5, "tflops": 200.0}, shape, card)
    assert found == {"gemm_share": 0.25, "copy_share": round(2**28 / 0.5e9 / 4, 4)}


# ---- The command ----


def test_an_unknown_name_says_what_is_allowed(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["forward_d8_bfloat16"])
    error = capsys.readouterr().err
    assert "unknown experiment 'forward_d8_bfloat16'" in error
    assert all(repr(name) in error for name in experiments.EXPERIMENTS)


def test_an_unknown_kernel_says_what_is_allowed(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--without", "FlashAttention-9"])
    error = capsys.readouterr().err
    assert "--without" in error and "FlashAttention-9" in error
    assert all(name in error for name in PEERS)


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.main(["machine"]) == 1
    assert "needs a GPU" in capsys.readouterr().err


def test_a_run_that_was_cut_off_is_taken_up_again(command):
    command.cut_off = {"two"}
    with pytest.raises(KeyboardInterrupt):
        command()
    assert [path.name for path in benchmark.RESULTS.iterdir()] == ["one.json"]
    first = (benchmark.RESULTS / "one.json").read_text()
    command.cut_off = set()
    code, calls, printed = command()
    assert (code, calls) == (0, ["two", "three"])
    assert printed.count("there already") == 1 and "one: there already" in printed
    assert (benchmark.RESULTS / "one.json").read_text() == first
    assert command()[1] == []


def test_names_choose_what_is_measured(command):
    assert command("three", "one")[1] == ["three", "one"]


def test_again_measures_what_is_there(command):
    command("one")
    assert command("one", "--again")[1] == ["one"]
    assert benchmark.load("one")["rows"][0]["call"] == 1


@pytest.mark.parametrize("what", ["device", "torch", "triton", "cudnn", "fa3-fwd"])
def test_another_card_or_version_is_measured_anew(command, what):
    command("one")
    command.about[what] = {"name": "another"} if what == "device" else None
    assert command("one")[1] == ["one"]
    assert benchmark.load("one")[what] == command.about[what]


def test_a_package_need_not_be_installed():
    assert benchmark.version_of("pytest") == pytest.__version__
    assert benchmark.version_of("no-such-package-of-ours") is None


def test_changed_source_is_measured_anew(command, monkeypatch):
    command("one")
    monkeypatch.setattr(benchmark, "source_hash", lambda modules: "changed")
    assert command("one")[1] == ["one"]
    assert command("one")[1] == []


def test_another_driver_commit_or_day_changes_nothing(command):
    command("one")
    command.about |= {"commit": "def", "date": "2026-02-02"}
    command.about["device"] = ABOUT["device"] | {"driver": "1.1"}
    assert command("one")[1] == []


def test_a_file_from_before_a_version_was_recorded_counts(command):
    command("one")
    stored = benchmark.load("one")
    del stored["fa3-fwd"]
    benchmark.write("one", stored)
    assert command("one")[1] == []


@pytest.fixture
def small_sweep(command, monkeypatch):
    """The command on one sweep of two small shapes, without what needs a GPU."""
    made = []

    def make(is_causal):
        made.append(is_causal)
        return lambda q, k, v: reference_attention(q, k, v, is_causal)

    card = {"gemm_tflops": 2.0, "copy_tbps": 0.5, "rows": [{"kernel": "matmul"}]}
    monkeypatch.setattr(sweep, "SEED_SHAPES", [(1, 2, 64), (1, 2, 128)])
    monkeypatch.setattr(sweep, "PEERS", dict.fromkeys(PEERS, make))
    monkeypatch.setitem(sweep.OURS, "ping-pong", reference_attention)
    monkeypatch.setattr(sweep, "ceilings", lambda dtype: {**card})
    monkeypatch.setattr(experiments, "EXPERIMENTS", sweep.SWEEPS)
    command.made = made
    return lambda *arguments: command("forward_d16_float16", *arguments)


def test_a_sweep_has_every_kernel_at_every_shape(small_sweep):
    _, _, printed = small_sweep()
    result = benchmark.load("forward_d16_float16")
    assert result["without"] == [] and result["ceilings"] == [{"kernel": "matmul"}]
    rows = result["rows"]
    seen = {(row["kernel"], row["length"], row["is_causal"]) for row in rows}
    every = itertools.product(sweep.KERNELS, (64, 128), (True, False))
    assert seen == set(every) and len(rows) == len(seen)
    for row in rows:
        if row["kernel"] == "seed" and not row["is_causal"]:
            assert row["ms"] is None and "causal" in row["error"]
            assert row["gemm_share"] is row["copy_share"] is None
            continue
        assert row["ms"] == 3.0 and row["gemm_share"] is not None
    assert "forward_d16_float16, a card, TFLOP/s" in printed


def test_a_kernel_left_out_on_request_is_named(small_sweep, command):
    small_sweep("--without", "FlexAttention", "--without", "SDPA cuDNN")
    result = benchmark.load("forward_d16_float16")
    assert result["without"] == ["FlexAttention", "SDPA cuDNN"]
    assert len(command.made) == 2 * (len(PEERS) - 2)
    for row in result["rows"]:
        left_out = row["kernel"] in result["without"]
        assert left_out == (row.get("error") == "left out on request")


def test_what_was_left_out_is_measured_when_it_is_asked_for(small_sweep):
    small_sweep("--without", "FlexAttention")
    small_sweep("--without", "FlexAttention", "--without", "naive")
    assert benchmark.load("forward_d16_float16")["without"] == ["FlexAttention"]
    small_sweep()
    assert benchmark.load("forward_d16_float16")["without"] == []


def test_a_kernel_that_joins_the_sweep_is_measured(small_sweep, monkeypatch):
    small_sweep()
    monkeypatch.setattr(sweep, "KERNELS", [*sweep.KERNELS, "new"])
    monkeypatch.setitem(sweep.OURS, "new", reference_attention)
    small_sweep()
    rows = benchmark.load("forward_d16_float16")["rows"]
    assert "new" in {row["kernel"] for row in rows}


def test_the_table_shows_ours_over_the_best_peer():
    kernels = {"ours": 300.4, "naive": 900.0, PEERS[0]: 200.0, PEERS[1]: 400.0}
    rates = dict.fromkeys(PEERS) | kernels
    rows = [
        {"kernel": kernel, "length": length, "is_causal": is_causal, "tflops": rate}
        for is_causal, length in [(True, 512), (True, 1024), (False, 512)]
        for kernel, rate in rates.items()
    ]
    result = {"device": {"name": "a card"}, "rows": rows}
    lines = [line.split() for line in sweep.table("a_sweep", result).splitlines()]
    assert lines[0] == ["a_sweep,", "a", "card,", "TFLOP/s"]
    assert ["causal,", "N", "=", "512", "1024"] in lines
    assert ["full,", "N", "=", "512"] in lines
    assert ["ours", "300", "300"] in lines and ["FlexAttention", "–", "–"] in lines
    assert ["ours", "/", "best", "peer", "0.75", "0.75"] in lines


def test_a_result_file_has_a_line_for_each_row(small_sweep):
    small_sweep()
    path = benchmark.RESULTS / "forward_d16_float16.json"
    rows = [line for line in path.read_text().splitlines() if '"samples"' in line]
    assert all(isinstance(json.loads(line.rstrip(",")), dict) for line in rows)
    assert len(rows) == 2 * 2 * len(sweep.KERNELS) - 2  # the seed is causal alone
