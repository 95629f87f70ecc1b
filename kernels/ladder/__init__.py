"""Chapter 10's ladder: one kernel a rung, each a small change of the one before.

A rung is a file with one ``attention_kernel`` and one host function ``attention``, from
q, k, v to o; ``kernels.ladder.inputs`` says what it takes. Above the last rung stands
``kernels.fast_attention``, the same made general.
"""

import inspect
from collections.abc import Callable
from difflib import SequenceMatcher
from importlib import import_module
from typing import NamedTuple

from triton.runtime.jit import KernelInterface


class Rung(NamedTuple):
    """``idea``: what it changes; ``moved``: the limit that it moves."""

    name: str
    module: str
    idea: str
    moved: str

    @property
    def kernel(self) -> KernelInterface:
        """The Triton kernel."""
        return import_module(f"kernels.ladder.{self.module}").attention_kernel

    @property
    def attention(self) -> Callable:
        """The host function: q, k, v (B, H, N, d) and perhaps ``tiles`` → o."""
        return import_module(f"kernels.ladder.{self.module}").attention


RUNGS = (
    Rung("float32 operands", "float32_operands", "the start", "none"),
    Rung("16-bit operands", "sixteen_bit", "operands keep 16 bits", "tensor cores"),
    Rung("base two", "base_two", "exp2, scale folded in", "instructions"),
    Rung("two phases", "two_phases", "mask on the diagonal alone", "instructions"),
    Rung("copy engine", "copy_engine", "tensor descriptors", "instructions"),
    Rung("small tiles", "small_tiles", "programs fill each other's gaps", "waiting"),
    Rung("longest first", "longest_first", "short tiles end the launch", "tail"),
    Rung("heads grouped", "heads_grouped", "K and V stay in the L2 cache", "bytes"),
    Rung("partial sums", "partial_sums", "row sums without shuffles", "instructions"),
    Rung("kept maximum", "kept_maximum", "no maximum, no rescaling", "instructions"),
)
# What did not help, each a change of rung 9.
DEAD_ENDS = (
    Rung("persistent", "persistent", "programs that take tile after tile", "none"),
    Rung("next scores first", "next_scores_first", "products under softmax", "none"),
)


def changes(before: Rung, after: Rung, context: int = 1) -> str:
    """What changed in kernel and host function, as a diff without line numbers.

    Indentation does not count as a change (``diff --ignore-all-space``): a body that
    moved into a loop shows as it was. ``context``: how many unchanged lines are shown
    around a change.
    """
    shown = []
    for part in ("kernel", "attention"):
        old, new = (_source(getattr(rung, part)) for rung in (before, after))
        bare = [[line.strip() for line in lines] for lines in (old, new)]
        matcher = SequenceMatcher(None, *bare, autojunk=False)
        for hunk in matcher.get_grouped_opcodes(context):
            shown.append(f"@@ {part} @@")
            for tag, old_start, old_end, new_start, new_end in hunk:
                if tag == "equal":
                    shown += [" " + line for line in new[new_start:new_end]]
                else:
                    shown += ["-" + line for line in old[old_start:old_end]]
                    shown += ["+" + line for line in new[new_start:new_end]]
    return "\n".join(shown)


def _source(function: Callable) -> list[str]:
    return inspect.getsource(getattr(function, "fn", function)).splitlines()
