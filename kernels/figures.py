"""How the book's figures look, and how it shows source: one style for every chapter."""

import inspect

import matplotlib.pyplot as plt
from IPython.display import Code

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


def source(function) -> Code:
    """The source of the very function that runs, Triton kernels included."""
    function = getattr(function, "fn", function)  # a jitted function wraps the original
    return Code(inspect.getsource(function), language="python")
