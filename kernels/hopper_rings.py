"""Rings of tiles in shared memory, in Gluon: one role loads, others read.

The copy engine (TMA) moves a tile of a tensor into shared memory by itself, from a
descriptor that holds the tensor's address, shape and strides; what lies outside the
shape is read as zero and never written. A *ring* is a few such tiles in shared memory,
used in turn: tile j takes place j mod PLACES. Each place has two barriers:

    ready    completes when a tile has arrived    the producer loads, consumers wait
    free     completes when all have read it      consumers release, the producer waits

*ready* is an mbarrier, a word in shared memory to which the copy engine reports bytes.
It counts its completions modulo 2, and a wait names the one it waits for: the tile's
lap around the ring, modulo 2. *free* is a named barrier: no consumer waits when it
releases. (With mbarriers the warps of a consumer would wait for each other: Triton
lets one thread report for all.)

At the rings, too, a kernel can be watched: see ``hopper_stamps``.
"""

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from kernels.hopper_stamps import stamp, stamps_of_ring
from kernels.named_barriers import arrive, pass_turn, sync, wait_turn


class Ring(NamedTuple):
    """Tiles [PLACES, 1, 1, rows, BLOCK_D], mbarriers [PLACES, 1], and where to stamp.

    ``free`` is the number of the first place's named barrier, ``threads`` how many
    come to each: those of the readers, and the producer's.
    """

    tiles: gl.shared_memory_descriptor
    ready: gl.shared_memory_descriptor
    free: gl.tensor
    threads: gl.tensor
    times: gl.tuple


@gluon.jit
def make_ring(
    desc, PLACES: gl.constexpr, FREE: gl.constexpr, READERS: gl.constexpr,
    TIMES=None, RING: gl.constexpr = 0,
):  # fmt: skip
    """A ring for the tiles of ``desc``; each is free once READERS have released it."""
    rows: gl.constexpr = desc.block_type.shape[2]
    shape: gl.constexpr = [PLACES, 1, 1, rows, desc.block_type.shape[3]]
    tiles = gl.allocate_shared_memory(desc.dtype, shape, desc.layout)
    ready = make_barriers(PLACES)
    times = ()
    if TIMES is not None:
        times = stamps_of_ring(TIMES, RING)
    threads = gl.to_tensor(READERS * 128 + 32)
    return Ring(tiles, ready, gl.to_tensor(FREE), threads, times)


@gluon.jit
def make_barriers(PLACES: gl.constexpr):
    """mbarriers that complete when one thread has arrived, and all bytes it expects."""
    layout: gl.constexpr = mbarrier.MBarrierLayout()
    barriers = gl.allocate_shared_memory(gl.int64, [PLACES, 1], layout)
    for place in gl.static_range(PLACES):
        mbarrier.init(barriers.index(place), count=1)
    return barriers


@gluon.jit
def find_place(ring, j):
    """The ring's j-th tile: its place, and 1 if its lap is odd."""
    PLACES: gl.constexpr = ring.tiles.shape[0]
    j = gl.to_tensor(j).to(gl.uint32)  # or the division would look after signs
    return (j % PLACES).to(gl.int32), (j // PLACES & 1).to(gl.int32)


@gluon.jit
def load(ring, j, desc, batch, head, row):
    """Producer: start to load the ring's j-th tile, once its place is free."""
    place, _ = find_place(ring, j)
    stamp(ring.times, j, 0)
    sync(ring.free + place, ring.threads)
    load_at_once(ring, j, desc, batch, head, row)
    stamp(ring.times, j, 1)  # not before: a barrier does not hold back a clock's reader


@gluon.jit
def load_at_once(ring, j, desc, batch, head, row):
    """Start to load the ring's j-th tile; it begins at ``row`` of that head.

    Returns at once; ``wait_for`` waits.
    """
    place, _ = find_place(ring, j)
    ready = ring.ready.index(place)
    mbarrier.expect(ready, desc.block_type.nbytes)
    start = [batch, head, row, 0]
    tma.async_copy_global_to_shared(desc, start, ready, ring.tiles.index(place))


@gluon.jit
def offer(ring, FIRST: gl.constexpr = 0):
    """Consumer, before the first tile: all places from FIRST on are free."""
    PLACES: gl.constexpr = ring.tiles.shape[0]
    for place in gl.static_range(FIRST, PLACES):
        arrive(ring.free + place, ring.threads)


@gluon.jit
def wait_for(ring, j, comes=True):
    """Consumer: the ring's j-th tile [rows, BLOCK_D], once it has arrived.

    If none ``comes``, whatever lies in its place.
    """
    place, is_odd = find_place(ring, j)
    stamp(ring.times, j, 0)
    mbarrier.wait(ring.ready.index(place), is_odd, pred=comes)
    stamp(ring.times, j, 1)
    tile = ring.tiles.index(place)
    return tile.reshape([tile.shape[2], tile.shape[3]])


@gluon.jit
def release(ring, j):
    """Consumer: has read the ring's j-th tile."""
    place, _ = find_place(ring, j)
    stamp(ring.times, j, 2)
    arrive(ring.free + place, ring.threads)


@gluon.jit
def skip(ring, j, skips):
    """Consumer: release the tile before the ring's j-th unread, if skips is 1."""
    if skips > 0:
        wait_for(ring, j - 1)  # or this would count for the lap before
        release(ring, j - 1)


@gluon.jit
def skip_scores(k_ring, first, skips, CONSUMER: gl.constexpr, TURNS: gl.constexpr):
    """Consumer: leave out the block of keys before ``first``, and the turn with it."""
    skip(k_ring, first, skips)
    if skips > 0:
        wait_turn(CONSUMER, TURNS)
        pass_turn(CONSUMER, TURNS)
