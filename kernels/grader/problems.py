"""The graded problems, the course's series of seven: shapes, seeds, tolerance.

``cases`` are the series' own. ``small_cases`` take their place on a CPU and in the
book's checked cells. ``checks`` go beyond the series.
"""

from dataclasses import dataclass

from kernels.grader.beyond import (
    CAUSAL_CHECKS,
    FULL_CHECKS,
    GROUPED_CHECKS,
    ROW_SUM_CHECKS,
    SINK_CHECKS,
    TILED_CHECKS,
    WINDOW_CHECKS,
)
from kernels.grader.cases import AttentionCase, TiledCase
from kernels.grader.grouped_case import GroupedCase
from kernels.grader.row_sum_case import RowSumCase

TOLERANCE = 1e-2  # absolute and relative, as in the series
SHAPES = [(1, 8, 512, 16), (1, 8, 1024, 16), (1, 16, 2048, 16), (1, 16, 4096, 16)]
SMALL_SHAPES = [(1, 2, 128, 16), (2, 2, 256, 16)]
GROUPED_SHAPES = [  # (B, H, H_kv, N, d)
    (1, 8, 2, 512, 16),
    (1, 8, 2, 1024, 16),
    (1, 16, 2, 2048, 16),
    (1, 16, 2, 4096, 16),
]
SINK_SHAPES = [(1, 8, 2, 512, 32), (1, 8, 2, 1024, 32), *GROUPED_SHAPES[2:]]
SMALL_GROUPED_SHAPES = [(1, 8, 2, 128, 16), (2, 4, 2, 256, 16)]
SMALL_WINDOW_SHAPES = [(1, 4, 2, 256, 16), (2, 4, 2, 384, 16)]
SMALL_SINK_SHAPES = [(1, 4, 2, 256, 32), (2, 4, 2, 384, 16)]


@dataclass(frozen=True)
class Problem:
    """One problem of the series; ``entry`` is what a solution file defines."""

    number: int
    title: str
    entry: str
    seed: int
    cases: tuple
    small_cases: tuple
    checks: tuple
    peer_name: str = "PyTorch (Naive)"
    solution_name: str = "Triton (Flash)"


def attention(kind, shapes, is_causal: bool) -> tuple:
    """Cases of equal lengths from shapes (B, H, N, d)."""
    return tuple(kind(b, h, n, n, d, is_causal) for b, h, n, d in shapes)


def grouped(shapes, **options) -> tuple:
    """Causal cases from shapes (B, H, H_kv, N, d)."""
    return tuple(
        GroupedCase(b, h, n, n, d, True, n_kv_heads=h_kv, **options)
        for b, h, h_kv, n, d in shapes
    )


PROBLEMS = {
    problem.number: problem
    for problem in (
        Problem(
            number=1,
            title="Tiled Attention in PyTorch",
            entry="FlashAttention2Function",
            seed=42,
            cases=(
                TiledCase(1, 8, 512, 512, 16, False),
                TiledCase(1, 8, 1024, 1024, 16, True),
                TiledCase(1, 16, 2048, 2048, 16, True),
                TiledCase(1, 16, 4096, 4096, 16, True),
            ),
            small_cases=(
                TiledCase(1, 2, 128, 128, 16, False),
                TiledCase(2, 2, 256, 256, 16, True),
            ),
            checks=TILED_CHECKS,
            solution_name="PyTorch (Tiled)",
        ),
        Problem(
            number=2,
            title="Weighted Row Sum",
            entry="weighted_row_sum_forward",
            seed=43,
            cases=tuple(
                RowSumCase(*s)
                for s in [(512, 1024), (1024, 4096), (2048, 8192), (4096, 8192)]
            ),
            small_cases=(RowSumCase(64, 256), RowSumCase(128, 1024)),
            checks=ROW_SUM_CHECKS,
            peer_name="PyTorch",
            solution_name="Triton",
        ),
        Problem(
            number=3,
            title="Flash Attention",
            entry="flash_attention_forward",
            seed=44,
            cases=attention(AttentionCase, SHAPES, is_causal=False),
            small_cases=attention(AttentionCase, SMALL_SHAPES, is_causal=False),
            checks=FULL_CHECKS,
        ),
        Problem(
            number=4,
            title="Causal Flash Attention",
            entry="flash_attention_forward",
            seed=45,
            cases=attention(AttentionCase, SHAPES, is_causal=True),
            small_cases=attention(AttentionCase, SMALL_SHAPES, is_causal=True),
            checks=CAUSAL_CHECKS,
        ),
        Problem(
            number=5,
            title="Grouped-Query Flash Attention",
            entry="flash_attention_forward",
            seed=46,
            cases=grouped(GROUPED_SHAPES),
            small_cases=grouped(SMALL_GROUPED_SHAPES),
            checks=GROUPED_CHECKS,
        ),
        Problem(
            number=6,
            title="Sliding-Window Flash Attention",
            entry="flash_attention_forward",
            seed=47,
            cases=grouped(GROUPED_SHAPES, window_size=128),
            small_cases=grouped(SMALL_WINDOW_SHAPES, window_size=128),
            checks=WINDOW_CHECKS,
        ),
        Problem(
            number=7,
            title="Flash Attention with Window and Sinks",
            entry="flash_attention_forward",
            seed=48,
            cases=grouped(SINK_SHAPES, window_size=128, sink_size=8),
            small_cases=grouped(SMALL_SINK_SHAPES, window_size=128, sink_size=8),
            checks=SINK_CHECKS,
        ),
    )
}
