"""Softmax over a row that arrives in pieces (Milakov and Gimelshein, 2018).

The state after some scores s_j and their values v_j is

    m = max s_j        ℓ = Σ exp(s_j − m)        acc = Σ exp(s_j − m) v_j

and after the last piece softmax(s) V = acc / ℓ (Dao et al., 2022). The state is kept in
the dtype of ``identity``, float32 or float64, whatever the dtype of what arrives.
"""

import math
from typing import NamedTuple

import torch


class State(NamedTuple):
    """What is known of each row so far: m and l of shape (...), acc (..., d)."""

    m: torch.Tensor
    l: torch.Tensor
    acc: torch.Tensor


def identity(
    shape: tuple[int, ...],
    head_dim: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> State:
    """The state of rows that have seen nothing: (−inf, 0, 0).

    ``shape`` is that of m and l, for example (n_rows,) or () for a single row. Raises
    TypeError for a dtype other than float32 and float64.
    """
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype is {dtype}; a state is torch.float32 or torch.float64")
    m = torch.full(shape, -math.inf, dtype=dtype, device=device)
    l = torch.zeros(shape, dtype=dtype, device=device)
    acc = torch.zeros((*shape, head_dim), dtype=dtype, device=device)
    return State(m, l, acc)


def finite_shift(m: torch.Tensor) -> torch.Tensor:
    """m, but 0 where it is −inf: then exp(−inf − 0) = 0, where −inf − (−inf) is NaN."""
    return m.masked_fill(m == -math.inf, 0.0)


def update(state: State, scores: torch.Tensor, values: torch.Tensor) -> State:
    """The state after one more block of scores and their values.

    scores (..., n), with the state's shape in front; −inf marks a key not seen.
    values (n, d), or with batch dimensions as ``scores @ values`` takes them. A score
    of +inf or NaN makes its row NaN, as in ``torch.softmax``.
    """
    check_block(state, scores, values)
    scores, values = scores.to(state.m.dtype), values.to(state.acc.dtype)
    m = torch.maximum(state.m, scores.amax(dim=-1))
    shift = finite_shift(m)
    alpha = torch.exp(state.m - shift)
    p = torch.exp(scores - shift[..., None])
    l = alpha * state.l + p.sum(dim=-1)
    acc = alpha[..., None] * state.acc + p @ values
    return State(m, l, acc)


def merge(a: State, b: State) -> State:
    """The state of all that a and b have seen, when no score is in both."""
    check_states(a, b)
    m = torch.maximum(a.m, b.m)
    shift = finite_shift(m)
    alpha, beta = torch.exp(a.m - shift), torch.exp(b.m - shift)
    l = alpha * a.l + beta * b.l
    acc = alpha[..., None] * a.acc + beta[..., None] * b.acc
    return State(m, l, acc)


def finish(state: State) -> tuple[torch.Tensor, torch.Tensor]:
    """Output o = acc / l (..., d) and lse = m + ln l (...), natural logarithm.

    A row that saw no key, or only scores of −inf, has l = 0: o is 0 and lse −inf.
    """
    l_safe = state.l.masked_fill(state.l == 0, 1.0)
    return state.acc / l_safe[..., None], state.m + torch.log(l_safe)


def check_block(state: State, scores: torch.Tensor, values: torch.Tensor) -> None:
    """Raise unless a block of scores and values fits the state."""
    for name, value in (("scores", scores), ("values", values)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, not {type(value).__name__}"
            )
        if not value.is_floating_point():
            raise TypeError(f"{name} is {value.dtype}; it must be a floating dtype")
    if scores.ndim == 0 or scores.shape[:-1] != state.m.shape or not scores.shape[-1]:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)}; with a state of shape "
            f"{tuple(state.m.shape)} it must be that and one more, of size 1 or more"
        )
    expected = (scores.shape[-1], state.acc.shape[-1])
    if tuple(values.shape) not in (expected, (*scores.shape[:-2], *expected)):
        raise ValueError(
            f"values has shape {tuple(values.shape)}; with scores of shape "
            f"{tuple(scores.shape)} it must be {(*scores.shape[:-2], *expected)} or "
            f"{expected}"
        )


def check_states(a: State, b: State) -> None:
    """Raise unless b has a's shape and dtype."""
    if a.acc.shape != b.acc.shape:
        raise ValueError(
            f"b.acc has shape {tuple(b.acc.shape)}; it must have a's, "
            f"{tuple(a.acc.shape)}"
        )
    if a.acc.dtype != b.acc.dtype:
        raise TypeError(f"b is {b.acc.dtype}; it must have a's dtype, {a.acc.dtype}")
