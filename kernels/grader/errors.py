"""An exception from a learner's function, said in one line."""

import contextlib
import inspect
import traceback


def describe(error: BaseException, files: set[str]) -> str:
    """An exception in one line: type, last line of its message, line in ``files``."""
    place = ""
    for link in causes(error):
        for frame in traceback.extract_tb(link.__traceback__):
            if frame.filename in files:
                place = f" (line {frame.lineno}: `{frame.line}`)"
    while error.__cause__ and is_wrapper(error):
        error = error.__cause__
    source, node = getattr(error, "src", None), getattr(error, "node", None)
    if source and hasattr(node, "lineno"):  # Triton's compiler names the kernel's line
        place = f" (at `{source.splitlines()[node.lineno - 1].strip()}`)"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[-1:]]) + place


def is_wrapper(error: BaseException) -> bool:
    """Triton's interpreter wraps what went wrong; its compiler, once for each call of
    a jitted function by another.
    """
    name, inner = type(error).__name__, type(error.__cause__).__name__
    return name == "InterpreterError" or name == inner == "CompilationError"


def causes(error: BaseException | None):
    """The exception, then what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def source_files(fn) -> set[str]:
    """The files in which the learner's function, or its class, is written."""
    files = set()
    owner = getattr(fn, "__self__", None)  # of FlashAttention2Function.apply
    for part in (fn, getattr(owner, "forward", None)):
        with contextlib.suppress(TypeError, OSError):
            files.add(inspect.getsourcefile(inspect.unwrap(part)))
    return files
