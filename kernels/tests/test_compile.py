"""The kernels compile for cards from Turing to Hopper, and fit in their memory.

A sample of dtypes and head dims; compile_for_cards.py does the work, in a process of
its own, where Triton compiles rather than interprets.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@functools.cache
def compiled() -> dict:
    """What compile_for_cards.py says of each job."""
    env = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable, str(SCRIPT), json.dumps(JOBS)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = map(json.loads, done.stdout.splitlines())
    return {tuple(result["job"]): result for result in results}


@pytest.mark.parametrize("job", JOBS, ids=lambda job: "sm_{}-{}-{}-d{}".format(*job))
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
    if kernel.startswith(
        ("fast", "hopper")
    ):  # the tensor cores of Hopper, and its copy engine
        assert "wgmma.mma_async" in result["ptx"]
        assert "cp.async.bulk.tensor" in result["ptx"]
    if capability == 90 and dtype != "float32":
        # The mask over the columns 96 to 127 takes registers in every step.
        allowed = 8 if head_dim == 96 else 0
        assert result["stack"] <= allowed, f"{result['tiles']} spill registers"
