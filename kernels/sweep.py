"""The sweep: our kernels and their peers over lengths, masks, head dims and dtypes.

The shapes keep the work of a model's layer: B·N = 16384 tokens and H·d = 2048 columns,
so that a longer sequence means fewer of them. Head dimension 16 has the four shapes
of the seed's problem instead.

There is one result file a head dimension and dtype (``forward_d128_bfloat16``), a
matter of a minute or two, so that a run which is cut off loses little.
"""

from collections.abc import Callable, Collection
from functools import partial

from tqdm import tqdm

from kernels.attention import flash_attention_forward
from kernels.attention_rows import Shape, attention_rows
from kernels.causal_attention import causal_attention
from kernels.fast_attention import fast_attention
from kernels.full_attention import full_attention
from kernels.hopper import serves
from kernels.hopper_attention import hopper_attention
from kernels.peers import PEERS
from kernels.reference import naive_attention
from kernels.tests.solutions import seed_problem_4
from kernels.timing import ceilings

TOKENS, COLUMNS = 16384, 2048
LENGTHS = [512, 1024, 2048, 4096, 8192, 16384]
SEED_SHAPES = [(1, 8, 512), (1, 8, 1024), (1, 16, 2048), (1, 16, 4096)]  # head dim 16
HEAD_DIMS = [16, 64, 128, 256]
DTYPES = ["bfloat16", "float16"]


def layer_shapes(head_dim: int) -> list[tuple[int, int, int]]:
    """(batch, heads, length) for each length."""
    if head_dim == 16:
        return SEED_SHAPES
    return [(TOKENS // n, COLUMNS // head_dim, n) for n in LENGTHS]


def chapter_06(q, k, v, is_causal):
    """The small kernels of chapters 05 (full) and 06 (causal)."""
    attention = causal_attention if is_causal else full_attention
    return attention(q, k, v)[0]


def chapter_10(q, k, v, is_causal):
    """The top of the ladder in portable Triton."""
    return fast_attention(q, k, v, is_causal)[0]


def ping_pong(q, k, v, is_causal):
    """Two consumers and a producer by hand, in Gluon."""
    if not serves(q, k, v):
        raise ValueError("it takes head dims up to 128")
    return hopper_attention(q, k, v, is_causal)[0]


# Functions of (q, k, v, is_causal): here is the place for further kernels of the book.
# MODULES is the source behind them, BY_HAND what runs up to head dim 128 besides.
OURS = {
    "ours": flash_attention_forward,
    "chapter 06": chapter_06,
    "chapter 10": chapter_10,
    "ping-pong": ping_pong,
    "seed": seed_problem_4.flash_attention_forward,
    "naive": naive_attention,
}
MODULES = [
    "step", "tiles", "model_attention", "attention",
    "causal_attention", "full_attention", "reference",
    "descriptors", "launch", "order", "kept_maximum", "fast_attention",
]  # fmt: skip
BY_HAND = [
    "named_barriers", "hopper", "hopper_rings", "hopper_softmax", "hopper_stamps",
    "hopper_attention", "hopper_schedule", "hopper_persistent", "hopper_passes",
    "hopper_top",
]  # fmt: skip
KERNELS = [*OURS, *PEERS]


def left_out(q, k, v):
    raise RuntimeError("left out on request")


def contestant(name: str, is_causal: bool) -> Callable:
    """One kernel of the sweep, as a function of (q, k, v)."""
    if name in OURS:
        return partial(OURS[name], is_causal=is_causal)
    return PEERS[name](is_causal)


def shares(row: dict, shape: Shape, card: dict) -> dict:
    """What a kernel reaches of each of the card's two measured ceilings.

    ``gemm_share`` is of the matrix product's rate, ``copy_share`` of the copy's when q,
    k, v and o cross once; the larger one says which ceiling is nearer.
    """
    if row["ms"] is None:
        return {"gemm_share": None, "copy_share": None}
    tbps = shape.bytes() / row["ms"] / 1e9
    return {
        "gemm_share": round(row["tflops"] / card["gemm_tflops"], 4),
        "copy_share": round(tbps / card["copy_tbps"], 4),
    }


def sweep(head_dim: int, dtype: str, without: Collection[str] = ()) -> dict:
    """All kernels at all lengths, causal and full. ``without`` names are not run."""
    card = ceilings(dtype)
    rows = []
    with tqdm(total=2 * len(layer_shapes(head_dim)), leave=False) as bar:
        for is_causal in (True, False):
            functions = {
                name: left_out if name in without else contestant(name, is_causal)
                for name in KERNELS
            }
            for sizes in layer_shapes(head_dim):
                shape = Shape(*sizes, head_dim, is_causal, dtype=dtype)
                mask = "causal" if is_causal else "full"
                bar.set_description(f"d = {head_dim}, {dtype}, {mask}, N = {sizes[2]}")
                for row in attention_rows(functions, shape, say=bar.set_postfix_str):
                    rows.append(row | shares(row, shape, card))
                bar.update()
    return card | {"ceilings": card["rows"], "without": sorted(without), "rows": rows}


SWEEPS = {
    f"forward_d{head_dim}_{dtype}": (
        MODULES + (BY_HAND if head_dim <= 128 else []),
        partial(sweep, head_dim, dtype),
    )
    for head_dim in HEAD_DIMS
    for dtype in DTYPES
}


def table(name: str, result: dict) -> str:
    """A sweep as text: TFLOP/s of each kernel by length, ours over the best peer."""
    lines = [f"{name}, {result['device']['name']}, TFLOP/s"]
    for is_causal in (True, False):
        rows = [row for row in result["rows"] if row["is_causal"] == is_causal]
        rates = {}
        for row in rows:
            rates.setdefault(row["kernel"], {})[row["length"]] = row["tflops"] or 0
        lengths = list(rates["ours"])
        best = [max(rates[peer][n] for peer in PEERS) for n in lengths]
        ratios = [rates["ours"][n] / b if b else 0 for n, b in zip(lengths, best)]
        cells = {"causal, N =" if is_causal else "full, N =": lengths}
        for kernel, rate in rates.items():
            cells[kernel] = [f"{rate[n]:.0f}" if rate[n] else "–" for n in lengths]
        cells["ours / best peer"] = [f"{r:.2f}" if r else "–" for r in ratios]
        for head, line in cells.items():
            lines.append(f"{head:<23}" + "".join(f"{cell:>8}" for cell in line))
    return "\n".join(lines)
