"""Time a solution against plain PyTorch, as the course's autograder does.

10 calls to warm up, then the average of 100, each between two CUDA events; then the
peak of allocated memory of one call, inputs included.
"""

import torch

WARM_UPS, RUNS = 10, 100
PATIENCE = 60_000.0  # milliseconds for one side's runs; a slow one gets fewer, noted


def time_calls(call, on_run) -> tuple[float, int]:
    """(average milliseconds, number of runs); ``on_run()`` is called after each run."""
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)

    def timed() -> float:
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        on_run()
        return start.elapsed_time(end)

    timed()  # compiles
    n_runs = max(3, min(RUNS, int(PATIENCE / timed())))
    for _ in range(WARM_UPS * n_runs // RUNS):
        timed()
    return sum(timed() for _ in range(n_runs)) / n_runs, n_runs


def peak_gigabytes(call) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 1024**3


def benchmark(problem, fn, inputs: tuple, say, on_run) -> None:
    """Print the table of the series' last case through ``say``, a line at a time."""
    case = problem.cases[-1]
    say("\n--- Running Performance Benchmark ---")
    say(f"Benchmark Config: {case.config}")
    sides = {
        problem.peer_name: lambda: case.peer(*inputs),
        problem.solution_name: lambda: case.call(fn, *inputs),
    }
    times, memory, n_runs = {}, {}, RUNS
    for name, call in sides.items():
        times[name], n = time_calls(call, on_run)
        memory[name] = peak_gigabytes(call)
        n_runs = min(n, n_runs)
    say("\n--- Benchmark Results ---")
    say(f"{'Implementation':<25} | {'Avg Time (ms)':<20} | {'Peak Memory (GB)':<20}")
    say("-" * 70)
    for name in sides:
        say(f"{name:<25} | {times[name]:<20.4f} | {memory[name]:<20.4f}")
    say("-" * 70)
    peer, own = problem.peer_name, problem.solution_name
    who = own.split()[0]
    say(f"{who} is {times[peer] / times[own]:.2f}x faster than {peer}.")
    say(f"{who} uses {memory[peer] / memory[own]:.2f}x less memory.")
    if n_runs < RUNS:
        say(f"(A call is slow: averages of {n_runs} runs in place of {RUNS}.)")
