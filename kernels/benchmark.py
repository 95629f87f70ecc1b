"""Measure the book's kernels and their peers on this GPU.

    python -m kernels.benchmark [NAME ...]      everything if nothing is named

Each experiment (``kernels.experiments``; those of all lengths, head dimensions and
dtypes in ``kernels.sweep``) times what it compares in one run, in turn, after checking
the outputs, and writes ``book/results/NAME.json`` whole or not at all: the card, the
versions, the date, the commit, a hash of the measured source, and for every row its
shape, the raw samples and their median. Chapters read it with ``load``.

A file that is there already, measured with today's source on this kind of card with
these versions, is left as it is. So a run that was cut off is taken up again by the
same command; ``--again`` measures anew.
"""

import argparse
import ast
import datetime
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import torch
from tqdm import tqdm

RESULTS = Path(__file__).parent.parent / "book" / "results"
VERSIONS = ["torch", "triton", "cudnn", "fa3-fwd"]  # as ``about_this_run`` names them


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


def git_commit() -> str | None:
    """The commit of the working tree, if git can tell."""
    run = subprocess.run(
        ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    )
    return run.stdout.strip() or None


def version_of(package: str) -> str | None:
    """The installed version of a package that need not be there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def about_this_run(commit: str | None) -> dict:
    """What is measured on, with what, and when."""
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
        "fa3-fwd": version_of("fa3-fwd"),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": commit or git_commit(),
    }


def write(name: str, result: dict) -> None:
    """Write a result file whole or not at all, each row of its tables on one line."""
    RESULTS.mkdir(exist_ok=True)
    partial = RESULTS / f"{name}.json.part"
    tables = {key: result[key] for key in ("ceilings", "rows") if key in result}
    rest = {key: value for key, value in result.items() if key not in tables}
    text = json.dumps(rest, indent=1)[:-2]
    for key, rows in tables.items():
        text += f',\n "{key}": [\n'
        text += ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]"
    partial.write_text(text + "\n}\n", encoding="utf-8")
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


def is_current(name: str, about: dict, kernels: Collection[str] = ()) -> bool:
    """Is there a result of this source, card and versions, with all these kernels?

    A file from before a version was recorded says nothing of it. The driver is stored
    and not compared: no kernel is compiled by it.
    """
    if not (RESULTS / f"{name}.json").exists():
        return False
    stored = load(name)
    measured = {row.get("kernel") for row in stored["rows"]}
    return (
        stored["source_hash"] == about["source_hash"]
        and stored["device"]["name"] == about["device"]["name"]
        and all(stored.get(key, about[key]) == about[key] for key in VERSIONS)
        and set(kernels) <= measured - set(stored.get("without", []))
    )


def main(argv: list[str] | None = None) -> int:
    from kernels.experiments import EXPERIMENTS
    from kernels.sweep import KERNELS, SWEEPS, table

    parser = argparse.ArgumentParser(
        prog="python -m kernels.benchmark",
        description="Measure the book's kernels and their peers on this GPU.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument(
        "--again", action="store_true", help="measure what is there already, too"
    )
    parser.add_argument(
        "--without", action="append", default=[], choices=KERNELS, metavar="KERNEL",
        help=f"leave a kernel out of the sweep; repeatable: {', '.join(KERNELS)}",
    )  # fmt: skip
    parser.add_argument("--commit", help="the measured commit, where git cannot tell")
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        if name not in EXPERIMENTS:
            parser.error(f"unknown experiment {name!r}; there are {list(EXPERIMENTS)}")
    if not torch.cuda.is_available():
        print("Measuring needs a GPU; none was found.", file=sys.stderr)
        return 1
    names = arguments.names or list(EXPERIMENTS)
    for name in tqdm(names, desc="experiments"):
        modules, experiment = EXPERIMENTS[name]
        about = about_this_run(arguments.commit)
        about |= {"modules": modules, "source_hash": source_hash(modules)}
        wanted = [k for k in KERNELS if name in SWEEPS and k not in arguments.without]
        if not arguments.again and is_current(name, about, wanted):
            tqdm.write(f"{name}: there already, of this source, card and versions")
            continue
        torch.manual_seed(0)
        choice = {"without": arguments.without} if name in SWEEPS else {}
        write(name, about | experiment(**choice))
    for name in names:
        if name in SWEEPS:
            print(table(name, load(name)), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
