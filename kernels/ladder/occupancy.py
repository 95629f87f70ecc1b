"""How many programs a Hopper multiprocessor runs at once.

The limits are those of compute capability 9.0 (CUDA C++ Programming Guide, "Technical
specifications per compute capability"): registers, shared memory, warps, programs.
"""

REGISTERS = 64 * 1024  # of 32 bits, in four files of 16 Ki, a quarter of the warps each
SHARED_BYTES = 228 * 1024
SHARED_BYTES_RESERVED = 1024  # of each program, for the system
SHARED_BYTES_UNIT = 128
WARPS = 64
PROGRAMS = 32


def programs_per_sm(registers: int, shared_bytes: int, num_warps: int) -> int:
    """Programs at once on one multiprocessor; 0 if not even one fits.

    ``registers`` of a thread, as the compiler reports them, ``shared_bytes`` of a
    program, in which ``num_warps`` warps of 32 threads run. A warp gets registers in
    units of 8 a thread, which is 256 in all.
    """
    warp_registers = -(-registers // 8) * 8 * 32
    warps = min(WARPS, REGISTERS // 4 // warp_registers * 4)
    shared_units = -(-shared_bytes // SHARED_BYTES_UNIT) * SHARED_BYTES_UNIT
    by_shared = SHARED_BYTES // (shared_units + SHARED_BYTES_RESERVED)
    return min(PROGRAMS, warps // num_warps, by_shared)
