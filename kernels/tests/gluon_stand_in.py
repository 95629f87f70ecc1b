"""Run the Hopper kernels' own source without a GPU: a stand-in for Gluon.

The roles of a program are threads, of which one runs at a time. At each synchronisation
the next is drawn; copies and stores of the copy engine end at drawn times, too. So one
seed is one interleaving, and many seeds are many. Numbers are NumPy's, in float64.

A ``Fault`` is raised for whatever the card would answer with a hang or a wrong result:

    barriers    more arrivals than a barrier counts; who comes to a named one with
                another count, a second time, or to one that nobody else comes to;
                nobody can go on (a deadlock)
    loads       into a tile that not all readers have released
    products    of results that were not waited for
    releases    of a tile twice, of one that is not there or was not waited for, or of
                one that an own product still reads
    stores      over an output that is still leaving; before the fence; before row 0; a
                program that ends while one is under way
    notes       read before they are written
    roles       handed out before all threads have read a minimum over all of them
    integers    divide as in C, so that a negative one shows; unsigned ones wrap around

A product may read what lies around: a tile that is not there, that was not waited for
or is released already, or that changes meanwhile. All its elements are NaN then, and a
``Fault`` is raised where one comes to be used, in a product or a store.
"""

import inspect
import math
import random
import sys
import threading
import types
from collections import Counter, deque
from collections.abc import Callable
from itertools import product
from pathlib import Path
from queue import SimpleQueue
from unittest import mock

import numpy as np
import torch

import kernels.attention  # everything real, before the stand-ins
from kernels.kept_maximum import LARGEST_SUM

SOURCE = Path(kernels.__file__).parent
MODULES = (
    "named_barriers", "hopper_stamps", "hopper", "hopper_rings", "hopper_softmax",
    "hopper_attention", "hopper_schedule", "hopper_persistent", "hopper_passes",
    "hopper_top",
)  # fmt: skip
LAYOUT = object()  # of everything in registers: here it makes no difference


class Fault(Exception):
    """What a kernel may not do."""


class Stopped(BaseException):
    """Ends the other roles after a fault."""


def check(is_fine: bool, *said) -> None:
    if not is_fine:
        raise Fault(" ".join(map(str, said)))


# Numbers: scalars, blocks in registers, pointers.


class Int32(int):
    """Divides as C does."""

    def to(self, dtype):
        if dtype == "uint32":
            return UInt32(self)
        return to_int32(int(self)) if dtype == "int32" else self

    def __floordiv__(self, other):
        quotient = abs(int(self)) // abs(int(other))
        return Int32(quotient if (self < 0) == (other < 0) else -quotient)

    def __mod__(self, other):
        return Int32(int(self) - int(other) * int(self // other))


class UInt32(Int32):
    """Wraps around."""

    def __new__(cls, value):
        return super().__new__(cls, int(value) % 2**32)

    def __floordiv__(self, other):
        return UInt32(int(self) // int(other))

    def __mod__(self, other):
        return UInt32(int(self) % int(other))


def to_int32(value: int) -> Int32:
    return Int32((value + 2**31) % 2**32 - 2**31)


def keeps_type(name: str) -> Callable:
    plain = getattr(int, name)

    def operator(self, other):
        result = plain(self, other)
        return result if result is NotImplemented else type(self)(result)

    return operator


for _name in ("add", "sub", "mul", "and", "or", "xor"):
    for _side in ("", "r"):
        setattr(Int32, f"__{_side}{_name}__", keeps_type(f"__{_side}{_name}__"))


class Block(np.ndarray):
    type = types.SimpleNamespace(layout=LAYOUT)

    def to(self, dtype):
        return self % 2**32 if dtype == "uint32" else self.copy()


def block(x) -> Block:
    return np.asarray(x).view(Block)


class Pointer:
    """Into a flat array; ``written`` counts the stores to each of its elements."""

    def __init__(self, array, offset=0, written=None):
        self.array, self.offset = array, offset
        self.written = Counter() if written is None else written

    def __add__(self, n):
        return Pointer(self.array, self.offset + n, self.written)


def load(pointer):
    check(0 <= pointer.offset < len(pointer.array), "loads outside the table")
    return Int32(pointer.array[pointer.offset])


def store(pointer, value, mask=True):
    offsets, values, mask = np.broadcast_arrays(pointer.offset, value, mask)
    check_used(values[mask])
    for i in offsets[mask]:
        check(0 <= i < len(pointer.array), "stores outside the array")
        pointer.written[int(i)] += 1
    pointer.array[offsets[mask]] = values[mask]


def check_used(x) -> None:
    """None of these numbers may come from a product of what lay around."""
    if np.isnan(x).any():
        raise Fault(f"what is used comes from a product of {me().misread}")


# One program: its roles, and the copies that are under way.


class Role(threading.Thread):
    """A warp or four; its state is what ``products`` and ``stores`` have not ended.

    A store has ended when the engine has read the tile; ``unwritten`` counts those
    whose rows are still on their way. ``misread`` says what the latest product read
    that it should not have. Roles that are handed out again go to the same warps, and
    have the same ``number``.
    """

    def __init__(self, program, function, args, warps):
        super().__init__(daemon=True)
        self.program, self.function, self.args = program, function, args
        self.threads, self.misread = 32 * warps, "NaN"
        self.number, self.result = len(program.roles), None
        self.name = f"{function.__name__} {self.number}"
        self.turn = SimpleQueue()
        self.can_go_on, self.waits_for = lambda: True, "start"
        self.is_over, self.fault = False, None
        self.products, self.stores, self.unwritten = deque(), 0, 0
        self.is_synchronised = True

    def run(self):
        try:
            self.pause()
            with np.errstate(
                all="ignore"
            ):  # −inf and 0 / 0 are what the card gets, too
                self.result = self.function(*self.args)
            check(not self.stores, self.name, "ends with a store under way")
            check(not self.products, self.name, "ends with a product under way")
        except Stopped:
            pass
        except Exception as fault:
            self.fault = fault
        self.is_over = True
        self.program.turn.put(None)

    def pause(self):
        """Until the program gives this role its turn."""
        self.turn.get()
        if self.program.is_stopped:
            raise Stopped

    def wait_until(self, can_go_on, waits_for):
        self.can_go_on, self.waits_for = can_go_on, waits_for
        if can_go_on() and self.program.draw.random() < 0.5:
            return
        self.program.turn.put(None)
        self.pause()


class Program:
    """One program of a grid: who runs when."""

    running = None  # the program and, as its ``role``, the role whose turn it is

    def __init__(self, draw, place, grid, log):
        self.draw, self.place, self.grid, self.log = draw, place, grid, log
        self.copies, self.writes, self.roles = [], [], []
        self.places, self.rings = [], []
        self.named = [NamedBarrier(number) for number in range(16)]
        self.turn, self.is_stopped = SimpleQueue(), False
        self.role, self.cycles = None, 0
        self.is_synchronised = True
        Program.running = self

    def run(self, functions, warps):
        """Let all play their roles; returns what the first one's function does."""
        check(self.is_synchronised, "hands out roles before all have read a minimum")
        before, self.roles = self.roles, []
        for (function, args), n in zip(functions, warps, strict=True):
            self.roles.append(Role(self, function, args, n))
        for old, role in zip(before, self.roles):
            role.unwritten = old.unwritten
        for role in self.roles:
            role.start()
        try:
            self.give_turns()
        finally:
            self.is_stopped = True
            for role in self.roles:
                role.turn.put(None)
                role.join()
        self.is_stopped, self.role = False, None
        return self.roles[0].result

    def give_turns(self):
        draw = self.draw
        # Drawn anew for each program, so that in some of them some are slow.
        speed = {role: draw.random() ** 2 + 0.01 for role in self.roles}
        copies_speed, writes_speed = draw.random() ** 2 + 0.01, draw.random() ** 8
        while any(not role.is_over for role in self.roles):
            able = [r for r in self.roles if not r.is_over and r.can_go_on()]
            under_way = [*self.copies, *self.writes]
            if not able and not under_way:
                stuck = {r.name: r.waits_for for r in self.roles if not r.is_over}
                raise Fault(f"deadlock: {stuck}")
            weights = [speed[role] for role in able]
            weights += [copies_speed] * len(self.copies)
            weights += [writes_speed + 1e-9] * len(self.writes)
            (drawn,) = draw.choices(range(len(weights)), weights)
            if drawn >= len(able):
                ended = under_way[drawn - len(able)]
                (self.copies if ended in self.copies else self.writes).remove(ended)
                ended()
                continue
            self.role = able[drawn]
            self.role.turn.put(None)
            self.turn.get()
            if self.role.fault is not None:
                raise self.role.fault
        while self.copies:
            self.copies.pop()()

    def write_all(self):
        while self.writes:
            self.writes.pop()()

    def read_register(self, ptx: str) -> Int32:
        """Time goes on when it is read; thread 0 of a role does that."""
        self.cycles += 1
        return Int32(
            128 * self.roles.index(self.role) if "%tid" in ptx else self.cycles
        )


def me() -> Role:
    return Program.running.role


def let_others_run(waits_for="its turn"):
    if me() is not None:  # or no roles have been handed out
        me().wait_until(lambda: True, waits_for)


# Shared memory: barriers, tiles, products that read them.


class Barrier:
    """As the PTX ISA describes mbarrier: counts arrivals and bytes to come.

    It tells of one tile that it is there, or that it is free.
    """

    def __init__(self):
        self.count, self.name = None, "a barrier"
        self.filled_tile = self.freed_tile = None

    def init(self, count):
        self.count, self.arrived, self.bytes, self.completed = count, 0, 0, 0

    def settle(self):
        check(self.arrived <= self.count, "more arrivals than the barrier counts")
        if self.arrived == self.count and self.bytes == 0:
            self.completed += 1
            self.arrived = 0


class NamedBarrier:
    """As the PTX ISA describes bar: counts threads; ``came`` are those that wait here.

    Behind the program's last tile there may be some; no others come.
    """

    def __init__(self, number):
        self.number, self.name, self.freed_tile = number, f"barrier {number}", None
        self.came, self.threads, self.completed = {}, None, 0

    def come(self, threads):
        check(self.number >= 5, self.name, "is Triton's own")
        check(self.threads in (None, threads), self.name, "counts", self.threads)
        check(me().number not in self.came, me().name, "comes twice to", self.name)
        self.threads = threads
        self.came[me().number] = me().threads
        arrived = sum(self.came.values())
        check(arrived <= threads, self.name, "counts less than come")
        if arrived == threads:
            check(len(self.came) > 1, self.name, "is of one role")
            self.came, self.threads = {}, None
            self.completed += 1

    def arrive(self, threads):
        if self.freed_tile is not None and self.freed_tile.loads > 0:
            self.freed_tile.release()  # before, it is offered
        self.come(threads)
        let_others_run()

    def sync(self, threads):
        before = self.completed
        self.come(threads)
        me().wait_until(lambda: self.completed > before, self.name)


class Tile:
    """One place in shared memory; what it holds, and who reads it."""

    def __init__(self, rows, columns):
        self.data = np.full((rows, columns), np.nan)
        self.state, self.version, self.loads = "empty", 0, 0
        self.holds, self.read_by, self.readers = None, Counter(), None
        self.waited_by, self.released_by = set(), set()
        self.is_fenced, self.leaving = True, 0
        Program.running.places.append(self)

    def release(self):
        role = me().number
        check(not self.read_by[role], "releases a tile that an own product reads")
        check(self.state == "full", "releases a tile that is", self.state)
        check(role not in self.released_by, me().name, "releases a tile twice")
        check(role in self.waited_by, "releases a tile that it has not waited for")
        self.released_by.add(role)

    def misread(self) -> str:
        """What is wrong if this role now reads it."""
        if self.state != "full":
            return f"a tile that is {self.state}"
        role = me().number
        if role in self.released_by:
            return "a tile that it has released"
        return "" if role in self.waited_by else "a tile that it has not waited for"


class Shared:
    """Several tiles or barriers; ``index`` is one of them."""

    def __init__(self, items, shape):
        self.items, self.shape, self.dtype = items, shape, None
        self.type = types.SimpleNamespace(shape=shape)

    def index(self, i):
        check(0 <= i < len(self.items), "no such place:", i)
        item = self.items[i]
        return View(item, self.shape[1:]) if isinstance(item, Tile) else item


class Note:
    """What one role writes for all."""

    def __init__(self):
        self.written = None

    def store(self, x):
        self.written = x

    def load(self, layout):
        check(self.written is not None, "reads a note that is not written")
        return self.written


class View:
    """A tile, perhaps reshaped or transposed."""

    def __init__(self, tile, shape, is_transposed=False):
        self.tile, self.shape, self.is_transposed = tile, list(shape), is_transposed

    def reshape(self, shape):
        check(math.prod(shape) == self.tile.data.size, "reshape to", shape)
        return View(self.tile, shape, self.is_transposed)

    def permute(self, order):
        check(order == (1, 0), "permute to", order)
        return View(self.tile, self.shape[::-1], not self.is_transposed)

    def read(self):
        return self.tile.data.T if self.is_transposed else self.tile.data

    def store(self, x):
        check(not self.tile.leaving, "writes over an output that is still leaving")
        check(me().is_synchronised, "no barrier of the threads after store_wait")
        check(not any(self.tile.read_by.values()), "writes over what a product reads")
        check(list(x.shape) == self.shape, "stores", x.shape, "into", self.shape)
        check_used(x)
        self.tile.data[:] = x
        self.tile.is_fenced, self.tile.holds = False, "O"


class Product:
    """Under way on the tensor cores until it is waited for."""

    def __init__(self, a, b, acc, use_acc):
        self.reads = [x.tile for x in (a, b) if isinstance(x, View)]
        self.versions = [tile.version for tile in self.reads]
        check(not isinstance(a, Product), "a result is used before it was waited for")
        check(not isinstance(acc, Product), "a sum is used before it was waited for")
        me().products.append(self)
        self.is_done = False
        wrong = [tile.misread() for tile in self.reads if tile.misread()]
        if wrong:
            self.value, self.reads = np.zeros((a.shape[0], b.shape[1])), []
            return self.spoil(wrong[0])
        for tile in self.reads:
            tile.read_by[me().number] += 1
        if not isinstance(a, View):
            check_used(a)
        if use_acc:
            check_used(acc)
        value = (a.read() if isinstance(a, View) else np.asarray(a)) @ b.read()
        self.value = block(value + acc if use_acc else value)
        holds = [tile.holds for tile in self.reads]
        kind = ("scores", *holds) if len(holds) == 2 else ("output", me().name, *holds)
        Program.running.log[kind] += 1

    def spoil(self, why):
        self.value, me().misread = block(np.full_like(self.value, np.nan)), why

    def end(self):
        for tile, version in zip(self.reads, self.versions):
            if tile.version != version:
                self.spoil("a tile that changed meanwhile")
            tile.read_by[me().number] -= 1
        self.is_done = True


# Gluon's functions, as far as the kernels use them.


def allocate_shared_memory(dtype, shape, layout):
    if layout == "barriers":
        return Shared([Barrier() for _ in range(shape[0])], shape)
    if layout == "notes":
        return Shared([Note() for _ in range(shape[0])], shape)
    return Shared([Tile(*shape[3:]) for _ in range(shape[0])], shape)


def warp_specialize(functions, warps, registers):
    check(len(functions) == len(warps) + 1 == len(registers) + 1, "a role too many")
    return Program.running.run(functions, [4, *warps])


def thread_barrier():
    (me() or Program.running).is_synchronised = True


def minimum(x, axis):
    """Of what the threads hold. They find it in shared memory, where it may be gone.

    Outside the roles, that is: what they are handed may lie in the same place.
    """
    (me() or Program.running).is_synchronised = False
    return block(np.min(np.asarray(x), axis))


def inline_asm_elementwise(asm, constraints, args, dtype, is_pure, pack):
    """PTX: a wait, a register, a named barrier, or on what 128 threads hold of acc.

    They do so in wgmma's layout.
    """
    if asm == "cp.async.bulk.wait_group 0; mov.u32 $0, 0;":
        check(constraints == "=r" and not is_pure, "constraints", constraints)
        role = me()
        return role.wait_until(lambda: role.unwritten == 0, "its stores' rows")
    if not args:
        return Program.running.read_register(asm)
    if asm.startswith("bar."):
        come, rest = asm.split(maxsplit=1)
        check(rest == "$1, $2; mov.u32 $0, 0;", "unknown PTX:", asm)
        check(constraints == "=r,r,r" and not is_pure, "constraints", constraints)
        number, threads = args
        barrier = Program.running.named[number]
        return {"bar.arrive": barrier.arrive, "bar.sync": barrier.sync}[come](threads)
    acc, alpha = args
    operands = ["=f"] * pack + [str(k) for k in range(pack)] + ["f"] * pack
    check(constraints == ",".join(operands), "constraints", constraints)
    thread, k = np.arange(128), np.arange(pack)[:, None]
    row = thread // 32 * 16 + thread % 32 // 4 + k // 2 % 2 * 8
    column = thread % 4 * 2 + k % 2 + k // 4 * 8
    registers = {f"${i}": acc[row[i], column[i]].copy() for i in range(pack)}
    registers |= {f"${2 * pack + i}": alpha[row[i], column[i]] for i in range(pack)}
    for line in asm.strip().strip("{}").split(";"):
        words = line.replace(",", " ").split()
        if words[:1] == ["setp.neu.f32"]:
            check(words[3] == "0f3F800000", "is compared with", words[3])
            registers[words[1]] = registers[words[2]] != 1.0
        elif words[1:2] == ["mul.f32"]:
            predicate, _, target, a, b = words
            product = registers[a] * registers[b]
            chosen = registers[predicate.removeprefix("@")]
            registers[target] = np.where(chosen, product, registers[target])
        else:
            check(words[:1] in ([], [".reg"]), "unknown PTX:", line)
    out = np.full(acc.shape, np.nan)
    for i in range(pack):
        out[row[i], column[i]] = registers[f"${i}"]
    return block(out)


def make_gl() -> types.ModuleType:
    gl = types.ModuleType("gl")
    gl.constexpr = lambda value: value
    gl.shared_memory_descriptor, gl.tuple = Shared, tuple
    gl.float16 = gl.bfloat16 = gl.float32 = gl.int64 = gl.tensor = None
    gl.int1, gl.int32, gl.uint32, gl.to_tensor = "int1", "int32", "uint32", Int32
    gl.static_range = range
    gl.program_id = lambda axis: Int32(Program.running.place[axis])
    gl.num_programs = lambda axis: Int32(Program.running.grid[axis])
    gl.zeros = lambda shape, dtype, layout: block(np.zeros(shape))
    gl.full = lambda shape, value, dtype, layout: block(np.full(shape, value))
    gl.arange = lambda start, end, layout: block(np.arange(start, end))
    gl.where = lambda which, a, b: block(np.where(which, a, b))
    gl.maximum = lambda a, b: block(np.maximum(a, b))
    gl.max = lambda x, axis: block(np.max(np.asarray(x), axis))
    gl.min = minimum
    gl.sum = lambda x, axis: block(np.sum(np.asarray(x), axis))
    # float32 ends here. Infinity would make NaN, which is the mark of something else.
    gl.exp2 = lambda x: block(np.exp2(np.minimum(x, 128)))
    gl.log2 = lambda x: block(np.log2(x))
    gl.reshape = lambda x, shape: block(np.reshape(np.asarray(x), shape))
    gl.broadcast = lambda a, b: tuple(map(block, np.broadcast_arrays(a, b)))
    gl.convert_layout = lambda x, layout: x
    for name in (
        "SliceLayout", "DotOperandLayout", "NVMMADistributedLayout", "BlockedLayout",
    ):  # fmt: skip
        setattr(gl, name, lambda *parts: LAYOUT)
    gl.SwizzledSharedLayout = lambda *parts, order: "notes"
    gl.NVMMASharedLayout = None
    for function in (
        load, store, allocate_shared_memory, warp_specialize, thread_barrier,
        inline_asm_elementwise,
    ):  # fmt: skip
        setattr(gl, function.__name__, function)
    return gl


def fence_async_shared():
    for tile in Program.running.places:  # roles write only their own
        tile.is_fenced = True


class mbarrier:  # as Gluon calls it
    MBarrierLayout = staticmethod(lambda: "barriers")

    @staticmethod
    def init(barrier, count):
        check(barrier.count is None, "a barrier is initialised twice")
        barrier.init(count)

    @staticmethod
    def wait(barrier, parity, pred=True):
        check(barrier.count is not None, "a barrier was not initialised")
        if not pred:
            return
        waits_for = f"{barrier.name}, of parity {int(parity)}"
        me().wait_until(lambda: barrier.completed & 1 != parity, waits_for)
        if barrier.filled_tile is not None:
            barrier.filled_tile.waited_by.add(me().number)

    @staticmethod
    def expect(barrier, nbytes):
        barrier.bytes += nbytes
        barrier.arrived += 1
        barrier.settle()

    @staticmethod
    def arrive(barrier, count):
        barrier.freed_tile.release()
        barrier.arrived += count
        thread_barrier()  # Gluon puts one before an arrival
        barrier.settle()
        let_others_run()


class tma:
    @staticmethod
    def async_copy_global_to_shared(desc, start, ready, view):
        tile = view.tile
        batch, head, row, _ = map(int, start)
        check(tile.state != "loading", "two loads into a tile")
        if tile.state == "full":
            released = len(tile.released_by)
            check(released == tile.readers, "a load into a tile not released by all")
        tile.state = "loading"
        tile.version, tile.loads = tile.version + 1, tile.loads + 1
        tile.waited_by, tile.released_by = set(), set()
        tile.data[:] = np.nan
        Program.running.log["load", desc.name, batch, head, row] += 1

        def end():
            check(batch < len(desc.x) and head < len(desc.x[batch]), "no such head")
            rows = desc.x[batch, head, max(row, 0) : max(row + len(tile.data), 0)]
            first = max(0, -row)
            tile.data[:] = 0
            tile.data[first : first + len(rows), : rows.shape[1]] = rows
            tile.state, tile.holds = "full", (desc.name, batch, head, row)
            ready.bytes -= desc.block_type.nbytes
            ready.settle()

        Program.running.copies.append(end)
        let_others_run()

    @staticmethod
    def async_copy_shared_to_global(desc, start, view):
        tile, role = view.tile, me()
        batch, head, row, _ = map(int, start)
        check(row >= 0, "a store that begins before row 0")
        check(tile.is_fenced, "a store before the fence")
        check(tile.holds == "O", "a store of what is no output")
        tile.leaving += 1
        role.stores += 1
        role.unwritten += 1
        program = Program.running

        def read():
            data = tile.data.copy()
            tile.leaving -= 1
            role.stores -= 1
            program.writes.append(lambda: write(data))

        def write(data):
            rows = desc.x[batch, head, row : row + len(data)]
            rows[:] = data[: len(rows), : rows.shape[1]]
            desc.written[batch, head, row : row + len(data)] += 1
            program.roles[role.number].unwritten -= 1

        program.copies.append(read)

    @staticmethod
    def store_wait(n):
        role = me()
        role.wait_until(lambda: role.stores <= n, "its stores")
        role.is_synchronised = False


def warpgroup_mma(a, b, acc, use_acc=True, is_async=False):
    check(is_async, "a product that is waited for at once")
    started = Product(a, b, acc, use_acc)
    let_others_run()
    return started


def warpgroup_mma_wait(n, deps):
    let_others_run()
    while len(me().products) > n:
        me().products.popleft().end()
    check(all(product.is_done for product in deps), "waits for too few products")
    values = tuple(product.value for product in deps)
    return values[0] if len(values) == 1 else values


# The kernels' modules, and a call.


def load_kernels(edit: Callable[[str, str], str] = lambda name, text: text):
    """The Hopper kernels' modules, from their source, ``edit``ed, on all this."""
    gl = make_gl()
    gluon = types.ModuleType("gluon")
    gluon.language = gl
    gluon.jit = lambda f=None, **options: f or (lambda g: g)
    gluon.constexpr_function = lambda f: f
    hopper = types.ModuleType("hopper")
    for thing in (
        fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait,
    ):  # fmt: skip
        setattr(hopper, thing.__name__, thing)
    host = types.SimpleNamespace(TensorDescriptor=object)
    numbers = types.SimpleNamespace(LOG2_E=Number(math.log2(math.e)), LN_2=math.log(2))
    stand_ins = {
        "triton.experimental": types.SimpleNamespace(gluon=gluon),
        "triton.experimental.gluon": gluon,
        "triton.experimental.gluon.language.nvidia.hopper": hopper,
        "triton.experimental.gluon.nvidia.hopper": host,
        "kernels.step": numbers,
        "kernels.kept_maximum": types.SimpleNamespace(LARGEST_SUM=LARGEST_SUM.value),
    }
    loaded = {}
    with mock.patch.dict(sys.modules, stand_ins):
        for name in MODULES:
            module = types.ModuleType(f"kernels.{name}")
            path = SOURCE / f"{name}.py"
            code = compile(edit(name, path.read_text("utf-8")), path, "exec")
            sys.modules[module.__name__] = loaded[name] = module
            exec(code, module.__dict__)
            if name == "hopper_rings":
                module.make_ring = with_names(module.make_ring)
            if name == "hopper_passes":
                module.make_barriers = with_tiles(module.make_barriers)
    return types.SimpleNamespace(**loaded)


def with_names(make_ring: Callable) -> Callable:
    """That function; the ring's barriers and tiles know of each other, too.

    The program's ``rings``: (name, tiles, barriers that they are there, barriers that
    they are free).
    """

    def make(desc, PLACES, FREE, READERS, **stamps):
        ring = make_ring(desc, PLACES, FREE, READERS, **stamps)
        program = Program.running
        free = program.named[FREE : FREE + PLACES] if READERS else []
        for i, (tile, ready) in enumerate(zip(ring.tiles.items, ring.ready.items)):
            ready.name, ready.filled_tile = f"{desc.name} ready {i}", tile
            tile.readers = READERS
        connect(desc.name, ring.tiles.items, free)
        program.rings.append((desc.name, ring.tiles.items, ring.ready.items, free))
        return ring

    return make


def with_tiles(make_barriers: Callable) -> Callable:
    """That function; its barriers are those of the ring before, each of one reader."""

    def make(PLACES):
        barriers, rings = make_barriers(PLACES), Program.running.rings
        name, tiles, ready, _ = rings[-1]
        for tile in tiles:
            tile.readers = 1
        connect(name, tiles, barriers.items)
        rings[-1] = name, tiles, ready, barriers.items
        return barriers

    return make


def connect(name: str, tiles: list, free: list) -> None:
    for i, (tile, barrier) in enumerate(zip(tiles, free)):
        check(barrier.freed_tile is None, barrier.name, "is shared by two rings")
        barrier.name, barrier.freed_tile = f"{name} free {i}", tile


class Number(float):
    """A compile-time constant, as the host reads it."""

    value = property(float)


class Described:
    """A tensor as the copy engine knows it; ``written`` counts the stores to a row."""

    def __init__(self, name, x, rows, columns):
        self.name, self.x, self.written = name, x, np.zeros(x.shape[:3], int)
        shape = [1, 1, rows, columns]
        self.block_type = types.SimpleNamespace(shape=shape, nbytes=2 * rows * columns)
        self.layout, self.dtype = "tiles", None


class Call:
    """A call of a host function, its kernel run as the stand-in does.

    o, lse      what it returned
    written     how often each row of o was stored, and each element of lse
    programs    which ran; each has its ``rings``, by name
    log         how often each tile was loaded, each pair of tiles multiplied
    arguments   of the kernel, by name; and the ``key`` it was launched with
    """

    def __init__(
        self, module, q, k, v, is_causal, seed, programs=2, options=None, **changes
    ):
        self.draw, self.changes = random.Random(seed), changes
        self.programs, self.log = [], Counter()
        names = iter("qkvo")
        card = types.SimpleNamespace(multi_processor_count=programs)
        with (
            mock.patch.object(module, "launch", self.launch),
            mock.patch.object(
                module,
                "describe",
                lambda x, *block: Described(next(names), x.numpy(), *block),
            ),
            mock.patch("torch.cuda.get_device_properties", lambda device: card),
        ):
            if hasattr(module, "plan"):
                module.plan.cache_clear()
            self.o, self.lse = module.hopper_attention(
                q, k, v, is_causal, **options or {}
            )

    def launch(self, kernel, grid, args, key, num_warps):
        arguments = inspect.signature(kernel).bind(*args).arguments | self.changes
        self.arguments, self.key = arguments, key
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor):
                arguments[name] = Pointer(value.view(-1).numpy())
            elif isinstance(value, int) and name.islower():  # not known when compiling
                arguments[name] = Int32(value)
        for place in product(*map(range, grid)):
            self.programs.append(Program(self.draw, place, grid, self.log))
            kernel(**arguments)
            self.programs[-1].write_all()
        self.written = arguments["o_desc"].written, arguments["LSE"].written
