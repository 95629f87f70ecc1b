"""For every test: kernels before triton, one thread, and no memory left unwritten."""

import os

# The interpreter works on small blocks, which a second thread only slows down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch
from hypothesis import settings

import kernels  # first: it sets up Triton for this machine

# A busy machine makes any example slow now and then; that is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def nan_in_empty():
    """Let torch.empty and its like hand out NaN, so that an unwritten output shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
