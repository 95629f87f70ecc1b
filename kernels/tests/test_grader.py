"""The grader: what passes, what fails and how it says so, in a notebook and a shell."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from triton.compiler.errors import CompilationError

from kernels import DEVICE, flash_attention_forward, grade
from kernels.device import INTERPRETED
from kernels.first_kernels import weighted_row_sum_forward
from kernels.grader import timing
from kernels.grader.errors import describe
from kernels.grader.problems import PROBLEMS
from kernels.grader.shell import grade_file, main
from kernels.reference import reference_attention
from kernels.tests.planting import SOLUTIONS, load, plant
from kernels.tiled_attention import FlashAttention2Function

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "kernels" / "templates"
OURS = {
    1: FlashAttention2Function,
    2: weighted_row_sum_forward,
    3: flash_attention_forward,
    4: flash_attention_forward,
    5: flash_attention_forward,
    6: flash_attention_forward,
    7: flash_attention_forward,
}
PASSING_REPORT = """\
--- Running Autograder for Problem 4: Causal Flash Attention ---
Small float16 cases; the series' own and their timing need a GPU.
✅ P4 Correctness Test Passed! (B=1, H=2, L=128, D=16)
✅ P4 Correctness Test Passed! (B=2, H=2, L=256, D=16)

All P4 correctness tests passed!

--- Beyond the series (these count with strict) ---
✅ odd lengths
✅ strided inputs
✅ unequal lengths
✅ large logits
✅ error against float64

P4 passed; beyond the series, 5 of 5 checks hold.
"""


def correct(q, k, v, is_causal, **sizes):
    o = reference_attention(q.float(), k.float(), v.float(), is_causal, **sizes)
    return o.to(q.dtype)


# What passes.


@pytest.mark.parametrize("n", PROBLEMS)
def test_the_book_passes_both_levels(n):
    assert grade(n, OURS[n], strict=True, small=True)


@pytest.mark.parametrize("n", PROBLEMS)
def test_good_solutions_pass_both_levels(n):
    solution = load(SOLUTIONS / f"problem_{n}.py", PROBLEMS[n].entry)
    assert grade(n, solution, strict=True, small=True)


def test_report_of_a_pass(capsys):
    result = grade(4, correct, small=True)
    assert result and repr(result) == "Grade(problem=4, passed=True)"
    assert capsys.readouterr() == (PASSING_REPORT, "")


def test_apply_is_accepted():
    assert grade(1, FlashAttention2Function.apply, small=True)


def test_the_seed_passes_the_series_and_is_told_what_it_lacks(capsys):
    seed = load(SOLUTIONS / "seed_problem_4.py", "flash_attention_forward")
    result = grade(4, seed, strict=True, small=True)
    assert all(result.cases.values()) and not result.passed
    assert [name for name, holds in result.beyond.items() if not holds] == [
        "strided inputs",
        "unequal lengths",
    ]
    report = capsys.readouterr().out
    assert "Likely cause: strides." in report
    assert "aligned at the end" in report
    assert "P4 failed (strict); beyond the series, 3 of 5 checks hold." in report


def test_checks_beyond_the_series_count_with_strict():
    def square_only(q, k, v, is_causal):
        return correct(q[:, :, : k.shape[2]], k[:, :, : q.shape[2]], v, is_causal)

    result = grade(4, square_only, small=True)
    assert result.passed and not result.beyond["unequal lengths"]
    assert not grade(4, square_only, strict=True, small=True).passed


# What fails, and how that is said.


@pytest.mark.parametrize("n", PROBLEMS)
def test_templates_are_not_written_yet(n, capsys):
    blank = load(TEMPLATES / f"problem_{n}.py", PROBLEMS[n].entry)
    assert not grade(n, blank, small=True)
    report = capsys.readouterr().out
    assert f"Not written yet: problem {n}: write TODO 1 to" in report
    assert report.count("❌") == 1


def raises(q, k, v, is_causal):
    raise RuntimeError("first line\nlast line")


def exits(q, k, v, is_causal):
    sys.exit("out of patience")


def overwrites(q, k, v, is_causal):
    o = correct(q, k, v, is_causal)
    k.zero_()
    return o


def allocates(q, k, v, is_causal):
    return torch.empty_like(q)


def holds_a_nan(q, k, v, is_causal):
    o = correct(q, k, v, is_causal)
    o[:, :, 5, 3] = torch.nan
    return o


MISBEHAVIOURS = {
    "raises": (raises, "Error: RuntimeError: last line (line"),
    "exits": (exits, "Error: SystemExit: out of patience"),
    "shape": (
        lambda q, k, v, is_causal: q[:, :1],
        "Returned o as a tensor of shape (1, 1, 128, 16); a tensor of shape "
        "(1, 2, 128, 16) is asked for.",
    ),
    "none": (lambda q, k, v, is_causal: None, "Returned o as NoneType;"),
    "dtype": (
        lambda q, k, v, is_causal: correct(q, k, v, is_causal).float(),
        "Returned o in torch.float32; torch.float16, as q has, is asked for.",
    ),
    "device": (
        lambda q, k, v, is_causal: q.to("meta"),
        "Returned o on meta; it belongs on",
    ),
    "inputs": (overwrites, "Writes into its input k; inputs are read only."),
    "nan": (lambda q, k, v, is_causal: q * torch.nan, "Likely cause: NaN or infinity"),
    "one nan": (holds_a_nan, "Likely cause: NaN or infinity"),
    "unwritten": (allocates, "these elements are never stored"),
    "scaled": (
        lambda q, k, v, is_causal: 1.2 * correct(q, k, v, is_causal),
        "No classic mistake alone explains this output.",
    ),
    "signature": (lambda q, k, v: q, "Error: TypeError:"),
}


@pytest.mark.parametrize("fn, said", MISBEHAVIOURS.values(), ids=MISBEHAVIOURS)
def test_misbehaviour_gets_a_verdict(fn, said, capsys):
    assert not grade(4, fn, small=True)
    report = capsys.readouterr().out
    assert said in report
    assert "P4 failed." in report
    assert "Traceback" not in report


def test_problem_1_returns_two_tensors(capsys):
    assert not grade(1, correct, small=True)
    assert "; a tuple (o, lse) is asked for." in capsys.readouterr().out


def test_first_wrong_position(capsys):
    def off_in_one_place(q, k, v, is_causal):
        o = correct(q, k, v, is_causal)
        o[0, 1, 70:, 3] = 2.0
        return o

    assert not grade(4, off_in_one_place, small=True)
    report = capsys.readouterr().out
    assert "o at batch 0, head 1, row 70, column 3: expected" in report
    assert "got 2.00 (1% of the elements are wrong)" in report


def test_an_error_in_a_kernel_names_its_line(tmp_path, capsys):
    fn = plant(tmp_path, 4, ("tl.exp2(m_i - shift)", "tl.exp2(m_old - shift)"))
    assert not grade(4, fn, small=True)
    report = capsys.readouterr().out  # a NameError, or on a GPU the compiler's word
    assert "m_old" in report and "is not defined" in report


def test_a_compilation_error_quotes_its_line():
    class Node:
        lineno, col_offset = 2, 4

    error = CompilationError("def kernel():\n    x = y\n", Node, "y is not defined")
    said = "CompilationError: y is not defined (at `x = y`)"
    assert describe(error, set()) == said
    caller = CompilationError("def caller():\n    kernel()\n", Node, None)
    caller.__cause__ = error  # a jitted function that calls the other
    assert describe(caller, set()) == said


@pytest.mark.skipif(
    not INTERPRETED, reason="a kernel on a card cannot be interrupted from Python"
)
def test_a_hang_is_interrupted(tmp_path, capsys):
    loop = "for start_n in range(0, n_columns, BLOCK_N):"
    endless = plant(tmp_path, 2, (loop, "start_n = 0\n    while n_rows > 0:"))
    handler = signal.getsignal(signal.SIGALRM)
    started = time.monotonic()
    assert not grade(2, endless, small=True, time_limit=1.0)
    assert time.monotonic() - started < 30
    assert "Did not finish within 1 s" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGALRM) is handler
    assert grade(2, weighted_row_sum_forward, small=True)  # the interpreter is whole


def test_torch_empty_is_itself_again():
    originals = torch.empty, torch.empty_like, torch.Tensor.new_empty
    grade(4, raises, small=True)
    assert (torch.empty, torch.empty_like, torch.Tensor.new_empty) == originals


BAD_ARGUMENTS = {
    "number": ((9, correct), {}, ValueError, "n is 9; allowed are 1, 2, 3, 4, 5, 6, 7"),
    "text": (("4", correct), {}, ValueError, "n is '4'; allowed are 1, 2, 3, 4, 5"),
    "fn": ((4, 3), {}, TypeError, "fn is 3; problem 4 asks for flash_attention_for"),
    "class": ((4, int), {}, TypeError, "problem 4 asks for"),
    "limit": ((4, correct), {"time_limit": 0}, ValueError, "time_limit is 0; it must"),
}


@pytest.mark.parametrize(
    "arguments, options, error, said", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS
)
def test_bad_arguments(arguments, options, error, said):
    with pytest.raises(error, match=said):
        grade(*arguments, **options)


# In a shell.


def test_the_shell_command():
    command = [sys.executable, "-m", "kernels.grader", "2", SOLUTIONS / "problem_2.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "P2 passed; beyond the series, 3 of 3 checks hold." in done.stdout


# The last stands for a kernel that never ends on a card: no alarm reaches Python. The
# watchdog takes half a minute.
CRASHES = {
    "quits": ("import os\n    os._exit(0)", "process ended"),
    "hangs": ("while True: pass", "Did not finish within 1 s"),
    "hangs beyond interruption": (
        "import signal, time\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"
        "    time.sleep(3600)",
        "process ended: it hung beyond interruption",
    ),
}


@pytest.mark.parametrize("body, said", CRASHES.values(), ids=CRASHES)
def test_a_crash_gets_a_verdict_in_the_shell(tmp_path, capfd, body, said):
    path = tmp_path / "problem_2.py"
    path.write_text(f"def weighted_row_sum_forward(x, w):\n    {body}\n")
    assert main(["2", str(path), "--time-limit", "1"]) == 1
    out, err = capfd.readouterr()
    assert "❌ P2 Test Failed!" in out and said in out
    assert out.endswith("\n\nP2 failed.\n")
    assert "Traceback" not in err


def test_an_abort_leaves_a_whole_report_and_no_warning(tmp_path):
    path = tmp_path / "problem_2.py"
    path.write_text(
        "def weighted_row_sum_forward(x, w):\n    __import__('os').abort()\n"
    )
    command = [sys.executable, "-m", "kernels.grader", "2", path, "--small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == ""
    reason = "The solution's process ended: SIGABRT; is every load and store masked?"
    assert done.stdout.endswith(f"❌ P2 Test Failed! - {reason}\n\nP2 failed.\n")


UNUSABLE = {
    "syntax": ("def f(:", "SyntaxError"),
    "import": ("import no_such_module", "ModuleNotFoundError"),
    "raises": ("x = 1\nx / 0", "ZeroDivisionError: division by zero (line 2: `x / 0`)"),
    "name": ("def flash(q): pass", "it does not define flash_attention_forward"),
    "value": ("flash_attention_forward = 3", "fn is 3; problem 4 asks for"),
}


@pytest.mark.parametrize("text, said", UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_that_cannot_be_used(tmp_path, capsys, text, said):
    path = tmp_path / "problem_4.py"
    path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        grade_file(4, path, strict=False, small=True, time_limit=5.0)
    assert ended.value.code != 0
    out = capsys.readouterr().out
    assert "❌ P4 Test Failed! - problem_4.py: " in out and said in out
    assert out.endswith("\n\nP4 failed.\n")


USAGE = {
    "file": (["4", "missing.py"], "there is no file missing.py"),
    "number": (["9", __file__], "invalid choice"),
    "limit": (["4", __file__, "--time-limit", "0"], "--time-limit must be above 0"),
}


@pytest.mark.parametrize("arguments, said", USAGE.values(), ids=USAGE)
def test_usage_errors(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


# On a GPU.


def test_benchmark_table_is_the_series(monkeypatch):
    times, memory = iter([(4.0, 100), (0.5, 100)]), iter([3.0, 0.75])
    monkeypatch.setattr(timing, "time_calls", lambda call, on_run: next(times))
    monkeypatch.setattr(timing, "peak_gigabytes", lambda call: next(memory))
    lines = []
    timing.benchmark(PROBLEMS[4], correct, (), lines.append, None)
    assert lines == [
        "\n--- Running Performance Benchmark ---",
        "Benchmark Config: B=1, H=16, L=4096, D=16, Causal=True",
        "\n--- Benchmark Results ---",
        f"{'Implementation':<25} | {'Avg Time (ms)':<20} | {'Peak Memory (GB)':<20}",
        "-" * 70,
        f"{'PyTorch (Naive)':<25} | {'4.0000':<20} | {'3.0000':<20}",
        f"{'Triton (Flash)':<25} | {'0.5000':<20} | {'0.7500':<20}",
        "-" * 70,
        "Triton is 8.00x faster than PyTorch (Naive).",
        "Triton uses 4.00x less memory.",
    ]


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("n", PROBLEMS)
def test_the_series_on_a_gpu(n, capsys):
    assert grade(n, OURS[n], strict=True)
    report = capsys.readouterr().out
    assert "--- Benchmark Results ---" in report
    assert list(PROBLEMS[n].cases)[-1].config in report
