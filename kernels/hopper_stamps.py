"""Watch a Hopper kernel from inside: when each role came to which point, in Gluon.

The roles of a program meet at its rings, so it is there that they are watched. For each
tile of a ring, each role has three events:

    0  asks for the tile, or, the producer, for a place to load it to
    1  has it, or has started to load it
    2  releases it

They are noted in cycles of the multiprocessor's clock, one for all its warps, in a
table [programs, ROLES + 1, TILES, RINGS, EVENTS], int64. Behind the roles it says, for
tile 0, which multiprocessor the program ran on, and when: in nanoseconds and cycles.
Without a table, ``times`` is empty, and nothing of all this is compiled.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

ROLES = gl.constexpr(3)  # as the warps are numbered: consumers 0 and 1, producer
TILES = gl.constexpr(64)  # of a ring, at most
RINGS = gl.constexpr(3)  # q, k, v
EVENTS = gl.constexpr(3)


@gluon.jit
def read_register(PTX: gl.constexpr):
    """A special register of the card, by the instruction that reads it."""
    return gl.inline_asm_elementwise(PTX, "=l", [], gl.int64, is_pure=False, pack=1)


@gluon.jit
def stamps_of_ring(TIMES, RING: gl.constexpr):
    """This program's part of the table for a ring; notes where and when it runs."""
    axes = gl.program_id(2) * gl.num_programs(1) + gl.program_id(1)
    program = axes * gl.num_programs(0) + gl.program_id(0)
    tile: gl.constexpr = RINGS * EVENTS
    times = TIMES + program * ((ROLES + 1) * TILES * tile) + RING * EVENTS
    place = times + ROLES * TILES * tile
    gl.store(place, read_register("cvt.u64.u32 $0, %smid;"))
    gl.store(place + 1, read_register("mov.u64 $0, %globaltimer;"))
    gl.store(place + 2, read_register("mov.u64 $0, %clock64;"))
    return (times,)


@gluon.jit
def stamp(times, j, EVENT: gl.constexpr):
    """Note that this role has come to an event of the ring's j-th tile."""
    if len(times) > 0:
        role = read_register("cvt.u64.u32 $0, %tid.x;") // 128
        place = (role * TILES + j) * (RINGS * EVENTS) + EVENT
        gl.store(times[0] + place, read_register("mov.u64 $0, %clock64;"))
