"""Named barriers, in Gluon: where the threads of a program wait for each other.

A multiprocessor keeps sixteen of them for a program, by number; no memory is needed.
Such a barrier counts threads, and completes when as many have come as every comer says:

    bar.arrive    comes, and goes on
    bar.sync      comes, and waits until the barrier completes

It then begins anew. All a thread read or wrote before it came has happened for those
who waited (PTX ISA, "bar"). Gluon has no functions for them, so it is PTX here.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

# 0 to 4 are Triton's own: to hand out the roles, and one for the warps of each role.
TURN = gl.constexpr(5)  # three: a consumer's turn
K_FREE = gl.constexpr(8)  # four, for the places of a ring
V_FREE = gl.constexpr(12)


@gluon.jit
def come(PTX: gl.constexpr, barrier, threads):
    """Run one of the two instructions with the barrier's number and the count."""
    gl.inline_asm_elementwise(
        PTX, "=r,r,r", [barrier, threads], gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def arrive(barrier, threads):
    """Come to the barrier of this number, and go on."""
    come("bar.arrive $1, $2; mov.u32 $0, 0;", barrier, threads)


@gluon.jit
def sync(barrier, threads):
    """Come to the barrier of this number, and wait until ``threads`` have come."""
    come("bar.sync $1, $2; mov.u32 $0, 0;", barrier, threads)


@gluon.jit
def wait_turn(CONSUMER: gl.constexpr, TURNS: gl.constexpr):
    """Go on once it is this consumer's turn, if TURNS of them take turns and not 0.

    The barrier counts its 128 threads, and the 128 of the one that passes the turn.
    """
    if TURNS > 0:
        sync(TURN + CONSUMER, 256)


@gluon.jit
def pass_turn(CONSUMER: gl.constexpr, TURNS: gl.constexpr):
    """Let the next consumer go on."""
    if TURNS > 0:
        arrive(TURN + (CONSUMER + 1) % TURNS, 256)
