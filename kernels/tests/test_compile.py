"""The kernels compile for cards from Turing to Hopper, and fit in their memory.

A sample of dtypes and head dims; compile_for_cards.py does the work, in a process of
its own, where Triton compiles rather than interprets.
"""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sass import loops_with_products

SCRIPT = Path(__file__).with_name("compile_for_cards.py")

# (compute capability, dtype) -> head dims
SAMPLE = {
    (75, "float16"): (16, 64, 128),
    (75, "float32"): (64,),
    (80, "float16"): (64, 256),
    (86, "float16"): (64, 96, 128, 256),
    (86, "float32"): (128,),
    (89, "float16"): (128,),
    (90, "float16"): (16, 64, 96, 128, 256),
    (90, "bfloat16"): (128,),
    (90, "float32"): (64, 256),
}
JOBS = [
    (capability, kernel, dtype, head_dim)
    for (capability, dtype), head_dims in SAMPLE.items()
    for head_dim in head_dims
    for kernel in ("full", "causal")
]
OPTIONS = ("window", "sinks", "learned_sink", "softcap", "alibi", "ones", "no_sinks")
MODEL_SAMPLE = {
    (75, "float16", 64): ("model", "everything"),
    (80, "float16", 128): ("sinks", "everything"),
    (86, "float16", 128): ("model", "everything"),
    (86, "float32", 128): ("everything",),
    (90, "bfloat16", 64): ("model", "everything"),
    (90, "bfloat16", 96): ("everything",),
    (90, "bfloat16", 128): ("model", *OPTIONS, "everything"),
    (90, "bfloat16", 256): ("model", "everything"),
    (90, "float32", 64): ("everything",),
}
JOBS += [
    (capability, kernel, dtype, head_dim)
    for (capability, dtype, head_dim), kernels in MODEL_SAMPLE.items()
    for kernel in kernels
]
JOBS += [(90, "fast_causal", "bfloat16", head_dim) for head_dim in (16, 64, 128, 256)]
JOBS += [(90, "fast_full", "float16", head_dim) for head_dim in (64, 96)]
JOBS += [(90, f"hopper_{case}", "bfloat16", 128) for case in ("full", "unequal")]
JOBS += [(90, f"hopper_{case}", "float16", 64) for case in ("tail", "causal")]
JOBS += [(90, f"persistent_{case}", "bfloat16", 64) for case in ("full", "causal")]
JOBS += [(90, f"persistent_{case}", "bfloat16", 128) for case in ("causal", "two")]
JOBS += [(90, "persistent_unequal", "float16", head_dim) for head_dim in (16, 64)]
JOBS += [(90, f"persistent_{case}", "bfloat16", 64) for case in ("window", "sinks")]
JOBS += [(90, f"persistent_{case}", "bfloat16", 128) for case in ("window", "sinks")]
# Bytes that a thread spills where there is a mask: between tiles and in a step with
# one, but not in the loop. Three consumers have 160 registers a thread; in bfloat16 the
# two passes spill apart.
SPILLED = {
    ("persistent_causal", 64): 56,
    ("persistent_causal", 128): 8,
    ("persistent_unequal", 64): 112,
    ("persistent_unequal", 16): 8,
    ("persistent_window", 64): 16,
    ("persistent_window", 128): 80,
    ("persistent_sinks", 64): 16,
    ("persistent_sinks", 128): 80,
}
JOBS += [(90, "hopper_watched", "bfloat16", 128)]
JOBS += [(90, f"one_phase{kind}", "bfloat16", 64) for kind in ("", "_skipping")]
# What need only compile: the kernels of chapter 04 and the grader's solutions.
CHAPTER_04 = ("copy", "copy_matrix", "softmax", "matmul", "weighted_row_sum")
SOLUTIONS = (*[f"solution_{n}" for n in range(2, 8)], "seed")
SIMPLE_JOBS = [(90, kernel, "float16", 64) for kernel in (*CHAPTER_04, *SOLUTIONS)]
SIMPLE_JOBS += [(90, kernel, "float32", 64) for kernel in CHAPTER_04]


@functools.cache
def compiled() -> dict:
    """What compile_for_cards.py says of each job."""
    env = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable, str(SCRIPT), json.dumps(JOBS + SIMPLE_JOBS)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = map(json.loads, done.stdout.splitlines())
    return {tuple(result["job"]): result for result in results}


def name_of(job) -> str:
    return "sm_{}-{}-{}-d{}".format(*job)


@pytest.mark.parametrize("job", SIMPLE_JOBS, ids=name_of)
def test_compiles(job):
    result = compiled()[job]
    assert result["shared"] <= result["shared_limit"]


@pytest.mark.parametrize("job", JOBS, ids=name_of)
def test_compiles_and_fits(job):
    capability, kernel, dtype, head_dim = job
    result = compiled()[job]
    assert result["shared"] <= result["shared_limit"], result["tiles"]
    if dtype == "float32":
        rounds_to_tf32 = "tf32" in result["ptx"]
        assert not rounds_to_tf32
    elif capability >= 80:  # the tensor cores multiply in the inputs' dtype
        short = {"float16": "f16", "bfloat16": "bf16"}[dtype]
        keeps_dtype = f".f32.{short}.{short}" in result["ptx"]
        assert keeps_dtype
    by_hand = ("fast", "hopper", "persistent")
    if kernel.startswith(by_hand):  # the tensor cores of Hopper, and its copy engine
        assert "wgmma.mma_async" in result["ptx"]
        assert "cp.async.bulk.tensor" in result["ptx"]
        is_watched = "%clock64" in result["ptx"]  # and nothing of it is there if not
        assert is_watched == (kernel == "hopper_watched")
    if capability == 90 and dtype != "float32":
        # The mask over the columns 96 to 127 takes registers in every step.
        allowed = 8 if head_dim == 96 else 0
        if kernel.startswith("persistent"):
            allowed = SPILLED.get((kernel, head_dim), 0)
        assert result["stack"] <= allowed, f"{result['tiles']} spill registers"


BY_HAND = [job for job in JOBS if job[1].startswith(("hopper", "persistent"))]


def passes_of(job) -> int:
    """Two if the kernel keeps its maximum: the second is for where that was wrong."""
    _, kernel, dtype, _ = job
    follows = kernel.startswith("hopper") or kernel == "persistent_two"
    return 1 if follows or dtype == "float16" else 2


@pytest.mark.parametrize("job", BY_HAND, ids=name_of)
def test_a_consumers_loop(job):
    """Nothing is spilled, and no wait for other warps follows the first product.

    There are three arrivals: the turn is passed, K and V are released. With a window
    there is a second loop, over the blocks with its left edge; at head dim 64 that one
    does fetch what was spilled. In bfloat16 there are two passes, and in the loop of
    the first neither a maximum nor a rescale.
    """
    _, kernel, _, head_dim = job
    takes_turns = kernel.startswith("persistent") and kernel != "persistent_two"
    has_window = kernel in ("persistent_window", "persistent_sinks")
    consumers = 3 if takes_turns and head_dim <= 64 and not has_window else 2
    passes = passes_of(job)
    loops = compiled()[job]["loops"]
    assert len(loops) == consumers * (1 + has_window) * passes
    without_a_maximum = [x for x in loops if "FMNMX" not in "\n".join(x)]
    assert len(without_a_maximum) == consumers * (1 + has_window) * (passes - 1)
    assert not any("FMUL" in line for x in without_a_maximum for line in x)
    for i, lines in enumerate(loops):
        code = "\n".join(lines)
        is_left_edge = has_window and i % 2 == 1  # a few steps of a tile
        if not (is_left_edge and head_dim == 64):
            assert not re.search(r"\b(LDL|STL)\b", code)
        before, after = code.split("HGMMA", 1)
        assert "BAR.ARV" not in before
        assert before.count("BAR.SYNC") == 1 + takes_turns  # the one is Triton's own
        assert "BAR.SYNC" not in after
        arrivals_and_waits = re.findall(r"BAR\.ARV|WARPGROUP\.DEPBAR", after)
        turn = ["BAR.ARV"] * takes_turns
        assert arrivals_and_waits == turn + ["WARPGROUP.DEPBAR", "BAR.ARV"] * 2


@pytest.mark.parametrize("job", BY_HAND, ids=name_of)
def test_all_have_read_before_roles_are_handed_out(job):
    """What is handed to the roles may lie where a minimum over the threads has been.

    Triton 3.6 puts no barrier between. Without one, a warp that came late could read
    the number of tiles as the answer whether all sums were in range, and leave the
    others waiting for ever: compute-sanitizer, which makes warps late, came upon it.
    """
    ptx = compiled()[job]["ptx"]
    handed_out = r"((?:\tst\.shared.*\n)+)\tbarrier\.sync \t1;"
    starts = [found.start() for found in re.finditer(handed_out, ptx)]
    assert len(starts) == passes_of(job) + 1  # at last they are told to end
    for start in starts[:-1]:
        before = ptx[:start]
        read = max(before.rfind("ld.shared"), before.rfind("ldmatrix"))
        assert read <= before.rfind("bar.sync \t0, 128;")


def test_loops_are_told_from_waits():
    """A wait's second look lies behind everything and leaps into what came before."""
    lines = [
        ".L_outer:", "NOP",
        ".L_inner:", "SYNCS.TRYWAIT", "@!P0 BRA `(.L_look)",
        ".L_came:", "HGMMA 1", "BAR.ARV", "@P1 BRA `(.L_inner)",
        "HGMMA 2", "@P2 BRA `(.L_outer)", "EXIT",
        ".L_look:", "SYNCS.TRYWAIT", "@P0 BRA `(.L_came)", "BRA `(.L_look)",
    ]  # fmt: skip
    assert loops_with_products(lines) == [
        [line for line in lines[3:9] if not line.endswith(":")]
    ]
