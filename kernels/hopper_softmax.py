"""What a Hopper consumer does with its rows' scores, in registers, in Gluon."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels.hopper import BLOCK_N, ROWS
from kernels.kept_maximum import LARGEST_SUM
from kernels.step import LN_2


@gluon.jit
def partial_sums(p):
    """Eight sums of each row of p, each over the columns that are equal modulo 8.

    One thread holds all of these, and none has to wait for another.
    """
    return gl.sum(gl.reshape(p, [ROWS, BLOCK_N // 8, 8]), 1)


@gluon.jit
def online_softmax(
    m_i, l_i, qk, qk_scale, visible, IS_MASKED: gl.constexpr,
    KEEPS_MAX: gl.constexpr = False,
):  # fmt: skip
    """(m_i, l_i, alpha, p) from a block's scores, as in ``online_softmax_step``.

    But l_i [ROWS, 8] keeps partial sums, which are added up after the loop. KEEPS_MAX:
    m_i stays what it is, so that alpha is 1, which the compiler knows.
    """
    if IS_MASKED:
        qk = gl.where(visible, qk, -float("inf"))
    if KEEPS_MAX:
        p = gl.exp2(qk * qk_scale - m_i[:, None])
        ones = gl.full([ROWS], 1.0, gl.float32, m_i.type.layout)
        return m_i, l_i + partial_sums(p), ones, p
    m_new = gl.maximum(m_i, gl.max(qk, 1) * qk_scale)
    shift = m_new
    if IS_MASKED:
        shift = gl.where(m_new == -float("inf"), 0.0, m_new)
    p = gl.exp2(qk * qk_scale - shift[:, None])
    alpha = gl.exp2(m_i - shift)
    sums = partial_sums(p)
    alpha_l = gl.convert_layout(alpha, gl.SliceLayout(1, sums.type.layout))
    return m_new, l_i * alpha_l[:, None] + sums, alpha, p


@gluon.jit
def first_softmax(qk, qk_scale, visible, IS_MASKED: gl.constexpr):
    """(m_i, l_i, p) after the first block of keys."""
    ROW: gl.constexpr = gl.SliceLayout(1, qk.type.layout)
    m_i = gl.full([ROWS], -float("inf"), gl.float32, ROW)
    m_i, l_i, _, p = online_softmax(m_i, 0.0, qk, qk_scale, visible, IS_MASKED)
    return m_i, l_i, p


@gluon.jit
def find_visible(
    start_m, block, sizes, LAYOUT: gl.constexpr, IS_CAUSAL: gl.constexpr
):  # fmt: skip
    """Which keys of a block the rows from start_m on see [ROWS or 1, BLOCK_N]."""
    n_queries, n_keys, _, window_size, sink_size = sizes
    rows = gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))[:, None]
    columns = gl.arange(0, BLOCK_N, gl.SliceLayout(0, LAYOUT))[None, :]
    last_seen = n_keys - 1
    if IS_CAUSAL:
        last_seen = rows + start_m + n_keys - n_queries
    last_seen -= block * BLOCK_N
    reach = window_size
    if sink_size is not None:  # a sink is seen from any distance
        is_sink = columns < sink_size - block * BLOCK_N
        reach = gl.where(is_sink, 2**31 - 1, window_size)
    if window_size is None:
        visible = columns <= last_seen
    else:  # one comparison: a key ahead of the row is, without a sign, very far behind
        visible = (last_seen - columns).to(gl.uint32) < reach
    return visible


@gluon.jit
def finish_rows(m_i, l_i, LSE, batch, head, start_m, sizes, ACC: gl.constexpr):
    """Store the rows' log-sum-exp.

    Returns 1 / l_i [ROWS, 1] for acc, and whose sum is in range [ROWS].
    """
    n_queries, _, n_heads, _, _ = sizes
    l_i = gl.convert_layout(gl.sum(l_i, 1), m_i.type.layout)
    l_safe = gl.where(l_i == 0.0, 1.0, l_i)  # a row that saw no key
    lse_rows = LSE + (batch.to(gl.int64) * n_heads + head) * n_queries
    offs_m = start_m + gl.arange(0, ROWS, m_i.type.layout)
    inside = (offs_m >= 0) & (offs_m < n_queries)
    gl.store(lse_rows + offs_m, (m_i + gl.log2(l_safe)) * LN_2, inside)
    scale = gl.convert_layout(1.0 / l_safe, gl.SliceLayout(1, ACC))[:, None]
    return scale, l_i < LARGEST_SUM


@gluon.constexpr_function
def multiply_unless_one(n):
    """PTX for the n values of acc that a thread holds, and the alpha of each.

    They lie in two rows, in turn two of the one and two of the other; p and q say
    whether the rows' alphas differ from 1 (0f3F800000). Operands: n results, in the
    registers of the n values; these; the n alphas.
    """
    values = range(n)
    lines = [f"@{'pq'[k // 2 % 2]} mul.f32 ${k}, ${k}, ${2 * n + k};" for k in values]
    p_and_q = f"""{{ .reg .pred p, q;
        setp.neu.f32 p, ${2 * n}, 0f3F800000;
        setp.neu.f32 q, ${2 * n + 2}, 0f3F800000;"""
    return " ".join([p_and_q, *lines, "}"])


@gluon.constexpr_function
def constraints(n):
    """Where the operands are: "=f" a new float register, "3" that of operand 3."""
    return ",".join(["=f"] * n + [str(k) for k in range(n)] + ["f"] * n)


@gluon.jit
def rescale(acc, alpha, IS_PREDICATED: gl.constexpr):
    """acc [ROWS, BLOCK_D] · alpha [ROWS]; if IS_PREDICATED, only where that is not 1.

    Once a row has seen many keys, its maximum seldom grows: alpha is 1, and the product
    changes no bit. A branch cannot leave it out, since the threads of a warp hold 16
    rows, but a predicate can: a PTX instruction may begin with ``@p``, and then does
    nothing where p is false. It is issued all the same, so what it saves is energy; a
    card at its power limit turns that into a higher clock.
    """
    alpha = gl.convert_layout(alpha, gl.SliceLayout(1, acc.type.layout))[:, None]
    if not IS_PREDICATED:
        return acc * alpha
    alpha, acc = gl.broadcast(alpha, acc)
    N: gl.constexpr = acc.shape[0] * acc.shape[1] // 128  # threads
    return gl.inline_asm_elementwise(
        multiply_unless_one(N), constraints(N), [acc, alpha], gl.float32,
        is_pure=True, pack=N,
    )  # fmt: skip
