"""A launch as a queue: which place on the card runs which program, and when."""

import heapq
from collections.abc import Iterable


def simulate(costs: Iterable[float], slots: int) -> list[tuple[int, float, float]]:
    """Programs start in order, each in the slot that is free first.

    ``costs`` are the programs' times, in any unit; ``slots`` is how many run at once,
    at least 1 (ValueError). Among free slots the lowest number is taken. Returns
    (slot, start, end) of each program, in the same order.
    """
    if slots < 1:
        raise ValueError(f"slots is {slots}; at least 1 is needed")
    free = [(0.0, slot) for slot in range(slots)]  # (since when, slot)
    placed = []
    for cost in costs:
        start, slot = heapq.heappop(free)
        placed.append((slot, start, start + cost))
        heapq.heappush(free, (start + cost, slot))
    return placed
