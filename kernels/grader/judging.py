"""Judge one case or one check of a problem: is the answer right, and if not, why?"""

import math
from dataclasses import dataclass

import torch

from kernels.grader.attempt import Rejected, attempt
from kernels.grader.beyond import Check
from kernels.grader.causes import CAUSES
from kernels.grader.diagnosis import diagnose
from kernels.grader.problems import TOLERANCE

MAX_ERROR, RMS_ERROR = 2.0, 1.05  # allowed, in units of PyTorch's own error


@dataclass
class Verdict:
    """What became of a case: ``reason`` and ``details`` (lines) say why it failed.

    ``cause`` is a key of ``causes.CAUSES``. ``is_final``: there is no point in
    calling the function again.
    """

    passed: bool
    reason: str = ""
    details: tuple[str, ...] = ()
    cause: str | None = None
    is_final: bool = False
    outputs: tuple = ()


def judge(case, fn, inputs, answers, time_limit, digits=6, explains=True) -> Verdict:
    """Call ``fn`` on ``case`` and compare every output with its answer.

    An element is right if it is close to the answer, or to the answer in float64: with
    16-bit inputs, the series' own is itself off by more than the tolerance at times.
    A failing verdict has the largest difference (``digits`` decimals) and, if
    ``explains``, the first wrong position and the likely cause.
    """
    try:
        outputs = attempt(case, fn, inputs, time_limit)
    except Rejected as rejected:
        return Verdict(False, str(rejected), is_final=rejected.is_final)
    exact = None
    for i, name in enumerate(case.output_names):
        actual, answer = outputs[i], answers[i]
        wrong = disagreement(actual, answer)
        if wrong.any():
            exact = exact or case.exact(*inputs)
            wrong &= disagreement(actual, exact[i])
        if not wrong.any():
            continue
        largest = (actual.double() - answer.double()).abs().max().item()
        details = [f"Max difference: {largest:.{digits}f}"]
        cause = None
        if explains:
            cause = diagnose(case, inputs, name, actual, wrong)
            details.append(first_wrong(case, name, actual, answer, wrong, digits))
            details.append(explain(cause))
        subject = "Results do" if len(answers) == 1 else f"Output {name} does"
        return Verdict(False, f"{subject} not match.", tuple(details), cause)
    return Verdict(True, outputs=outputs)


def disagreement(actual: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """Where the two differ by more than the tolerance, absolute and relative (bool)."""
    return ~torch.isclose(
        actual.double(), answer.double(), rtol=TOLERANCE, atol=TOLERANCE
    )


def first_wrong(case, name: str, actual, answer, wrong, digits: int) -> str:
    """The first wrong element, in the order of the index, in words."""
    share = wrong.double().mean().item()
    part = f"{share:.0%}" if share > 0.01 else "under 1%"
    index = tuple(wrong.nonzero()[0].tolist())
    position = ", ".join(
        f"{axis} {i}" for axis, i in zip(case.axes, index, strict=False)
    )
    return (
        f"First wrong position: {name} at {position}: expected "
        f"{answer[index].item():.{digits}f}, got {actual[index].item():.{digits}f} "
        f"({part} of the elements are wrong)"
    )


def explain(cause: str | None) -> str:
    if cause is None:
        return "No classic mistake alone explains this output."
    stop = "" if CAUSES[cause].endswith("?") else "."
    return f"Likely cause: {CAUSES[cause]}{stop}"


def judge_check(check: Check, fn, dtype, generator, time_limit, on_case) -> Verdict:
    """Judge a check's cases against float64; ``on_case()`` is called after each."""
    errors, own_errors, largest = [], [], 0.0
    for case in check.cases:
        inputs = case.inputs(dtype, generator)
        answers = case.exact(*inputs)
        verdict = judge(case, fn, inputs, answers, time_limit, digits=2)
        if not verdict.passed:
            verdict.reason = f"({case}) {verdict.reason}"
            return blame_layout(verdict, case, fn, inputs, answers, time_limit)
        if check.by_error:
            errors.append((verdict.outputs[0] - answers[0]).flatten())
            own_errors.append((case.peer(*inputs) - answers[0]).flatten())
            largest = max(largest, answers[0].abs().max().item())
        on_case()
    if not check.by_error:
        return Verdict(True)
    ulp = torch.finfo(dtype).eps * largest
    return compare_errors(torch.cat(errors), torch.cat(own_errors), ulp)


def compare_errors(error, own_error, ulp: float) -> Verdict:
    """The error of a solution beside PyTorch's own, both against float64."""
    rms = math.sqrt(error.square().mean() / own_error.square().mean())
    worst, bound = error.abs().max(), MAX_ERROR * own_error.abs().max() + ulp
    if rms > RMS_ERROR:
        reason = f"RMS error is {rms:.2f} times PyTorch's own; {RMS_ERROR} is allowed."
        return Verdict(False, reason)
    if worst > bound:
        reason = f"Largest error is {worst:.1e}; {bound:.1e} is allowed."
        return Verdict(False, reason)
    return Verdict(True)


def blame_layout(verdict, case, fn, inputs, answers, time_limit) -> Verdict:
    """If contiguous inputs work, say whose layout does not: try each alone."""

    def works(*tensors) -> bool:
        return judge(case, fn, tensors, answers, time_limit, explains=False).passed

    packed = [x.contiguous() for x in inputs]
    if case.layout == "plain" or verdict.is_final or not works(*packed):
        return verdict
    blamed = [
        name
        for i, name in enumerate(case.input_names)
        if not works(*packed[:i], inputs[i], *packed[i + 1 :])
    ]
    names = ", ".join(blamed) or "the inputs together"
    line = (
        f"Likely cause: strides. Contiguous inputs work; {names} in this layout: wrong."
    )
    verdict.cause = "strides"
    verdict.details = (*verdict.details[:2], line)
    return verdict
