"""How fast this machine copies memory, measured in the same run as the rest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from peers import Library, TorchLibrary
from timing import Call, EventClock, HostClock, Provider, Settings, interleave

import nnkernels as nnk

# Two pairs of buffers are used in turn.
_PAIRS = 2
_LEAST_BYTES, _MOST_BYTES = 64 << 20, 512 << 20


@dataclass(frozen=True)
class Bandwidth:
    """Bytes read plus bytes written a second; ``by`` names the fastest of the ways tried."""

    bytes_per_s: float
    by: str
    tried: dict[str, float]
    buffer_bytes: int


def measure(
    xp: Any,
    peers: list[Library],
    threads: int,
    cache_bytes: int,
    memory_bytes: int,
    clock: HostClock | EventClock,
    settings: Settings,
) -> Bandwidth:
    """Copy buffers that no cache holds, in each way there is, and take the fastest."""
    # All buffers together span at least four caches, and at most a quarter of the free memory.
    most = min(_MOST_BYTES, memory_bytes // (8 * _PAIRS))
    size = min(max(cache_bytes, _LEAST_BYTES), most) // 4
    pairs = [(xp.empty(size, np.float32), xp.full(size, i + 1, np.float32)) for i in range(_PAIRS)]
    for destination, _ in pairs:
        destination[...] = 0  # so that the memory is really there
    # relu reads and writes as a copy does, in our own kernel.
    ways: dict[str, tuple[Call, list[Any]]] = {
        "nnkernels relu": (lambda d, s: nnk.relu(s, out=d), pairs)
    }
    if xp is np:
        ways["numpy copyto"] = (_threaded_copy(threads), pairs)
    else:
        ways["cupy copyto"] = (xp.copyto, pairs)
    for peer in peers:
        if isinstance(peer, TorchLibrary):
            tensors = [(peer.adopt(d), peer.adopt(s)) for d, s in pairs]
            ways["torch copy_"] = (lambda d, s: d.copy_(s), tensors)
    providers = [Provider(name, call, tuple(sets)) for name, (call, sets) in ways.items()]
    timings = interleave(providers, clock, settings)
    tried = {name: 2 * 4 * size / timing.median for name, timing in timings.items()}
    best = max(tried, key=tried.__getitem__)
    return Bandwidth(tried[best], best, tried, 4 * size)


def _threaded_copy(threads: int) -> Call:
    """np.copyto, a part for each thread: it uses one thread, and lets others run meanwhile."""
    if threads == 1:
        return np.copyto
    pool = ThreadPoolExecutor(threads)

    def copy(destination: np.ndarray, source: np.ndarray) -> None:
        parts = zip(
            np.array_split(destination, threads), np.array_split(source, threads), strict=True
        )
        for done in [pool.submit(np.copyto, *part) for part in parts]:
            done.result()

    return copy
