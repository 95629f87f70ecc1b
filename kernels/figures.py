"""How the book's figures look, and how it shows source: one style for every chapter."""

import inspect
import textwrap

import matplotlib.pyplot as plt
from IPython.display import Markdown

# Okabe and Ito's palette, told apart with any colour vision; one colour a kernel.
COLORS = {
    "ours": "#D55E00",
    "naive": "#555555",
    "SDPA FlashAttention-2": "#0072B2",
    "SDPA cuDNN": "#009E73",
    "seed": "#CC79A7",
    "PyTorch": "#0072B2",
    "one": "#0072B2",
    "two": "#E69F00",
    "three": "#009E73",
    "four": "#CC79A7",
    "muted": "#BBBBBB",
}


def use_style() -> None:
    """Fonts that survive a phone's width, and a white ground for dark pages."""
    plt.rcParams.update(
        {
            "figure.figsize": (6, 3.6),
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "font.size": 12,
            "axes.titlesize": 12,
            "axes.labelsize": 12,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "legend.fontsize": 11,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#DDDDDD",
            "lines.linewidth": 2,
            "lines.markersize": 6,
        }
    )


def source(function, first: str = "", last: str = "") -> Markdown:
    """The source of the very function that runs, Triton kernels included.

    ``first`` and ``last`` narrow it to the lines from the one that holds ``first`` to
    the next that holds ``last``. Raises ValueError if there are none.
    """
    function = getattr(function, "fn", function)  # a jitted function wraps the original
    text = inspect.getsource(function)
    if first:
        lines = text.splitlines()
        start = next((n for n, line in enumerate(lines) if first in line), None)
        if start is None:
            raise ValueError(f"no line of {function.__name__} holds {first!r}")
        stops = (n for n, line in enumerate(lines) if n >= start and last in line)
        stop = next(stops, None)
        if stop is None:
            raise ValueError(f"no line of {function.__name__} after it holds {last!r}")
        text = textwrap.dedent("\n".join(lines[start : stop + 1]) + "\n")
    return Markdown(f"```python\n{text}```")
