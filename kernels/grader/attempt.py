"""Call a learner's function once, and turn whatever goes wrong into one sentence.

Whatever the function does, ``attempt`` returns its tensors or raises ``Rejected`` with
a sentence for the report: it raised, it did not finish, it returned the wrong thing, it
wrote into its inputs. Precautions are taken around the call:

- ``torch.empty`` hands out memory filled with ``MARK``, so that an output element that
  was never written shows, and does not happen to hold a right answer left behind there.
- ``case.guarded`` puts zeros around the keys and values of grouped queries, so that a
  kernel that reads heads past the last, or keys before the first, reads these.
- A time limit. In the main thread an alarm interrupts Python code, the interpreter's
  included, and a kernel on the GPU is waited for by polling. Nothing in Python can stop
  a running GPU kernel or foreign code: the process has to end, as the shell grader's
  child process does (``python -m kernels.grader``).
"""

import contextlib
import signal
import threading
import time

import numpy as np
import torch

from kernels.device import DEVICE
from kernels.grader.errors import describe, source_files

MARK = 12345.0


class Rejected(Exception):
    """A call without an output to compare; ``is_final``: more calls are pointless."""

    def __init__(self, reason: str, is_final: bool = False):
        super().__init__(reason)
        self.is_final = is_final


class OutOfTime(BaseException):
    """The time limit passed. No Exception, so that a bare handler does not eat it."""


def attempt(case, fn, inputs: tuple, time_limit: float) -> tuple:
    """The outputs of ``case.call(fn, *inputs)``, in the order of case.output_names.

    Raises ``Rejected`` if there are none. ``time_limit`` is in seconds.
    """
    inputs = case.guarded(*inputs)
    kept = [x.clone() for x in inputs]
    try:
        # The interpreter computes with NumPy, whose warnings add nothing to a verdict.
        with limited(time_limit), marked_empty(), np.errstate(all="ignore"):
            deadline = time.monotonic() + time_limit
            returned = case.call(fn, *inputs)
            wait_for_device(deadline)
    except OutOfTime:
        raise Rejected(
            f"Did not finish within {time_limit:g} s: does every loop end?",
            is_final=True,
        ) from None
    except NotImplementedError as error:
        reason = str(error) or describe(error, source_files(fn))
        raise Rejected(f"Not written yet: {reason}", is_final=True) from None
    except (Exception, SystemExit) as error:
        reason = describe(error, source_files(fn))
        is_final = "CUDA error" in str(error)  # the GPU then refuses all further work
        raise Rejected(f"Error: {reason}", is_final) from None
    outputs = check_outputs(case, returned, inputs)
    for name, x, before in zip(case.input_names, inputs, kept, strict=True):
        if not torch.equal(x, before):
            raise Rejected(f"Writes into its input {name}; inputs are read only.")
    return outputs


def check_outputs(case, returned, inputs) -> tuple:
    """``returned`` as a tuple of tensors with the shapes and dtypes asked for."""
    names = case.output_names
    outputs = (returned,) if len(names) == 1 else returned
    if not isinstance(outputs, tuple | list) or len(outputs) != len(names):
        raise Rejected(
            f"Returned {kind_of(returned)}; a tuple ({', '.join(names)}) is asked for."
        )
    first = inputs[0]
    for name, value in zip(names, outputs, strict=True):
        # o has q's shape, y and lse have one element a row.
        shape = first.shape if name == "o" else first.shape[:-1]
        wanted = f"a tensor of shape {tuple(shape)}"
        if not isinstance(value, torch.Tensor) or value.shape != shape:
            given = kind_of(value)
            raise Rejected(f"Returned {name} as {given}; {wanted} is asked for.")
        is_right = value.is_floating_point() and name == "lse"
        if not is_right and value.dtype != first.dtype:
            raise Rejected(
                f"Returned {name} in {value.dtype}; {first.dtype}, "
                f"as {case.input_names[0]} has, is asked for."
            )
        if value.device != first.device:
            raise Rejected(
                f"Returned {name} on {value.device}; it belongs on {first.device}."
            )
    return tuple(outputs)


def kind_of(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


@contextlib.contextmanager
def marked_empty():
    """Fill what torch.empty and its like hand out with ``MARK``."""

    def marked(make):
        def make_marked(*args, **kwargs):
            x = make(*args, **kwargs)
            if x.is_floating_point():
                x.detach().fill_(MARK)
            return x

        return make_marked

    places = [(torch, "empty"), (torch, "empty_like"), (torch, "empty_strided")]
    places += [(torch.Tensor, "new_empty")]
    originals = [getattr(place, name) for place, name in places]
    for (place, name), original in zip(places, originals, strict=True):
        setattr(place, name, marked(original))
    try:
        yield
    finally:
        for (place, name), original in zip(places, originals, strict=True):
            setattr(place, name, original)


@contextlib.contextmanager
def limited(seconds: float):
    """Raise OutOfTime in the main thread once ``seconds`` have passed."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(signum, frame):
        raise OutOfTime

    handler = signal.signal(signal.SIGALRM, ring)
    started = time.monotonic()
    pending, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        left = pending - (time.monotonic() - started)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if pending:  # somebody else's alarm goes on
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))


def wait_for_device(deadline: float) -> None:
    """Wait for the GPU by polling: a blocking wait could not be interrupted."""
    if DEVICE != "cuda":
        return
    done = torch.cuda.Event()
    done.record()
    while not done.query():
        if time.monotonic() > deadline:
            raise OutOfTime
        time.sleep(0.001)
