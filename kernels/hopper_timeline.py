"""One launch of the basic ping-pong, watched from inside: who waits for whom.

``hopper_stamps`` notes the events, in cycles of a multiprocessor's clock. What they
mean for a consumer in step j, in this order:

    K asks       the step begins: the softmax of the step before is done
    K has        block j is there; Q Kᵀ is issued
    V asks       Q Kᵀ has been issued
    V has        block j − 1 is there; P V is issued
    K releases   the scores are there
    V releases   P V and the softmax are done

(The compiler may move arithmetic across a stamp, but no products, and no waits for
tiles or products.) The producer asks for a place in a ring, and has it once it has
started to load.
"""

import torch

from kernels.hopper_attention import hopper_attention
from kernels.hopper_stamps import EVENTS, RINGS, ROLES, TILES

ROLE_NAMES = ("consumer 0", "consumer 1", "producer")
RING_NAMES = ("q", "k", "v")
EVENT_NAMES = ("asks", "has", "releases")
MAX_KEYS = 128 * TILES.value


def make_times(q: torch.Tensor) -> torch.Tensor:
    """An empty table for the stamps of a launch with these queries (B, H, N_q, d)."""
    batch, n_heads, n_queries, _ = q.shape
    programs = batch * n_heads * -(-n_queries // 128)
    shape = (programs, ROLES.value + 1, TILES.value, RINGS.value, EVENTS.value)
    return torch.zeros(shape, dtype=torch.int64, device=q.device)


def watch(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """o and the table of stamps, on a Hopper card; arguments as hopper_attention's.

    Raises ValueError for more keys than the table has room for.
    """
    if k.shape[2] > MAX_KEYS:
        raise ValueError(f"k has {k.shape[2]} keys; up to {MAX_KEYS} can be watched")
    times = make_times(q)
    o, _ = hopper_attention(q, k, v, is_causal, times)
    return o, times


def place_of(times: torch.Tensor, program: int) -> dict:
    """Which multiprocessor a program ran on, and when it began, in nanoseconds."""
    multiprocessor, nanoseconds, _ = times[program, -1, 0, 0].tolist()
    return {"sm": multiprocessor, "start_ns": nanoseconds}


def rows_of(times: torch.Tensor, program: int) -> list[dict]:
    """A program's events in the order of their time.

    Each has role, ring, tile (its number in the ring), event, and cycle, counted from
    the program's beginning.
    """
    stamps = times[program].cpu()
    start = stamps[-1, 0, 0, 2].item()
    rows = [
        {
            "role": ROLE_NAMES[role],
            "ring": RING_NAMES[ring],
            "tile": tile,
            "event": EVENT_NAMES[event],
            "cycle": stamps[role, tile, ring, event].item() - start,
        }
        for role, tile, ring, event in stamps[:-1].nonzero().tolist()
    ]
    return sorted(rows, key=lambda row: row["cycle"])


def typical_program(times: torch.Tensor) -> int:
    """Of the programs with the most tiles, the one that takes the median of cycles."""
    stamps = times[:, :-1].flatten(1)
    counts = (stamps > 0).sum(1)
    cycles = stamps.max(1).values - times[:, -1, 0, 0, 2]
    longest = (counts == counts.max()).nonzero().flatten()
    return longest[cycles[longest].argsort()[len(longest) // 2]].item()
