"""One run of the grader: the series' cases, their timing, and the checks beyond."""

import sys
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from kernels.device import DEVICE, tensor_core_dtype
from kernels.grader.errors import describe, source_files
from kernels.grader.judging import Verdict, judge, judge_check
from kernels.grader.problems import Problem
from kernels.grader.timing import RUNS, benchmark


@dataclass
class Grade:
    """The result of ``grade``; true if the solution passed.

    ``cases`` and ``beyond`` say which cases and checks passed, by name; ``cause`` is
    the key in ``causes.CAUSES`` of the first likely cause found.
    """

    problem: int
    passed: bool = False
    cases: dict[str, bool] = field(default_factory=dict, repr=False)
    beyond: dict[str, bool] = field(default_factory=dict, repr=False)
    cause: str | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return self.passed


def run(problem, fn, strict, small, time_limit, watchdog=None) -> Grade:
    """``grader.grade`` with checked arguments; ``watchdog()`` runs at each step."""
    small = small or DEVICE == "cpu"
    cases = problem.small_cases if small else problem.cases
    n_steps = len(cases) + sum(len(check.cases) for check in problem.checks)
    n_steps += 0 if small else 2 * RUNS
    say(f"--- Running Autograder for Problem {problem.number}: {problem.title} ---")
    if small:
        say("Small float16 cases; the series' own and their timing need a GPU.")
    # On stderr; where the work is short, only on a terminal.
    with tqdm(total=n_steps, leave=False, disable=None if small else False) as bar:
        grading = Grading(problem, fn, small, time_limit, bar, watchdog)
        grading.run_cases(cases)
        if all(grading.result.cases.values()):
            grading.run_checks(strict)
    return grading.finish(strict)


def say(line: str) -> None:
    """Print a line of the report, beside the progress bar."""
    tqdm.write(line)
    sys.stdout.flush()


class Grading:
    """One run of the grader: what is graded, and the result so far."""

    def __init__(self, problem: Problem, fn, small, time_limit, bar, watchdog):
        self.problem, self.fn, self.time_limit = problem, fn, time_limit
        self.small = small
        self.dtype = torch.float16 if small else tensor_core_dtype()
        self.bar, self.watchdog = bar, watchdog or (lambda: None)
        self.result = Grade(problem.number)

    def step(self) -> None:
        self.bar.update()
        self.watchdog()

    def run_cases(self, cases) -> None:
        """The series' cases, then, if all passed on a GPU, their timing."""
        generator = torch.Generator("cpu" if self.small else DEVICE)
        generator.manual_seed(self.problem.seed)
        for case in cases:
            if self.run_case(case, generator):
                return
        if all(self.result.cases.values()):
            say(f"\nAll P{self.problem.number} correctness tests passed!")
            if not self.small:
                self.run_benchmark(generator)

    def run_case(self, case, generator: torch.Generator) -> bool:
        """Judge and report one case; True if there is no point in going on."""
        self.watchdog()
        result, n = self.result, self.problem.number
        inputs = case.inputs(self.dtype, generator)
        verdict = judge(
            case, self.fn, inputs, case.expected(*inputs), self.time_limit,
            digits=2 if self.small else 6,
            explains=all(result.cases.values()),  # the first failure alone
        )  # fmt: skip
        result.cases[str(case)] = verdict.passed
        if verdict.passed:
            say(f"✅ P{n} Correctness Test Passed! ({case})")
        else:
            result.cause = result.cause or verdict.cause
            say(f"❌ P{n} Test Failed! ({case}) - {verdict.reason}")
            self.say_details(verdict)
        self.step()
        return verdict.is_final

    def run_benchmark(self, generator: torch.Generator) -> None:
        inputs = self.problem.cases[-1].inputs(self.dtype, generator)
        try:
            benchmark(self.problem, self.fn, inputs, say, self.step)
        except Exception as error:
            say(f"Timing failed: {describe(error, source_files(self.fn))}")

    def run_checks(self, strict: bool) -> None:
        """The checks beyond the series."""
        weight = "these count" if strict else "these count with strict"
        say(f"\n--- Beyond the series ({weight}) ---")
        generator = torch.Generator("cpu").manual_seed(self.problem.seed)
        for check in self.problem.checks:
            self.watchdog()
            verdict = judge_check(
                check, self.fn, self.dtype, generator, self.time_limit, self.step
            )
            self.result.beyond[check.name] = verdict.passed
            if verdict.passed:
                say(f"✅ {check.name}")
            else:
                self.result.cause = self.result.cause or verdict.cause
                say(f"❌ {check.name} - {verdict.reason}")
                self.say_details(verdict)
                say(f"   {check.lesson}")
            if verdict.is_final:
                return

    def say_details(self, verdict: Verdict) -> None:
        for line in verdict.details:
            say(f"   {line}")

    def finish(self, strict: bool) -> Grade:
        """Weigh the cases and checks, and say the verdict."""
        result, n_checks = self.result, len(self.problem.checks)
        n_held = sum(result.beyond.values())
        in_series = all(result.cases.values())
        result.passed = in_series and (not strict or n_held == n_checks)
        word = "passed" if result.passed else "failed"
        if in_series:
            word += " (strict)" if strict else ""
            word += f"; beyond the series, {n_held} of {n_checks} checks hold"
        say(f"\nP{self.problem.number} {word}.")
        return result
