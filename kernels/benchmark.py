"""Measure the book's kernels and their peers on this GPU.

    python -m kernels.benchmark [NAME ...]      all experiments if none is named

Each experiment (``kernels.experiments``) times everything it compares in one run, in
turn, after checking the outputs, and writes ``book/results/NAME.json`` whole or not at
all: the card, the versions, the date, the commit, a hash of the measured source, and
for every row its shape, the raw samples and their median. Chapters read it with
``load``.
"""

import argparse
import ast
import datetime
import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

RESULTS = Path(__file__).parent.parent / "book" / "results"
ROUNDS = 5
WARM_UP = 600  # milliseconds
SAMPLES_KEPT = 20  # of each round; evenly spaced where there are more


def code_lines(path: Path) -> list[str]:
    """The lines of a module without its docstrings, comment lines and blank lines."""
    text = path.read_text("utf-8")
    documentation = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documentation.update(range(node.lineno, node.end_lineno + 1))
    return [
        line
        for number, line in enumerate(text.splitlines(), start=1)
        if number not in documentation and line.strip()[:1] not in ("", "#")
    ]


def source_hash(modules: list[str]) -> str:
    """SHA-256 of the code of kernels/NAME.py for each name."""
    digest = hashlib.sha256()
    for name in modules:
        lines = code_lines(Path(__file__).parent / f"{name}.py")
        digest.update("\n".join(lines).encode())
    return digest.hexdigest()


def time_in_turn(functions: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of each function: a few rounds, each function once a round.

    ``triton.testing.do_bench`` times with CUDA events and clears the L2 cache before
    each run. Before the first round all functions are kept running for a while: a card
    that was idle starts at a higher clock than it can hold.
    """
    from triton.testing import do_bench

    for function in functions.values():
        do_bench(function, warmup=WARM_UP / len(functions), rep=1)
    samples = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            times = do_bench(function, warmup=10, rep=40, return_mode="all")
            step = max(1, len(times) // SAMPLES_KEPT)
            samples[name] += [float(f"{ms:.5g}") for ms in times[::step][:SAMPLES_KEPT]]
    return samples


def summarise(samples: list[float]) -> dict:
    """Median and spread (interquartile range over median) of samples in ms."""
    low, median, high = statistics.quantiles(samples, n=4)
    return {
        "ms": statistics.median(samples),
        "spread": round((high - low) / median, 4),
        "samples": samples,
    }


def peak_bytes(function: Callable[[], object]) -> int:
    """The most memory a call holds beyond what was there, its result included."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def git_commit() -> str | None:
    """The commit of the working tree, if git can tell."""
    run = subprocess.run(
        ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    )
    return run.stdout.strip() or None


def about_this_run(commit: str | None) -> dict:
    """What was measured on, with what, and when."""
    import triton

    card = torch.cuda.get_device_properties()
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
    ).stdout.split()
    return {
        "device": {
            "name": card.name,
            "capability": f"{card.major}.{card.minor}",
            "sms": card.multi_processor_count,
            "memory_bytes": card.total_memory,
            "l2_bytes": card.L2_cache_size,
            "shared_bytes": card.shared_memory_per_block_optin,
            "driver": driver[0] if driver else None,
        },
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": commit or git_commit(),
    }


def write(name: str, result: dict) -> None:
    """Write a result file whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    partial = RESULTS / f"{name}.json.part"
    rows = result.pop("rows", [])
    text = json.dumps(result, indent=1)[:-2] + ',\n "rows": [\n'
    text += ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]\n}\n"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, RESULTS / f"{name}.json")


def load(name: str) -> dict:
    """A stored result, as the chapters read it.

    Raises ValueError if there is none of that name.
    """
    path = RESULTS / f"{name}.json"
    if not path.exists():
        known = sorted(p.stem for p in RESULTS.glob("*.json"))
        raise ValueError(f"there is no result {name!r}; there are {known}")
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> int:
    from kernels.experiments import EXPERIMENTS

    parser = argparse.ArgumentParser(
        prog="python -m kernels.benchmark",
        description="Measure the book's kernels and their peers on this GPU.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--commit", help="the measured commit, where git cannot tell")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in EXPERIMENTS:
            parser.error(f"unknown experiment {name!r}; there are {list(EXPERIMENTS)}")
    if not torch.cuda.is_available():
        print("Measuring needs a GPU; none was found.", file=sys.stderr)
        return 1
    for name in tqdm(arguments.names or list(EXPERIMENTS), desc="experiments"):
        modules, experiment = EXPERIMENTS[name]
        torch.manual_seed(0)
        result = about_this_run(arguments.commit)
        result |= {"modules": modules, "source_hash": source_hash(modules)}
        write(name, result | experiment())
    return 0


if __name__ == "__main__":
    sys.exit(main())
