"""The graded problems 1 to 4 of the course's series: shapes, seeds, tolerance.

``cases`` are the series' own. ``small_cases`` take their place on a CPU and in the
book's checked cells. ``checks`` go beyond the series.
"""

from dataclasses import dataclass, replace

from kernels.grader.cases import AttentionCase, RowSumCase, TiledCase

TOLERANCE = 1e-2  # absolute and relative, as in the series
SHAPES = [(1, 8, 512, 16), (1, 8, 1024, 16), (1, 16, 2048, 16), (1, 16, 4096, 16)]
SMALL_SHAPES = [(1, 2, 128, 16), (2, 2, 256, 16)]


@dataclass(frozen=True)
class Check:
    """Cases beyond the series, reported as one line.

    ``lesson`` is what a solution that fails them is told. ``by_error``: the error
    against float64 is judged over all cases together, not element by element.
    """

    name: str
    cases: tuple
    lesson: str
    by_error: bool = False


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


def attention_checks(kind, masks: tuple[bool, ...]) -> tuple[Check, ...]:
    """The second level for attention; ``masks`` are the values of is_causal asked."""

    def cases(*shapes, **options):
        return tuple(
            kind(1, 2, n_q, n_k, 16, causal, **options)
            for causal in masks
            for n_q, n_k in shapes
        )

    square = cases((129, 129))
    layouts = ("projected", "columns", "mixed", "shared")
    return (
        Check(
            "odd lengths",
            cases(*[(n, n) for n in (111, 65, 63, 1)]),
            "Lengths need not be multiples of a block: mask what lies past the end.",
        ),
        Check(
            "strided inputs",
            tuple(replace(case, layout=name) for case in square for name in layouts),
            "Take every stride of q, k, v and o from the tensor itself, "
            "the last one too.",
        ),
        Check(
            "unequal lengths",
            # In the last, the last block of keys may have a single visible pair.
            cases((65, 129), (100, 128), (1, 111))
            + cases((128, 129), own_key_counts=True),
            "N_q and N_k may differ; a causal mask is then aligned at the end: "
            "row i sees key j if j <= i + N_k - N_q.",
        ),
        Check(
            "large logits",
            tuple(replace(case, large_logits=True) for case in square),
            "Subtract the row's running maximum, in the scores' own units, "
            "before the exponential.",
        ),
        Check(
            "error against float64",
            cases((256, 256), (129, 129)),
            "Keep scores, m, l and acc in float32; round once, at the end.",
            by_error=True,
        ),
    )


ROW_SUM_CHECKS = (
    Check(
        "odd sizes",
        tuple(RowSumCase(*s) for s in [(65, 129), (3, 1000), (129, 63), (1, 1)]),
        "Rows and columns need not be multiples of a block: mask what lies outside.",
    ),
    Check(
        "strided inputs",
        tuple(RowSumCase(65, 129, layout) for layout in ("columns", "mixed")),
        "Take the strides of x and w from the tensors themselves.",
    ),
    Check(
        "error against float64",
        (RowSumCase(256, 1024), RowSumCase(129, 1000)),
        "Multiply and add in float32; round once, at the end.",
        by_error=True,
    ),
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
            checks=attention_checks(TiledCase, (False, True)),
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
            checks=attention_checks(AttentionCase, (False,)),
        ),
        Problem(
            number=4,
            title="Causal Flash Attention",
            entry="flash_attention_forward",
            seed=45,
            cases=attention(AttentionCase, SHAPES, is_causal=True),
            small_cases=attention(AttentionCase, SMALL_SHAPES, is_causal=True),
            checks=attention_checks(AttentionCase, (True,)),
        ),
    )
}
