"""How fast this machine copies and reads memory, measured in the same run as the rest."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from peers import Library, TorchLibrary
from timing import Call, EventClock, HostClock, Provider, Settings, interleave

import nnkernels as nnk
from nnkernels.compile import cxx

# Two pairs of buffers are used in turn.
_PAIRS = 2
_LEAST_BYTES, _MOST_BYTES = 64 << 20, 512 << 20


@dataclass(frozen=True)
class Bandwidth:
    """Bytes read, plus bytes written, a second; ``by`` names the fastest of the ways tried."""

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
    size = _elements(cache_bytes, memory_bytes)
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
    return _fastest(ways, 2 * 4 * size, 4 * size, clock, settings)


def measure_reads(
    peers: list[Library],
    threads: int,
    cache_bytes: int,
    memory_bytes: int,
    clock: HostClock | EventClock,
    settings: Settings,
) -> Bandwidth:
    """Sum such buffers on a CPU, in one stream and in several, and take the fastest."""
    size = _elements(cache_bytes, memory_bytes)
    buffers = [np.full(size, i, np.float32) for i in range(2 * _PAIRS)]
    sets = [(buffer,) for buffer in buffers]
    ways: dict[str, tuple[Call, list[Any]]] = {"numpy max": (_threaded(np.max, threads), sets)}
    if cxx.find_compiler() is not None:
        library = cxx.load(_READERS, "cpu")
        for streams in _STREAMS:
            reader = _reader(library, streams)
            ways[f"{streams} streams"] = (_threaded(reader, threads), sets)
    for peer in peers:
        if isinstance(peer, TorchLibrary):
            ways["torch sum"] = (lambda x: x.sum(), [(peer.adopt(x),) for x in buffers])
    return _fastest(ways, 4 * size, 4 * size, clock, settings)


def _elements(cache_bytes: int, memory_bytes: int) -> int:
    """Of a buffer: all span at least four caches, and at most a quarter of the free memory."""
    most = min(_MOST_BYTES, memory_bytes // (8 * _PAIRS))
    return min(max(cache_bytes, _LEAST_BYTES), most) // 4


def _fastest(
    ways: dict[str, tuple[Call, list[Any]]],
    moved_bytes: int,
    buffer_bytes: int,
    clock: HostClock | EventClock,
    settings: Settings,
) -> Bandwidth:
    providers = [Provider(name, call, tuple(sets)) for name, (call, sets) in ways.items()]
    timings = interleave(providers, clock, settings)
    tried = {name: moved_bytes / timing.median for name, timing in timings.items()}
    best = max(tried, key=tried.__getitem__)
    return Bandwidth(tried[best], best, tried, buffer_bytes)


def _threaded_copy(threads: int) -> Call:
    """np.copyto, a part for each thread: it uses one thread, and lets others run meanwhile."""
    return _threaded(np.copyto, threads)


def _threaded(function: Call, threads: int) -> Call:
    """A function of arrays, called on a part of them on each thread."""
    if threads == 1:
        return function
    pool = ThreadPoolExecutor(threads)

    def call(*arrays: np.ndarray) -> None:
        parts = zip(*(np.array_split(array, threads) for array in arrays), strict=True)
        for done in [pool.submit(function, *part) for part in parts]:
            done.result()

    return call


# ---- readers -----------------------------------------------------------------------------

_STREAMS = (1, 2, 4, 8)
# Each adds up several streams of an array at once, in eight registers of 64 bytes, so that no
# addition waits for the one before it.
_READERS = """
typedef float V __attribute__((vector_size(64), aligned(4), may_alias));
template <int Streams> static float read(const float* p, long long count) {
  constexpr int lanes = 16, registers = 8 / Streams;
  const long long each = count / Streams;
  V sums[8] = {};
  for (long long i = 0; i + registers * lanes <= each; i += registers * lanes)
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s)
#pragma GCC unroll 8
      for (int r = 0; r < registers; ++r)
        sums[s * registers + r] += *reinterpret_cast<const V*>(p + s * each + i + r * lanes);
  float sum = 0;
  for (const V& part : sums)
    for (int i = 0; i < lanes; ++i) sum += part[i];
  return sum;
}
#define READER(streams) \
  extern "C" __attribute__((visibility("default"))) float read_##streams( \
      const float* p, long long count) { return read<streams>(p, count); }
READER(1) READER(2) READER(4) READER(8)
"""


def _reader(library: ctypes.CDLL, streams: int) -> Call:
    function = getattr(library, f"read_{streams}")
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_longlong], ctypes.c_float
    return lambda x: function(x.ctypes.data, x.size)
