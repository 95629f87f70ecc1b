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
SUSTAINED, LEAD = 60, 4  # launches of each kernel, and before them, not counted
SUSTAINED_WARM_UP = 500  # milliseconds, before those
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


def time_sustained(functions: dict[str, Callable[[], object]]) -> dict:
    """Milliseconds of each function on a card that is never idle: SUSTAINED samples.

    All functions take turns launch by launch, in an order drawn anew each round,
    without a pause and without clearing the L2 cache, as the layers of a model do. All
    is handed to the card before the first time is read. So what a call costs the host
    does not show, as long as that is less than what it costs the card.
    """
    import torch

    names, draw = list(functions), random.Random(0)
    pairs = {name: [] for name in names}
    start = time.monotonic()
    while time.monotonic() < start + SUSTAINED_WARM_UP / 1000:
        for function in functions.values():
            function()
        torch.cuda.synchronize()  # or the host would run ahead of the card by far
    for turn in range(SUSTAINED + LEAD):  # the card is still busy with the lead
        draw.shuffle(names)
        for name in names:
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            functions[name]()
            events[1].record()
            if turn >= LEAD:
                pairs[name].append(events)
    torch.cuda.synchronize()
    return {
        name: [float(f"{before.elapsed_time(after):.5g}") for before, after in taken]
        for name, taken in pairs.items()
    }


@contextmanager
def launches(module: ModuleType, kernel: str):
    """A list of the compiled kernels that a module launches meanwhile."""
    original, compiled = getattr(module, kernel), []

    class Noted:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: compiled.append(
                original[grid](*args, **kwargs)
            )

        def warmup(self, *args, **kwargs):  # as ``kernels.launch`` compiles
            compiled.append(original.warmup(*args, **kwargs))
            return compiled[-1]

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


def rows_of_shape(
    functions: dict[str, Callable], shape: Shape, extra: dict,
    timer: Callable | None = None,
) -> list:  # fmt: skip
    """Check functions of (q, k, v) and time the right ones: a row each.

    ``extra`` has further columns of a row: a function of (q, k, v) for each name that
    says them. ``timer``: ``time_shuffled`` unless another is given.
    """
    inputs = shape.inputs()
    rows, right = check_each(functions, inputs, shape, say=lambda name: None)
    for name, samples in (timer or time_shuffled)(right).items():
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
