"""How the ladder is measured: compiled first, then timed in many short turns.

Under sustained load the card's clock wanders by more than two neighbouring rungs
differ. So all kernels of a shape take turns, in an order shuffled anew each round.
"""

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from types import ModuleType
from unittest import mock

from tqdm import tqdm

from kernels.attention_rows import Shape, check_each, timed
from kernels.ladder.occupancy import programs_per_sm

ROUNDS = 12
WARM_UP, REPEAT = 2, 8  # milliseconds a kernel and round, at least one call each
COMPILE_SECONDS = 90  # some sizes of tiles keep LLVM busy for many minutes
RESOURCES = ("registers", "spilled_bytes", "shared_bytes", "programs_per_sm")


def time_shuffled(functions: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of each function: the median of each round, ROUNDS of them.

    ``do_bench`` clears the L2 cache before each call. A round before the first is not
    counted: it takes the card to the clock that it can hold.
    """
    from triton.testing import do_bench

    names, order = list(functions), random.Random(0)
    samples = {name: [] for name in names}
    for turn in range(ROUNDS + 1):
        order.shuffle(names)
        for name in names:
            ms = do_bench(
                functions[name], warmup=WARM_UP, rep=REPEAT, return_mode="median"
            )
            if turn > 0:
                samples[name].append(float(f"{ms:.5g}"))
    return samples


@contextmanager
def launches(module: ModuleType, kernel: str):
    """A list of the compiled kernels that a module launches meanwhile."""
    original, compiled = getattr(module, kernel), []

    class Noted:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: compiled.append(
                original[grid](*args, **kwargs)
            )

    with mock.patch.object(module, kernel, Noted()):
        yield compiled


def resources(call: Callable[[], object], module: ModuleType, kernel: str) -> dict:
    """What a thread and a program of the kernel that ``call`` launches take."""
    with launches(module, kernel) as compiled:
        call()
    one = compiled[-1]
    taken = one.n_regs, one.metadata.shared, one.metadata.num_warps
    spilled = 4 * one.n_spills  # Triton counts words
    return dict(zip(RESOURCES, (taken[0], spilled, taken[1], programs_per_sm(*taken))))


def rows_of_shape(functions: dict[str, Callable], shape: Shape, extra: dict) -> list:
    """Check functions of (q, k, v) and time the right ones: a row each.

    ``extra`` has further columns of a row: a function of (q, k, v) for each name that
    says them.
    """
    inputs = shape.inputs()
    rows, right = check_each(functions, inputs, shape, say=lambda name: None)
    for name, samples in time_shuffled(right).items():
        rows[name] = timed(samples, shape)
        if name in extra:
            rows[name] |= extra[name](*inputs)
    return [{"kernel": name, **shape.columns(), **rows[name]} for name in functions]


def compile_all(
    jobs: list[Callable[[], object]], say: str, seconds: float = COMPILE_SECONDS
) -> list[bool]:
    """Run picklable jobs in processes of their own, which fill Triton's cache on disk.

    Returns which of them have ended; after so many seconds in all, the others are
    stopped. What fails here is tried again, and named, where it is measured.
    """
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    workers = max(1, min(len(jobs), len(os.sched_getaffinity(0)) - 2))
    end = time.monotonic() + seconds
    with spawn.Pool(workers) as pool:  # stops what still runs when it is left
        running = [pool.apply_async(quietly, (job,)) for job in jobs]
        for job in tqdm(running, desc=f"{say}: compiling", leave=False):
            job.wait(max(0, end - time.monotonic()))
        return [job.ready() for job in running]


def quietly(job: Callable[[], object]) -> None:
    """Run a job whatever it raises: not every exception can travel to the parent."""
    with suppress(Exception):
        job()
