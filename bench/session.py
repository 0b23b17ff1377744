"""One run: the backend with its arrays and clock, the rows one after the other, the result."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import bandwidth
import compile_time
import machine
import memory
import numpy as np
import startup
from measure import Bench, failed_row, judge, means, measure, mostly_reads
from peers import Library
from problems import Problem, UsageError, check_memory, footprint
from results_files import KIND, SCHEMA
from timing import SETTLE_SECONDS, EventClock, HostClock, Settings
from tqdm import tqdm

import nnkernels as nnk
from nnkernels.dispatch.machines import cpu_machine

# A GPU's larger calls rotate; its level-2 cache is far larger than that of a CPU core.
GPU_WARM_BYTES = 1 << 20


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    problems: Sequence[Problem]
    peers: list[Library]
    backend: str
    threads: int
    min_time: float
    repeat: int | None
    out: bool
    memory: bool
    with_startup: bool
    compile_time: bool = False
    suites: Sequence[str] = ()


def set_threads(count: int | None) -> int:
    """Set the threads of nnkernels, if asked to, and return how many they are."""
    if count is not None:
        nnk.set_num_threads(count)
    return cpu_machine().num_threads


def run(request: Request) -> dict[str, Any]:
    """Measure everything; an interrupt returns what was done, and ``complete`` is False."""
    warnings = machine.warnings()
    for warning in warnings:
        tqdm.write(f"warning: {warning}", file=sys.stderr)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": KIND,
        "complete": False,
        "arguments": sys.argv[1:],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(gpu_facts() if request.backend == "cupy" else None),
        "versions": machine.versions(),
        "compiler": machine.compiler(),
        "commit": machine.commit(),
        "environment": machine.environment(),
        "warnings": warnings,
        "backend": request.backend,
        "threads": request.threads,
        "out": request.out,
        "min_time_s": request.min_time,
        "repeat": request.repeat,
        "suites": list(request.suites),
        "peers": [peer.name for peer in request.peers],
        "copy": None,
        "read": None,
        "rows": [],
        "means": [],
        "checks": [],
    }
    with contextlib.suppress(KeyboardInterrupt):
        _fill(request, result)
        result["complete"] = True
    result["means"] = means(result["rows"])
    return result


def gpu_facts() -> dict[str, Any]:
    """The current GPU.

    Raises
    ------
    UsageError
        If CuPy is not installed or finds none.
    """
    try:
        import cupy
    except ImportError as error:
        raise UsageError(f"--backend cupy needs CuPy ({error})") from None
    try:
        index = cupy.cuda.runtime.getDevice()
        properties = cupy.cuda.runtime.getDeviceProperties(index)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UsageError(f"--backend cupy needs a GPU ({error})") from None
    return {
        "name": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "level_2_bytes": int(properties.get("l2CacheSize", 0)) or 64 << 20,
        "memory_bytes": int(properties["totalGlobalMem"]),
        "processors": int(properties["multiProcessorCount"]),
    }


def _fill(request: Request, result: dict[str, Any]) -> None:
    """Add the bandwidths, the rows and the checks to a result."""
    bar = tqdm(total=len(request.problems), unit="row", disable=None, file=sys.stderr)
    with bar, arrays(request.backend, request.peers) as (xp, clock):
        bench = _bench(request, result, xp, clock, bar.set_description)
        for problem in request.problems:
            bar.set_description(problem.label)
            try:
                row = measure(problem, bench)
            except Exception as reason:  # our own failure: a row that says so
                row = failed_row(problem, bench, reason)
            judge(row, problem, result["rows"])
            if request.memory:
                memory.add(row, problem, request.threads)
            if request.compile_time:
                bar.set_description(f"first call of {problem.label}")
                compile_time.add(row, problem, request.backend, request.threads)
            result["rows"].append(row)
            bar.update()
            _release(xp, request.peers)
        if request.with_startup:
            checks = startup.measure(request.backend, request.repeat, bar.set_description)
            result["checks"] = checks


@contextlib.contextmanager
def arrays(backend: str, peers: Sequence[Library]) -> Iterator[tuple[Any, HostClock | EventClock]]:
    """The array library and the clock of a backend; on a GPU one stream for all libraries."""
    if backend != "cupy":
        with nnk.use_backend(backend):
            yield np, HostClock()
        return
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stream)
        if any(peer.name == "torch" for peer in peers):
            import torch

            stack.enter_context(torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)))
        yield cupy, EventClock(cupy, stream)


def sizes(xp: Any) -> tuple[int, int, Callable[[], int]]:
    """Bytes of a call with warm caches and of the last-level cache, and what tells free memory."""
    if xp is np:
        found = machine.caches()
        return found.private, found.last_level, machine.free_memory
    cache = gpu_facts()["level_2_bytes"]
    return GPU_WARM_BYTES, cache, lambda: xp.cuda.runtime.memGetInfo()[0]


def _bench(
    request: Request,
    result: dict[str, Any],
    xp: Any,
    clock: HostClock | EventClock,
    progress: Callable[[str], None],
) -> Bench:
    facts = result["machine"]
    warm, cache, memory = sizes(xp)
    check_memory(request.problems, memory())
    # A thread that still spins takes nobody's processor where each uses only one.
    settle = SETTLE_SECONDS if request.threads > 1 and facts["gpu"] is None else 0.0
    settings = Settings(request.min_time, request.repeat, settle)
    copy = read = None
    if any(footprint(problem, 0) > warm // 2 for problem in request.problems):
        progress("copy bandwidth")
        copy = bandwidth.measure(
            xp, request.peers, request.threads, cache, memory(), clock, settings
        )
        result["copy"] = vars(copy)
        if xp is np and any(mostly_reads(problem.op) for problem in request.problems):
            progress("read bandwidth")
            read = bandwidth.measure_reads(
                request.peers, request.threads, cache, memory(), clock, settings
            )
            result["read"] = vars(read)
    return Bench(
        xp=xp,
        backend=request.backend,
        peers=request.peers,
        clock=clock,
        settings=settings,
        warm_bytes=warm,
        cache_bytes=cache,
        memory_bytes=memory,
        copy=copy,
        read=read,
        out=request.out,
    )


def _release(xp: Any, peers: Sequence[Library]) -> None:
    """Give a GPU's memory back, which the pools of two libraries would keep from each other."""
    if xp is np:
        return
    xp.get_default_memory_pool().free_all_blocks()
    if any(peer.name == "torch" for peer in peers):
        import torch

        torch.cuda.empty_cache()
