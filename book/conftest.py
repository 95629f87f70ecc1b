"""How nbval compares the chapters: everything but stderr, strictly.

A stored output has to come out again exactly: printed text, values, tables. What a
library writes to stderr is left out, because it depends on the machine and not on
the book: a warning appears under Triton's interpreter but not on a GPU, or in one
version of PyTorch and not in another.
"""

import os

# Two chapters run at a time, each in a kernel of its own. One thread for each of them
# is faster on two cores than two of them fighting over both.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collectstart(collector):
    """Leave stderr out of the comparison of every notebook below this folder."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
