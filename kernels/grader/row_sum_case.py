"""The graded case of problem 2, as ``cases`` has those of attention."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from kernels.grader.cases import draw


@dataclass(frozen=True)
class RowSumCase:
    """The weighted row sum y_i = Σ_j x_ij w_j of x (rows, columns) and w (columns)."""

    n_rows: int
    n_columns: int
    layout: str = "plain"

    input_names: ClassVar = ("x", "w")
    output_names: ClassVar = ("y",)
    axes: ClassVar = ("row",)

    def __str__(self) -> str:
        layout = "" if self.layout == "plain" else f", layout={self.layout}"
        return f"rows={self.n_rows}, columns={self.n_columns}{layout}"

    @property
    def config(self) -> str:
        return str(self)

    def inputs(self, dtype: torch.dtype, generator: torch.Generator) -> tuple:
        x = draw((self.n_rows, self.n_columns), dtype, generator)
        w = draw((self.n_columns,), dtype, generator)
        return self.laid_out(x, w)

    def laid_out(self, x, w) -> tuple:
        if self.layout == "columns":
            return x.t().contiguous().t(), w
        if self.layout == "mixed":
            return x, torch.stack([w, w], dim=1)[:, 0]  # every second element
        return x, w

    def call(self, fn, x, w):
        return fn(x, w)

    def guarded(self, x, w) -> tuple:
        return x, w

    def peer(self, x, w):
        return (x * w).sum(-1)

    def expected(self, x, w) -> tuple:
        # Near zero the sum in 16 bits is further off than the tolerance allows.
        return (self.peer(x.float(), w.float()).to(x.dtype),)

    def exact(self, x, w) -> tuple:
        return (self.peer(x.double(), w.double()),)
