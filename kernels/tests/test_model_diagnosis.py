"""Each guess of the grader in problems 5 to 7 is proved, as in ``test_diagnosis``."""

from dataclasses import replace

import pytest

from kernels import grade
from kernels.grader.problems import PROBLEMS
from kernels.tests.planting import check_named, plant

# Places in the good solutions of problems 5, 6 and 7.
KV_HEAD = "kv_head = head // group"
N_KV_HEADS = "(tl.num_programs(1) // group)"
K_HEAD, V_HEAD = "kv_head * stride_kh", "kv_head * stride_vh"
WIDTH = "        window_size,\n        HEAD_DIM=head_dim"
VISIBLE = "(behind >= 0) & (behind < window_size)"
FROM = "n_left = tl.maximum(first + 1 - window_size, 0) // BLOCK_N * BLOCK_N"
EDGE = "n_edge = tl.maximum(last + 1 - window_size, 0)"
WHOLE = "tl.minimum(tl.cdiv(n_edge, BLOCK_N) * BLOCK_N, n_below)"
BELOW = "n_below = (first + 1) // BLOCK_N * BLOCK_N"
LEFT, MIDDLE = "n_left, n_whole, position", "n_whole, n_below, position"
DIAGONAL = "n_below, n_seen, position"
LEFT_CALL = f"{LEFT}, n_keys, qk_scale, window_size,\n        HEAD_DIM, BLOCK_N, True"
ON_DIAGONAL = f"{DIAGONAL}, n_keys, qk_scale, window_size"
SHIFT = 'tl.where(m_new == -float("inf"), 0.0, m_new)'
N_SINKS = "n_sinks = tl.minimum(tl.cdiv(sink_size, BLOCK_N) * BLOCK_N, n_left)"
SINKS = "        window_size, sink_size,\n        HEAD_DIM=head_dim"
SINK_PART = "0, n_sinks, position"
SINK_CALL = (
    f"{SINK_PART}, n_keys, qk_scale, window_size, sink_size,\n"
    "        HEAD_DIM, BLOCK_N, True"
)
IN_LEFT = f"{LEFT}, n_keys, qk_scale, window_size, sink_size"
IN_DIAGONAL = f"{DIAGONAL}, n_keys, qk_scale, window_size, sink_size"


def unmasked(call: str) -> tuple[str, str]:
    return call, call.replace("True", "False")


def given(places: str, new: str) -> tuple[str, str]:
    """In the launch, ``new`` in place of the window's size, or the window's and s."""
    return places, f"        {new},\n        HEAD_DIM=head_dim"


# (problem, cause, changes to its good solution)
MISTAKES = [
    (5, "group-undivided", [(KV_HEAD, "kv_head = head")]),
    (5, "group-transposed", [(KV_HEAD, f"kv_head = head % {N_KV_HEADS}")]),
    (5, "group-count", [(KV_HEAD, f"kv_head = head // {N_KV_HEADS}")]),
    (5, "group-remainder", [(KV_HEAD, "kv_head = head % group")]),
    (5, "group-first", [(KV_HEAD, "kv_head = head * 0")]),
    (5, "group-one-sided", [(K_HEAD, "head * stride_kh")]),
    (5, "group-one-sided", [(V_HEAD, "head * stride_vh")]),
    (5, "group-one-sided", [(V_HEAD, f"(head % {N_KV_HEADS}) * stride_vh")]),
    (5, "diagonal-twice", [("0, n_below, position", "0, n_seen, position")]),
    (5, "other-head", [("head * stride_oh", "(head ^ 1) * stride_oh")]),
    (5, "other-kv-head", [(KV_HEAD, "kv_head = 1 - head // group")]),
    (6, "group-transposed", [(KV_HEAD, f"kv_head = head % {N_KV_HEADS}")]),
    (6, "window-missing", [given(WIDTH, "k.shape[2]")]),
    (6, "window-wide", [given(WIDTH, "window_size + 1")]),
    (6, "window-wide", [(VISIBLE, VISIBLE.replace("behind <", "behind <="))]),
    (6, "window-narrow", [given(WIDTH, "window_size - 1")]),
    (6, "window-narrow", [(VISIBLE, VISIBLE + " & (behind < window_size - 1)")]),
    (6, "window-reversed", [(VISIBLE, "(behind >= 0) & (behind >= window_size)")]),
    (6, "window-rows", [given(WIDTH, "window_size + k.shape[2] - n_queries")]),
    (6, "window-first-row", [
        (VISIBLE, "(behind >= 0) & (tl.min(position) - offs_n < window_size)[None, :]"),
    ]),
    (6, "edge-skipped", [
        (VISIBLE, "(behind >= 0) & (tl.max(position) - offs_n < window_size)[None, :]"),
    ]),
    (6, "edge-skipped", [(LEFT, "n_left, n_left, position")]),
    (6, "edge-rounded-up", [
        (FROM, "n_left = tl.maximum(first + BLOCK_N - window_size, 0)"
        " // BLOCK_N * BLOCK_N"),
    ]),
    (6, "edge-skipped", [(FROM, FROM.replace("first", "last"))]),
    (6, "edge-negative", [(FROM, FROM.replace("tl.maximum(", "(").replace(", 0", ""))]),
    (6, "edge-negative", [(EDGE, "n_edge = last + 1 - window_size")]),
    (6, "edge-unmasked", [unmasked(LEFT_CALL)]),
    (6, "edge-twice", [(MIDDLE, "n_left, n_below, position")]),
    (6, "edge-past-diagonal", [(WHOLE, "tl.cdiv(n_edge, BLOCK_N) * BLOCK_N")]),
    (6, "diagonal-unwindowed", [(ON_DIAGONAL, ON_DIAGONAL[:-11] + "n_keys")]),
    (6, "middle-early", [(EDGE, EDGE.replace("last", "first"))]),
    (6, "middle-early", [("tl.cdiv(n_edge, BLOCK_N)", "(n_edge // BLOCK_N)")]),
    (6, "middle-early", [(EDGE, EDGE.replace("last + 1", "last"))]),
    (6, "middle-skipped", [(MIDDLE, "n_below, n_below, position")]),
    (6, "middle-twice", [(LEFT, "n_left, n_below, position")]),
    (6, "middle-twice", [(DIAGONAL, "n_whole, n_seen, position")]),
    (6, "mask-strict", [("behind >= 0", "behind > 0")]),
    (6, "mask-next", [("behind >= 0", "behind >= -1")]),
    (6, "mask-missing", [(BELOW, "n_below = n_keys // BLOCK_N * BLOCK_N")]),
    (6, "diagonal-skipped", [(DIAGONAL, "n_below, n_below, position")]),
    (6, "diagonal-twice", [(MIDDLE, "n_whole, n_seen, position")]),
    (6, "not-finite", [(SHIFT, "m_new")]),
    (6, "alpha-acc", [("acc * alpha[:, None]", "acc")]),
    (6, "scale-missing", [("qk_scale = sm_scale *", "qk_scale =")]),
    (6, "kv-swapped", [("k_ptrs = K +", "k_ptrs = V +"), ("v_ptrs = V", "v_ptrs = K")]),
    (7, "group-undivided", [(KV_HEAD, "kv_head = head")]),
    (7, "window-wide", [given(SINKS, "window_size + 1, sink_size")]),
    (7, "window-missing", [given(SINKS, "k.shape[2], sink_size")]),
    (7, "edge-skipped", [(LEFT, "n_left, n_left, position")]),
    (7, "sink-missing", [given(SINKS, "window_size, 0")]),
    (7, "sink-fewer", [given(SINKS, "window_size, sink_size - 1")]),
    (7, "sink-more", [given(SINKS, "window_size, sink_size + 1")]),
    (7, "sink-future", [
        ("visible = (behind >= 0) & near",
         "visible = (behind >= 0) & near | (offs_n < sink_size)[None, :]"),
    ]),
    (7, "sink-twice", [(N_SINKS, "n_sinks = tl.cdiv(sink_size, BLOCK_N) * BLOCK_N")]),
    (7, "sink-and", [("| (offs_n[None, :] <", "& (offs_n[None, :] <")]),
    (7, "sink-skipped", [(SINK_PART, "0, 0, position")]),
    (7, "sink-short", [(N_SINKS, "n_sinks = tl.minimum(BLOCK_N, n_left)")]),
    (7, "sink-unmasked", [unmasked(SINK_CALL)]),
    (7, "sink-hidden", [(IN_LEFT, IN_LEFT[:-9] + "0")]),
    (7, "sink-hidden", [
        (IN_LEFT, IN_LEFT[:-9] + "0"), (IN_DIAGONAL, IN_DIAGONAL[:-9] + "0"),
    ]),
]  # fmt: skip

# The mistakes that the series' cases do not show, and the checks that do.
SEEN_BY = {
    "window-rows": "unequal lengths",
    "edge-past-diagonal": "windows of any size",
    "diagonal-unwindowed": "windows of any size",
    "middle-early": "windows of any size",
    "sink-short": "windows and sinks of any size",
}


@pytest.mark.parametrize("block_m, block_n", [(16, 16), (128, 64)])
@pytest.mark.parametrize(
    "window_size, change",
    [
        (191, (EDGE, EDGE.replace("last + 1", "last"))),
        (2, (FROM, FROM.replace("first + 1", "first + 2"))),
    ],
    ids=["hidden", "lost"],
)
def test_a_single_key_at_the_edge_shows(
    tmp_path, monkeypatch, window_size, change, block_m, block_n
):
    check = PROBLEMS[6].checks[-1]
    cases = tuple(c for c in check.cases if c.window_size == window_size)
    checks = (replace(check, cases=cases),)
    problem = replace(PROBLEMS[6], small_cases=(), checks=checks)
    monkeypatch.setitem(PROBLEMS, 6, problem)
    blocks = ("BLOCK_M, BLOCK_N = 64, 32", f"BLOCK_M, BLOCK_N = {block_m}, {block_n}")
    assert grade(6, plant(tmp_path, 6, blocks), strict=True, small=True)
    assert not grade(6, plant(tmp_path, 6, blocks, change), strict=True, small=True)


@pytest.mark.parametrize(
    "n, cause, changes", MISTAKES, ids=[f"{n}-{cause}" for n, cause, _ in MISTAKES]
)
def test_names_the_planted_mistake(tmp_path, monkeypatch, capsys, n, cause, changes):
    # Six heads over two tell the wrong heads apart, and for the rest one head is
    # enough: 256 rows have all parts of a window of 128.
    reads_heads = cause.startswith(("group", "other"))
    n_heads, n_kv_heads, length = (6, 2, 64) if reads_heads else (1, 1, 256)
    case = replace(
        PROBLEMS[n].small_cases[-1], batch=1, n_heads=n_heads, n_kv_heads=n_kv_heads,
        n_queries=length, n_keys=length,
    )  # fmt: skip
    fn = plant(tmp_path, n, *changes)
    check_named(n, cause, fn, case, SEEN_BY.get(cause), monkeypatch, capsys)
