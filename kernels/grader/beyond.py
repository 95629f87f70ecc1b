"""The checks beyond the series: what a robust kernel also does."""

from dataclasses import dataclass, replace
from functools import partial

from kernels.grader.cases import AttentionCase, TiledCase
from kernels.grader.grouped_case import GroupedCase
from kernels.grader.row_sum_case import RowSumCase


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


def attention_checks(
    kind, masks: tuple[bool, ...] = (True,), n_heads: int = 2
) -> tuple[Check, ...]:
    """The second level of all attention; ``masks`` are the values of is_causal asked.

    ``kind(B, H, N_q, N_k, d, is_causal, **options)`` makes a case.
    """

    def cases(*shapes, **options):
        return tuple(
            kind(1, n_heads, n_q, n_k, 16, causal, **options)
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


TILED_CHECKS = attention_checks(TiledCase, (False, True))
FULL_CHECKS = attention_checks(AttentionCase, (False,))
CAUSAL_CHECKS = attention_checks(AttentionCase)

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

GROUPED_CHECKS = (
    *attention_checks(partial(GroupedCase, n_kv_heads=2), n_heads=4),
    Check(
        "groups of any size",
        tuple(
            GroupedCase(1, n_heads, 65, 65, 16, True, n_kv_heads=n_kv_heads)
            for n_heads, n_kv_heads in [(6, 2), (4, 1), (2, 2)]
        ),
        "Query head h reads K/V head h // G, where G = H / H_kv is any whole number.",
    ),
)


def window_cases(n_q: int, n_k: int, *sizes, **options) -> tuple:
    """Two heads over one, for each window and number of sinks of ``sizes``."""
    return tuple(
        GroupedCase(
            1, 2, n_q, n_k, 16, True,
            n_kv_heads=1, window_size=w, sink_size=s, **options,
        )
        for w, s in sizes
    )  # fmt: skip


def window_checks(sink_size: int | None) -> tuple[Check, ...]:
    """The second level for a window of 64 keys."""
    kind = partial(GroupedCase, n_kv_heads=2, window_size=64, sink_size=sink_size)
    return attention_checks(kind, n_heads=4)


WINDOW_CHECKS = (
    *window_checks(None),
    Check(
        "windows of any size",
        window_cases(129, 129, *[(w, None) for w in (1, 2, 5, 66, 100, 200)])
        + window_cases(65, 129, (17, None))
        + window_cases(384, 384, (191, None), hidden_key_counts=True),
        "A window may be smaller than a block, no multiple of one, or larger than N.",
    ),
)

SINK_CHECKS = (
    *window_checks(8),
    Check(
        "windows and sinks of any size",
        window_cases(129, 129, (64, 0), (16, 1), (16, 40), (100, 70), (2, 1), (5, 200))
        + window_cases(65, 129, (17, 5))
        + window_cases(1, 111, (16, 4)),
        "The sinks may fill more than a block, reach into the window, or be none.",
    ),
)
