"""Grade a solution of one of the graded problems.

In a notebook:   from kernels import grade
                 grade(4, flash_attention_forward)
In a shell:      python -m kernels.grader 4 problem_4.py [--strict]

The series' own cases decide whether a solution passes. Checks beyond the series are
reported, and count with ``strict``. On a GPU a solution that passes is timed against
plain PyTorch, as in the course's autograder. Without a GPU, or with ``small=True``, a
few small float16 cases take the place of the series' and nothing is timed; what is
printed for those is the same on every machine.

The modules, from the inside out: ``cases``, ``grouped_case`` and ``row_sum_case`` make
one call of a solution, and ``problems`` and ``beyond`` say which are asked; ``attempt``
makes the call and survives it, and ``errors`` puts what it raised into a line;
``diagnosis`` guesses a mistake from the wrong output, among ``causes``, with the models
of ``attention_mistakes``, ``key_counts``, ``window_mistakes``, ``head_mistakes`` and
``row_sum_mistakes``; ``judging`` puts these together for one case and ``grading`` for a
problem, with ``timing``; ``shell`` is the command.
"""

from kernels.grader.grading import Grade, run
from kernels.grader.problems import PROBLEMS

TIME_LIMIT = 120.0  # seconds for one call, compilation included


def grade(
    n: int,
    fn,
    strict: bool = False,
    small: bool = False,
    time_limit: float = TIME_LIMIT,
) -> Grade:
    """Grade ``fn`` as a solution of problem ``n`` and print the report.

    Parameters
    ----------
    n : the problem's number, a key of ``problems.PROBLEMS``.
    fn : what the problem's solution file defines: ``FlashAttention2Function`` (the
        class or its ``apply``) for problem 1, ``weighted_row_sum_forward(x, w)`` for 2,
        ``flash_attention_forward(q, k, v, is_causal=...)`` for 3 to 5, with
        ``window_size=...`` in 6, and ``sink_size=...`` too in 7.
    strict : count the checks beyond the series too.
    small : grade small float16 cases, without timing; always so without a GPU.
    time_limit : seconds for one call. In a notebook it can interrupt Python (under the
        interpreter, all of a kernel) and give up waiting for the GPU, but not stop what
        runs there: then restart the notebook's kernel.

    Returns a ``Grade``. Raises ValueError or TypeError for bad arguments; whatever
    ``fn`` does becomes part of the report.
    """
    problem, fn = check_arguments(n, fn, time_limit)
    return run(problem, fn, strict, small, time_limit)


def check_arguments(n, fn, time_limit):
    """The problem and the callable of ``grade``'s arguments, or an exception."""
    if n not in PROBLEMS:
        raise ValueError(f"n is {n!r}; allowed are {', '.join(map(str, PROBLEMS))}")
    problem = PROBLEMS[n]
    if isinstance(fn, type) and hasattr(fn, "apply"):
        fn = fn.apply
    if isinstance(fn, type) or not callable(fn):
        raise TypeError(f"fn is {fn!r}; problem {n} asks for {problem.entry}")
    if not time_limit > 0:
        raise ValueError(f"time_limit is {time_limit!r}; it must be above 0 seconds")
    return problem, fn
