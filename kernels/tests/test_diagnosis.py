"""Each guess of the grader is proved: plant that very mistake, and see it named."""

from dataclasses import replace

import pytest

from kernels import grade
from kernels.grader.causes import CAUSES
from kernels.grader.problems import PROBLEMS
from kernels.tests.planting import check_named, plant
from kernels.tests.test_model_diagnosis import MISTAKES as MODEL_MISTAKES

# Places in the good solutions.
LSE = "m_i + torch.log(l_i)"
SUM = "acc += tl.sum(x * w[None, :], 1)"
NO_TAIL = ('qk = tl.where(in_n[None, :], qk, -float("inf"))', "pass")
BELOW = "n_below = (first + 1) // BLOCK_N * BLOCK_N"
SEEN = "n_seen = tl.minimum(first + BLOCK_M, n_keys)"
PHASE_1 = "0, n_below, position"
PHASE_2 = "n_below, n_seen, position"
K_PTRS, V_PTRS = "k_ptrs = K + offs_n[:, None]", "v_ptrs = V + offs_n[:, None]"
K_STRIDES = "* stride_kn + offs_d[None, :] * stride_kd"
V_STRIDES = "* stride_vn + offs_d[None, :] * stride_vd"
K_STUCK = (K_PTRS, "k_ptrs = K + (offs_n - start_n)[:, None]")
V_STUCK = (V_PTRS, "v_ptrs = V + (offs_n - start_n)[:, None]")
K_FROM_V = (K_PTRS, "k_ptrs = V + offs_n[:, None]")
V_FROM_K = (V_PTRS, "v_ptrs = K + offs_n[:, None]")
M_NEW = "m_new = tl.maximum(m_i, tl.max(qk, 1))"
WIDE = ("BLOCK_M, BLOCK_N = 64, 32", "BLOCK_M, BLOCK_N = 64, 128")
WIDE_MASK = ("offs_n[:, None] < n_keys", "offs_n[:, None] < n_keys + BLOCK_N")
NAN_BEHIND = (
    "o = torch.empty_like(q)",
    "o = torch.empty_like(q)\n    pad = torch.nn.functional.pad\n"
    "    k, v = (pad(x, (0, 0, 0, 64), value=torch.nan)[:, :, :-64] for x in (k, v))",
)
ALPHA_ACC = ("acc * alpha[:, None]", "acc")
ALPHA_L = ("l_i * alpha", "l_i")

# (problem, cause, changes to its good solution)
MISTAKES = [
    (1, "mask-strict", [("keys > rows", "keys >= rows")]),
    (1, "mask-next", [("keys > rows", "keys > 1 + rows")]),
    (1, "mask-start", [("rows[:, None] + n_keys - n_queries", "rows[:, None]")]),
    (1, "scale-missing", [(" * sm_scale", "")]),
    (1, "alpha-acc", [("acc * alpha[..., None]", "acc")]),
    (1, "alpha-l", [ALPHA_L]),
    (1, "lse-base-2", [(LSE, "(m_i + torch.log(l_i)) * 1.442695")]),
    (1, "lse-no-max", [(LSE, "torch.log(l_i)")]),
    (1, "lse-no-sum", [(LSE, "m_i")]),
    (2, "w-missing", [("x * w[None, :]", "x")]),
    (2, "w-not-advanced", [("W + offs_n", "W + (offs_n - start_n)")]),
    (2, "x-not-advanced", [("+ offs_n[None, :]", "+ (offs_n - start_n)[None, :]")]),
    (2, "x-rows-not-advanced", [("X + offs_m", "X + tl.arange(0, BLOCK_M)")]),
    (2, "first-columns-only", [("range(0, n_columns", "range(0, BLOCK_N")]),
    (2, "last-columns-only", [("acc +=", "acc =")]),
    (2, "columns-dropped", [("(0, n_columns", "(0, n_columns // BLOCK_N * BLOCK_N")]),
    (2, "mean", [("acc.to(Y", "(acc / n_columns).to(Y")]),
    (2, "precision", [
        ("zeros([BLOCK_M], tl.float32)", "zeros([BLOCK_M], tl.float16)"),
        (SUM, "acc = (acc + tl.sum(x * w[None, :], 1)).to(tl.float16)"),
    ]),
    (2, "unwritten", [("triton.cdiv(n_rows, BLOCK_M)", "1")]),
    (3, "mask-unasked", [
        ("tl.where(in_n[None, :]", "tl.where(offs_m[:, None] >= offs_n[None, :]"),
    ]),
    (3, "tail-keys", [NO_TAIL]),
    (3, "tail-dropped", [("(0, n_keys", "(0, n_keys // BLOCK_N * BLOCK_N")]),
    (3, "last-block-only", [("m_i = m_new", "pass")]),
    (3, "alpha-acc", [ALPHA_ACC]),
    (3, "alpha-l", [ALPHA_L]),
    (3, "q-not-advanced", [("Q + offs_m", "Q + tl.arange(0, BLOCK_M)")]),
    (3, "max-missing", [
        ("m_i = tl.full([BLOCK_M], -float(\"inf\")", "m_i = tl.full([BLOCK_M], 0.0"),
        (M_NEW, "m_new = m_i"),
    ]),
    (4, "mask-strict", [("position[:, None] >=", "position[:, None] >")]),
    (4, "mask-next", [("position[:, None] >=", "position[:, None] + 1 >=")]),
    (4, "mask-missing", [(BELOW, "n_below = n_keys")]),
    (4, "mask-reversed", [
        ("position[:, None] >=", "position[:, None] <="),
        (BELOW, "n_below = 0"),
        (SEEN, "n_seen = n_keys"),
    ]),
    (4, "mask-start", [("start_m + n_keys - n_queries", "start_m")]),
    (4, "scale-missing", [("qk_scale = sm_scale *", "qk_scale =")]),
    (4, "scale-twice", [("qk_scale = sm_scale *", "qk_scale = sm_scale * sm_scale *")]),
    (4, "log2e-missing", [(" * 1.4426950408889634", "")]),
    (4, "log2e-extra", [("exp2", "exp")]),
    (4, "kv-swapped", [K_FROM_V, V_FROM_K]),
    (4, "v-as-k", [K_FROM_V]),
    (4, "k-as-v", [V_FROM_K]),
    (4, "k-not-advanced", [K_STUCK]),
    (4, "v-not-advanced", [V_STUCK]),
    (4, "kv-not-advanced", [K_STUCK, V_STUCK]),
    (4, "diagonal-skipped", [(PHASE_2, "n_below, n_below, position")]),
    (4, "diagonal-late", [(PHASE_2, "n_below + BLOCK_N, n_seen, position")]),
    (4, "diagonal-short", [(PHASE_2, "n_below, n_seen - BLOCK_N, position")]),
    (4, "diagonal-unmasked", [("BLOCK_N, True", "BLOCK_N, False")]),
    (4, "diagonal-twice", [(PHASE_1, "0, n_seen, position")]),
    (4, "last-key-skipped", [(SEEN, SEEN.replace("BLOCK_M", "BLOCK_M - 1"))]),
    (4, "below-rounded-up", [
        (BELOW, "n_below = (first + BLOCK_N) // BLOCK_N * BLOCK_N"),
    ]),
    (4, "below-unrounded", [(BELOW, "n_below = first"), WIDE]),
    (4, "below-unrounded", [(BELOW, "n_below = first + 1")]),
    (4, "below-unrounded", [(PHASE_1, "0, first + 1, position")]),
    (4, "below-twice", [(PHASE_2, "0, n_seen, position")]),
    (4, "below-skipped", [(PHASE_1, "0, 0, position")]),
    (4, "below-short", [(PHASE_1, "0, n_below - BLOCK_N, position")]),
    (4, "first-block-skipped", [(PHASE_1, "BLOCK_N, n_below, position")]),
    (4, "last-block-only", [("m_i = m_new", "pass")]),
    (4, "not-normalised", [("(acc / l_i[:, None])", "acc")]),
    (4, "alpha-acc", [ALPHA_ACC]),
    (4, "alpha-l", [ALPHA_L]),
    (4, "alpha-both", [ALPHA_ACC, ALPHA_L]),
    (4, "alpha-units", [("tl.exp2(m_i - shift)", "tl.exp(m_i - shift)")]),
    (4, "max-missing", [(M_NEW, "m_new = tl.zeros_like(m_i)")]),
    (4, "max-units", [
        ("tl.dot(q, tl.trans(k)) * qk_scale", "tl.dot(q, tl.trans(k))"),
        ("tl.exp2(qk - shift", "tl.exp2(qk * qk_scale - shift"),
    ]),
    (4, "other-kv-head", [
        ("K += batch * stride_kb + head * stride_kh", "K += batch * stride_kb"),
        ("V += batch * stride_vb + head * stride_vh", "V += batch * stride_vb"),
    ]),
    (4, "other-head", [("head * stride_oh", "(1 - head) * stride_oh")]),
    (4, "unwritten", [("triton.cdiv(n_queries, BLOCK_M)", "n_queries // BLOCK_M - 1")]),
    (4, "not-finite", [
        WIDE_MASK, NAN_BEHIND,
        (SEEN, "n_seen = first + BLOCK_M"),
    ]),
    (4, "left-zero", [("+ tl.dot(p.to(v.dtype), v)", "")]),
    (4, "strides", [(K_STRIDES, V_STRIDES)]),
]  # fmt: skip

# The mistakes that the series' cases do not show, and the checks that do.
SEEN_BY = {
    "columns-dropped": "odd sizes",
    "precision": "error against float64",
    "tail-keys": "odd lengths",
    "tail-dropped": "odd lengths",
    "strides": "strided inputs",
    "mask-start": "unequal lengths",
    "last-key-skipped": "unequal lengths",
    "not-finite": "odd lengths",
    "max-missing": "large logits",
    "max-units": "large logits",
}


@pytest.mark.parametrize(
    "n, cause, changes", MISTAKES, ids=[f"{n}-{cause}" for n, cause, _ in MISTAKES]
)
def test_names_the_planted_mistake(tmp_path, monkeypatch, capsys, n, cause, changes):
    # One case is enough to fail, and 192 rows tell all these mistakes apart.
    case = PROBLEMS[n].small_cases[-1]
    if n != 2:
        n_heads = 2 if cause.startswith("other") else 1
        case = replace(case, batch=1, n_heads=n_heads, n_queries=192, n_keys=192)
    fn = plant(tmp_path, n, *changes)
    check_named(n, cause, fn, case, SEEN_BY.get(cause), monkeypatch, capsys)


@pytest.mark.parametrize(
    "block_m, block_n", [(16, 16), (16, 128), (128, 16), (128, 128)]
)
def test_a_last_key_left_out_shows(tmp_path, monkeypatch, capsys, block_m, block_n):
    check = next(c for c in PROBLEMS[4].checks if c.name == "unequal lengths")
    checks = (replace(check, cases=check.cases[-1:]),)
    monkeypatch.setitem(
        PROBLEMS, 4, replace(PROBLEMS[4], small_cases=(), checks=checks)
    )
    blocks = ("BLOCK_M, BLOCK_N = 64, 32", f"BLOCK_M, BLOCK_N = {block_m}, {block_n}")
    early = (SEEN, SEEN.replace("BLOCK_M", "BLOCK_M - 1"))
    assert grade(4, plant(tmp_path, 4, blocks), strict=True, small=True)
    assert not grade(4, plant(tmp_path, 4, blocks, early), strict=True, small=True)
    assert CAUSES["last-key-skipped"] in capsys.readouterr().out


def test_every_cause_is_planted():
    assert {cause for _, cause, _ in MISTAKES + MODEL_MISTAKES} == set(CAUSES)
