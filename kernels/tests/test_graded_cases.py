"""The cases of problems 5 to 7: their report lines, their calls, their memory."""

from unittest import mock

import pytest
import torch

from kernels import flash_attention_forward, grade
from kernels.grader.judging import judge
from kernels.grader.problems import PROBLEMS

LINES = {
    5: [
        "B=1, H_Q=8, H_KV=2, L=512, D=16",
        "B=1, H_Q=8, H_KV=2, L=1024, D=16",
        "B=1, H_Q=16, H_KV=2, L=2048, D=16",
        "B=1, H_Q=16, H_KV=2, L=4096, D=16",
    ],
    6: [
        "B=1, H_Q=8, H_KV=2, L=512, D=16, W=128, S=None",
        "B=1, H_Q=8, H_KV=2, L=1024, D=16, W=128, S=None",
        "B=1, H_Q=16, H_KV=2, L=2048, D=16, W=128, S=None",
        "B=1, H_Q=16, H_KV=2, L=4096, D=16, W=128, S=None",
    ],
    7: [
        "B=1, H_Q=8, H_KV=2, L=512, D=32, W=128, S=8",
        "B=1, H_Q=8, H_KV=2, L=1024, D=32, W=128, S=8",
        "B=1, H_Q=16, H_KV=2, L=2048, D=16, W=128, S=8",
        "B=1, H_Q=16, H_KV=2, L=4096, D=16, W=128, S=8",
    ],
}


@pytest.mark.parametrize("n", LINES)
def test_report_lines_and_benchmark_of_the_series(n):
    cases = PROBLEMS[n].cases
    assert [str(case) for case in cases] == LINES[n]
    assert cases[-1].config == f"{LINES[n][-1]}, Causal=True"


def test_report_of_a_windowed_pass(capsys):
    assert grade(7, flash_attention_forward, small=True)
    report = capsys.readouterr().out
    sizes = "B=1, H_Q=4, H_KV=2, L=256, D=32, W=128, S=8"
    assert f"✅ P7 Correctness Test Passed! ({sizes})" in report
    assert "P7 passed; beyond the series, 6 of 6 checks hold." in report


# How a solution is called: (problem, its signature, what it gets by name).
CALLS = {
    "5": (5, lambda q, k, v, is_causal: None, {"is_causal": True}),
    "6": (
        6,
        lambda q, k, v, is_causal, window_size: None,
        {"is_causal": True, "window_size": 128},
    ),
    "6, sinks off": (
        6,
        lambda q, k, v, is_causal=True, window_size=None, sink_size=0: None,
        {"is_causal": True, "window_size": 128},
    ),
    "6, sinks asked for": (
        6,
        lambda q, k, v, is_causal, window_size, sink_size: None,
        {"is_causal": True, "window_size": 128, "sink_size": None},
    ),
    "6, sinks on": (
        6,
        lambda q, k, v, is_causal=True, window_size=128, sink_size=4: None,
        {"is_causal": True, "window_size": 128, "sink_size": None},
    ),
    "7": (
        7,
        lambda q, k, v, is_causal, window_size, sink_size: None,
        {"is_causal": True, "window_size": 128, "sink_size": 8},
    ),
}


@pytest.mark.parametrize("n, fn, sizes", CALLS.values(), ids=CALLS)
def test_calls_are_the_course_s(n, fn, sizes):
    spy = mock.create_autospec(fn)
    PROBLEMS[n].cases[0].call(spy, 1, 2, 3)
    spy.assert_called_once_with(1, 2, 3, **sizes)


def test_a_read_outside_the_keys_meets_zeros():
    case = PROBLEMS[7].small_cases[-1]
    inputs = case.inputs(torch.float16, torch.Generator().manual_seed(0))
    for x, guarded in zip(inputs, case.guarded(*inputs)):
        assert torch.equal(x, guarded) and x.stride() == guarded.stride()
    _, k, _ = case.guarded(*inputs)
    batch, _, n_keys, head_dim = k.shape
    # All that q's heads and the positions p − w < j reach, from the first k on.
    before, size = 127 * head_dim, ((batch - 1) * 2 + 4) * n_keys * head_dim
    around = k.as_strided((before + size,), (1,), k.storage_offset() - before)
    assert (around[:before] == 0).all() and (around[before + k.numel() :] == 0).all()


@pytest.mark.parametrize("n", [3, 7])
@pytest.mark.parametrize("off, passes", [(0.0, True), (0.1, True), (-0.1, False)])
def test_close_to_the_series_or_to_float64(n, off, passes):
    """The series' own answer, in 16 bits, can be off where a solution is right."""
    case = PROBLEMS[n].small_cases[0]
    inputs = case.inputs(torch.float16, torch.Generator().manual_seed(0))
    (theirs,) = case.expected(*inputs)
    theirs[0, 1, 11, 5] += 0.1

    def fn(*args, **kwargs):
        o = flash_attention_forward(*args, **kwargs)
        o[0, 1, 11, 5] += off
        return o

    verdict = judge(case, fn, inputs, (theirs,), time_limit=60)
    assert verdict.passed == passes
    assert passes or "row 11, column 5" in verdict.details[1]
