"""What a card executes: the loops with products in a compiled kernel's SASS.

nvdisasm, which comes with Triton, prints a cubin's instructions one a line, and labels.
A loop is what lies between a label and a branch back to it. But not all that does is a
loop: where a wait has to look again, it does so behind everything else, and leaps back
from there. What it leaps over holds whole loops, or the end of one without its
beginning; either gives it away.
"""

import re
import subprocess
import tempfile
from typing import NamedTuple

import triton

LABEL = re.compile(r"\s*(\.L_\w+):")
INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;")
BRANCH = re.compile(r"\bBRA\b.*`\((\.L_\w+)\)")


class Loop(NamedTuple):
    """From its first instruction to its branch, as places in the kernel."""

    start: int
    end: int


def instructions_of(cubin: bytes) -> list[str]:
    """The machine code of a kernel, a line an instruction; labels end in a colon."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", file.name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = []
    for line in done.stdout.splitlines():
        if label := LABEL.match(line):
            lines.append(label[1] + ":")
        elif instruction := INSTRUCTION.match(line):
            lines.append(instruction[1])
    return lines


def loops_with_products(lines: list[str]) -> list[list[str]]:
    """The instructions of each innermost loop that has products, without labels."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    branches = [(m[1], i) for i, line in enumerate(lines) if (m := BRANCH.search(line))]
    back = [Loop(labels[to], i) for to, i in branches if labels[to] < i]
    loops = [
        loop
        for loop in back
        if any("HGMMA" in line for line in lines[loop.start : loop.end])
        and not any(b.start < loop.start < b.end < loop.end for b in back)
    ]
    innermost = [
        loop
        for loop in loops
        if not any(
            loop.start <= other.start and other.end <= loop.end and other != loop
            for other in loops
        )
    ]
    return [
        [line for line in lines[loop.start : loop.end + 1] if not line.endswith(":")]
        for loop in innermost
    ]
