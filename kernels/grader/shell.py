"""The grader's command: ``python -m kernels.grader 4 problem_4.py [--strict]``.

The exit status is 0 for a pass, 1 for a fail and 2 for a wrong command line. The
solution runs in a process of its own, so that even one that hangs for good or takes
Python down with it gets its verdict.
"""

import argparse
import faulthandler
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

from tqdm import tqdm

from kernels.grader import TIME_LIMIT, check_arguments
from kernels.grader.attempt import OutOfTime, limited
from kernels.grader.errors import describe
from kernels.grader.grading import Grade, run, say
from kernels.grader.problems import PROBLEMS, Problem

PASSED, FAILED = 10, 11  # exit status of a child process that has said its verdict


def load_solution(path: Path, problem: Problem, time_limit: float):
    """What ``problem`` asks for from the file at ``path``; ImportError if it fails."""
    spec = importlib.util.spec_from_file_location("solution", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["solution"] = module
    sys.path.append(str(path.parent))
    try:
        with limited(time_limit):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ImportError(describe(error, {str(path)})) from None
    except OutOfTime:
        raise ImportError(f"it did not finish within {time_limit:g} s") from None
    if not hasattr(module, problem.entry):
        raise ImportError(f"it does not define {problem.entry}")
    return getattr(module, problem.entry)


def grade_file(n: int, path: Path, strict: bool, small: bool, time_limit: float):
    """Grade the file at ``path``, and end this process with PASSED or FAILED.

    A watchdog ends it, without a verdict, if the solution hangs beyond interruption.
    """
    # A lock of tqdm's own choice would be left behind, with a warning, by a crash.
    tqdm.set_lock(threading.RLock())
    nowhere = open(os.devnull, "w")  # noqa: SIM115 - stays open as long as the process

    def watchdog():
        faulthandler.dump_traceback_later(2 * time_limit + 30, exit=True, file=nowhere)

    def load_and_run() -> Grade:
        try:
            solution = load_solution(path, PROBLEMS[n], time_limit)
            problem, fn = check_arguments(n, solution, time_limit)
        except (ImportError, TypeError) as error:
            say_failed(n, f"{path.name}: {error}")
            return Grade(n)
        return run(problem, fn, strict, small, time_limit, watchdog)

    watchdog()
    try:
        passed = load_and_run()
    finally:
        faulthandler.cancel_dump_traceback_later()
    sys.exit(PASSED if passed else FAILED)


def say_failed(n: int, reason: str) -> None:
    """The end of a report that cannot go on."""
    say(f"❌ P{n} Test Failed! - {reason}\n\nP{n} failed.")


def grade_in_child(*arguments) -> bool:
    """``grade_file`` in a process of its own; whether the solution passed."""
    child = multiprocessing.get_context("spawn").Process(
        target=grade_file, args=arguments
    )
    child.start()
    child.join()
    status = child.exitcode
    if status not in (PASSED, FAILED):
        reason = "it hung beyond interruption, or see above"
        if status < 0:
            reason = f"{signal.Signals(-status).name}; is every load and store masked?"
        say_failed(arguments[0], f"The solution's process ended: {reason}")
    return status == PASSED


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.grader",
        description="Grade a solution of one of the book's problems.",
    )
    parser.add_argument("n", type=int, choices=PROBLEMS, help="the problem's number")
    parser.add_argument("file", type=Path, help="the solution, such as problem_4.py")
    parser.add_argument(
        "--strict", action="store_true", help="count the checks beyond the series too"
    )
    parser.add_argument(
        "--small", action="store_true", help="small cases, no timing (as without a GPU)"
    )
    parser.add_argument(
        "--time-limit", type=float, default=TIME_LIMIT, metavar="SECONDS",
        help="for one call (default: %(default)g)",
    )  # fmt: skip
    given = parser.parse_args(argv)
    if not given.file.is_file():
        parser.error(f"there is no file {given.file}")
    if not given.time_limit > 0:
        parser.error("--time-limit must be above 0 seconds")
    path = given.file.resolve()
    passed = grade_in_child(given.n, path, given.strict, given.small, given.time_limit)
    return 0 if passed else 1
