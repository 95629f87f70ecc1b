"""Importing the package, each time in a fresh Python that sees no GPU."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LIGHT = """
import sys, kernels
assert kernels.INTERPRETED and kernels.DEVICE == "cpu"
assert "triton" not in sys.modules
"""
# The bare import passes, for transformers makes it; whatever needs a kernel does not.
TOO_LATE = """
import pytest, triton, kernels
for module in ("device", "attention", "first_kernels"):
    with pytest.raises(RuntimeError, match="Import `kernels` first, or set TRITON_"):
        __import__(f"kernels.{module}")
with pytest.raises(RuntimeError, match="There is no GPU"):
    kernels.DEVICE
"""
RUNS = """
import torch
q = torch.ones(1, 1, 2, 16, device=kernels.DEVICE)
assert kernels.flash_attention_forward(q, q, q).equal(q)
"""
if importlib.metadata.version("triton").startswith("3.6."):
    RUNS = ""  # its interpreter fails with NumPy 2.4 and later: importing is all


def run(code: str, cwd: Path = ROOT, **env: str) -> None:
    """Run ``code`` in ``cwd`` without a GPU; fail with what it says if it raises."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    inherited.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=inherited | {"CUDA_VISIBLE_DEVICES": ""} | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_import_is_light_and_needs_no_gpu():
    run(LIGHT + RUNS)


def test_triton_first_is_too_late():
    run(TOO_LATE)


def test_triton_first_with_the_interpreter_on():
    run("import triton, kernels\n" + RUNS, TRITON_INTERPRET="1")


@pytest.mark.parametrize("folder", [".", "book"])
def test_first_cell_finds_this_package(folder, tmp_path):
    """From wherever a notebook runs, and with another package called kernels about."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/__init__.py").write_text("raise ImportError('not this one')")
    notebook = json.loads((ROOT / "book/01_naive_attention.ipynb").read_text("utf-8"))
    cell = next(c for c in notebook["cells"] if c["cell_type"] == "code")
    check = f"\nassert kernels.__file__ == {str(ROOT / 'kernels/__init__.py')!r}\n"
    run("".join(cell["source"]) + check + RUNS, ROOT / folder, PYTHONPATH=str(tmp_path))


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers"
)
@pytest.mark.parametrize("first", ["kernels", "transformers"])
def test_transformers_still_imports(first):
    """It looks for Hugging Face's package kernels, and finds ours."""
    run(f"import {first}, kernels\nfrom transformers import LlamaForCausalLM")
