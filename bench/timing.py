"""How long calls take: providers in turn within one process, on memory that is not in the cache."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Call = Callable[..., Any]
Arguments = tuple[Any, ...]

# A timed run of short calls holds as many as fill this: perf_counter itself takes 0.05 us.
RUN_SECONDS = 1e-4
# A provider's turn. Long enough that what the switch costs (cold instruction cache, sleeping
# threads) is small, short enough that a slow minute of the machine hits all providers.
TURN_SECONDS = 0.025
# Between turns. Threads of other libraries spin after their work is done, and would take a core
# from the next provider: those of an OpenMP runtime (PyTorch) for some 10 ms, those of OpenBLAS
# (NumPy) for 2^28 ticks, 130 ms at 2.1 GHz. With a pause of 30 ms, a product of a matrix and a
# vector took 16 ms in turn with NumPy on two cores, and 10 ms alone.
SETTLE_SECONDS = 0.15
LEAST_TURNS = 3
# Whoever needs longer for a call (a product of integers in NumPy) is timed once: on the host, in
# the call whose result is checked.
LONGEST_CALL_SECONDS = 2.0


class Run(NamedTuple):
    """Seconds of one call, the mean over the calls of a run."""

    seconds: float
    host_seconds: float  # until the call returned; less than seconds on a GPU


class HostClock:
    """Times calls that are done when they return."""

    longest_run_calls = 100_000
    run_seconds = RUN_SECONDS

    def run(self, call: Call, batch: Sequence[Arguments]) -> Run:
        start = time.perf_counter()
        for arguments in batch:
            call(*arguments)
        seconds = (time.perf_counter() - start) / len(batch)
        return Run(seconds, seconds)


# Keeps a stream busy for some nanoseconds.
_HOLD = """
extern "C" __global__ void hold(long long nanoseconds) {
  unsigned long long start, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (static_cast<long long>(now - start) < nanoseconds);
}
"""


class EventClock:
    """Times calls on a GPU by events on a stream, so that the host's pace does not count.

    A kernel that only waits is launched first: the timed calls are queued behind it, and then
    follow each other without gaps. (Not on AMD GPUs, which lack that timer: there, calls that
    are shorter than their launch are timed as long as their launch.)
    """

    # Enough for the timer's half microsecond; a stream takes some 1000 launches before one blocks.
    run_seconds, longest_run_calls = 1e-3, 100
    _longest_hold = 0.02

    def __init__(self, cupy: Any, stream: Any) -> None:
        self._cupy, self._stream = cupy, stream
        self._start, self._end = cupy.cuda.Event(), cupy.cuda.Event()
        self._hold = None if cupy.cuda.runtime.is_hip else cupy.RawKernel(_HOLD, "hold")
        # Seconds until a call has returned, by call.
        self._host_seconds: dict[Call, float] = {}

    def run(self, call: Call, batch: Sequence[Arguments]) -> Run:
        if self._hold is not None:
            hold = 1.5 * self._host_seconds.get(call, 0.0) * len(batch)
            nanoseconds = int(1e9 * min(hold, self._longest_hold))
            self._hold((1,), (1,), (self._cupy.int64(nanoseconds),))
        self._start.record(self._stream)
        begin = time.perf_counter()
        # Kept until the end, or the memory pool would give every call the same cached result.
        results = [call(*arguments) for arguments in batch]
        host_seconds = (time.perf_counter() - begin) / len(batch)
        self._end.record(self._stream)
        self._end.synchronize()
        del results
        self._host_seconds[call] = host_seconds
        milliseconds = self._cupy.cuda.get_elapsed_time(self._start, self._end)
        return Run(milliseconds * 1e-3 / len(batch), host_seconds)


@dataclass
class Timing:
    """The runs of one provider, and the median of each of its turns."""

    calls_per_run: int
    first_seconds: float  # of a call, found while warming up
    runs: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)

    @property
    def seconds_spent(self) -> float:
        return sum(self.runs) * self.calls_per_run

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def quartiles(self) -> tuple[float, float]:
        if len(self.runs) == 1:
            return self.runs[0], self.runs[0]
        first, _, third = statistics.quantiles(self.runs, n=4, method="inclusive")
        return first, third

    def summary(self) -> dict[str, Any]:
        """For a result file."""
        first, third = self.quartiles()
        return {
            "median_s": self.median,
            "p25_s": first,
            "p75_s": third,
            "host_median_s": statistics.median(self.host),
            "runs": len(self.runs),
            "calls_per_run": self.calls_per_run,
            "turns": len(self.turns),
        }


@dataclass(frozen=True)
class Settings:
    """``repeat`` is the number of turns; None goes on for ``min_time`` seconds a provider."""

    min_time: float = 0.5
    repeat: int | None = None
    settle: float = SETTLE_SECONDS

    def enough(self, timings: Sequence[Timing]) -> bool:
        turns = len(timings[0].turns)
        if self.repeat is not None:
            return turns >= self.repeat
        spent = min(timing.seconds_spent for timing in timings)
        return turns >= LEAST_TURNS and spent >= self.min_time

    def turn_seconds(self, timings: Sequence[Timing]) -> float:
        """Length of a turn: as long as the slowest call, within limits, so that turns are few."""
        slowest = max(timing.first_seconds for timing in timings)
        return max(TURN_SECONDS, min(slowest, self.min_time / LEAST_TURNS))


@dataclass(frozen=True)
class Provider:
    """A function to time, with one tuple of arguments for each set of buffers.

    ``checked_seconds`` is how long the call took whose result was checked.
    """

    name: str
    call: Call
    sets: tuple[Arguments, ...]
    checked_seconds: float = 0.0


def interleave(
    providers: Sequence[Provider], clock: HostClock | EventClock, settings: Settings
) -> dict[str, Timing]:
    """Time providers in turn (A B, B A, ...) until each has had its time.

    Whoever is timed takes the next set of buffers, so that between two uses of one set, all the
    others have passed through the cache.
    """
    number = itertools.count()
    with _no_collection():
        timings = {p.name: calibrated(p, clock, number) for p in providers}
        repeated = [p for p in providers if not timings[p.name].turns]
        ours = [timings[p.name] for p in repeated]
        length = settings.turn_seconds(ours) if ours else 0.0
        while repeated and not settings.enough(ours):
            turn = len(ours[0].turns)
            for provider in repeated if turn % 2 == 0 else reversed(repeated):
                time.sleep(settings.settle)
                take_turn(provider, timings[provider.name], clock, number, length)
    return timings


@contextmanager
def _no_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _batch(provider: Provider, calls: int, number: Iterator[int]) -> list[Arguments]:
    sets = provider.sets
    return [sets[next(number) % len(sets)] for _ in range(calls)]


def calibrated(provider: Provider, clock: Any, number: Iterator[int]) -> Timing:
    """Warm up, and find how many calls make a run."""
    calls = 1
    checked = provider.checked_seconds
    if checked > LONGEST_CALL_SECONDS and isinstance(clock, HostClock):
        # Not once more for what cold code and fresh memory may have added to seconds.
        return Timing(calls, checked, [checked], [checked], [checked])
    first = clock.run(provider.call, _batch(provider, calls, number))
    if first.seconds > LONGEST_CALL_SECONDS:
        run = first.seconds
        return Timing(calls, run, [run], [first.host_seconds], [run])
    while True:
        seconds = clock.run(provider.call, _batch(provider, calls, number)).seconds
        spent = calls * seconds
        if spent >= clock.run_seconds or calls >= clock.longest_run_calls:
            return Timing(calls, seconds)
        grown = 1.5 * calls * clock.run_seconds / max(spent, 1e-9)
        calls = min(clock.longest_run_calls, 10 * calls, max(calls + 1, round(grown)))


def take_turn(
    provider: Provider, timing: Timing, clock: Any, number: Iterator[int], length: float
) -> None:
    """Time a provider for some seconds, after an untimed run."""
    calls = timing.calls_per_run
    until = time.perf_counter() + length
    warm_up = clock.run(provider.call, _batch(provider, calls, number))
    first = len(timing.runs)
    if warm_up.seconds * calls > TURN_SECONDS:
        # Too slow for the switch to matter, or for throwing a run away.
        timing.runs.append(warm_up.seconds)
        timing.host.append(warm_up.host_seconds)
    while len(timing.runs) == first or time.perf_counter() < until:
        run = clock.run(provider.call, _batch(provider, calls, number))
        timing.runs.append(run.seconds)
        timing.host.append(run.host_seconds)
    timing.turns.append(statistics.median(timing.runs[first:]))


def paired_ratio(theirs: Timing, ours: Timing) -> float:
    """Median over the turns of how many times as long theirs took."""
    if len(theirs.turns) != len(ours.turns):  # one of them is too slow to be timed in turns
        return theirs.median / ours.median
    return statistics.median(t / o for t, o in zip(theirs.turns, ours.turns, strict=True))
