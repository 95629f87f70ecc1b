"""Plant a mistake in a good solution: replace text in its source, and load that."""

import importlib.util
from dataclasses import replace
from pathlib import Path

from kernels import grade
from kernels.grader.causes import CAUSES
from kernels.grader.problems import PROBLEMS

SOLUTIONS = Path(__file__).parent / "solutions"


def load(path: Path, entry: str):
    """``entry`` of the module at ``path``, from where Triton reads kernels' source."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, entry)


def plant(folder: Path, n: int, *changes: tuple[str, str]):
    """The solution of problem ``n`` with each (old, new) text replaced throughout."""
    source = (SOLUTIONS / f"problem_{n}.py").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in source, f"the solution of problem {n} has no {old!r}"
        source = source.replace(old, new)
    path = folder / f"problem_{n}.py"
    path.write_text(source, encoding="utf-8")
    return load(path, PROBLEMS[n].entry)


def check_named(n: int, cause: str, fn, case, check: str | None, monkeypatch, capsys):
    """Grade ``fn`` on ``case`` and the check of that name: the cause must be named."""
    checks = tuple(c for c in PROBLEMS[n].checks if c.name == check)
    problem = replace(PROBLEMS[n], small_cases=(case,), checks=checks)
    monkeypatch.setitem(PROBLEMS, n, problem)
    result = grade(n, fn, strict=True, small=True)
    report = capsys.readouterr().out
    assert not result
    assert result.cause == cause, report
    assert CAUSES[cause] in report or cause == "strides"
    assert "?." not in report
