"""The classic mistakes in the weighted row sum, each as a plain PyTorch model.

As in ``attention_mistakes``: what the sum would be with one mistake in it, for
x (rows, columns) and w (columns), tried with a few plausible block sizes.
"""

from collections.abc import Iterator

import torch

BLOCKS = (16, 32, 64, 128, 256, 512, 1024)


def row_sum_mistakes(
    x: torch.Tensor, w: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor]]:
    """(cause, y) of each mistake, y (rows,) in float32."""
    x, w = x.float(), w.float()
    n_rows, n_columns = x.shape
    rows = torch.arange(n_rows, device=x.device)
    columns = torch.arange(n_columns, device=x.device)
    yield "w-missing", x.sum(1)
    yield "mean", x @ w / n_columns
    for block in BLOCKS:
        whole = n_columns // block * block
        final = (n_columns - 1) // block * block
        yield "first-columns-only", x[:, :block] @ w[:block]
        yield "last-columns-only", x[:, final:] @ w[final:]
        yield "columns-dropped", x[:, :whole] @ w[:whole]
        yield "w-not-advanced", x @ w[columns % block]
        yield "x-not-advanced", x[:, columns % block] @ w
        yield "x-rows-not-advanced", x[rows % block] @ w
