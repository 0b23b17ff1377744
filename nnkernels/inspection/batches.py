"""Many instances compiled on all cores, a batch in a process, and each of them only once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

from nnkernels.compile import nvrtc
from nnkernels.compile.instance import Instance, source_text
from nnkernels.config.device import PROFILES
from nnkernels.errors import BackendError
from nnkernels.inspection import amd, nvidia, store
from nnkernels.inspection.contents import content_hash
from nnkernels.inspection.result import Resources

# Kernels of one translation unit: three to ten seconds, which is what an interrupt loses at most.
# The headers take 0.1 to 0.2 s of it, the disassembler 0.3 s: 0.19 s a kernel, and 0.22 by eights.
BATCH = 16

Found = dict[str, Resources | str]


def compiler_for(arch: str) -> str:
    """Name and version of the compiler that would be used for an architecture.

    Raises
    ------
    BackendError
        If there is none here.
    """
    if PROFILES[arch].machine == "hip":
        return amd.compiler_for(arch)
    nvrtc.require(arch)
    nvidia.disassembler()
    major, minor = nvrtc.version()
    return f"NVRTC {major}.{minor}"


class Compilers:
    """Processes that compile; a context manager. They start when there is work for them.

    Parameters
    ----------
    jobs : int, optional
        How many processes. Default: as many as this one may use cores.

    Attributes
    ----------
    compiled, known : int
        How many instances were compiled, and how many taken from the cache directory.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs or _cores()
        self.compiled = self.known = 0
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Compilers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._executor is None:
            return
        if kind is not None:  # do not wait for what is being compiled
            self._end.set()
        self._executor.shutdown(wait=True, cancel_futures=kind is not None)

    def compile(
        self, instances: Sequence[Instance], arch: str, *, fresh: bool = False
    ) -> Iterator[Resources | str]:
        """Resources of each instance, in order, as soon as they are known; text if it is rejected.

        An instance whose compiler crashes, or takes all memory, is rejected too.

        Parameters
        ----------
        fresh : bool
            Compile also what is known from earlier runs.

        Raises
        ------
        BackendError
            If there is no compiler for the architecture.
        """
        compiler = compiler_for(arch)
        before = {} if fresh else store.load(arch)
        keys = {i.symbol: store.key_of(content_hash(i, arch), compiler) for i in instances}
        missing = {i.symbol: i for i in instances if keys[i.symbol] not in before}
        work = _Work(self, list(missing.values()), keys, arch)
        try:
            for instance in instances:
                symbol = instance.symbol
                if symbol in missing:
                    yield work.result(symbol)
                    self.compiled += 1
                else:
                    yield before[keys[symbol]]
                    self.known += 1
        finally:
            work.cancel()

    def submit(self, batch: Sequence[Instance], keys: dict[str, str], arch: str) -> Future[Found]:
        """Begin to compile some instances as one translation unit."""
        of_batch = {i.symbol: keys[i.symbol] for i in batch}
        try:
            return self._processes().submit(compile_batch, batch, of_batch, arch)
        except BrokenProcessPool:
            self.restart()
            return self._processes().submit(compile_batch, batch, of_batch, arch)

    def restart(self) -> None:
        """Forget processes of which one has died: it takes all others along."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None

    def _processes(self) -> ProcessPoolExecutor:
        if self._executor is None:
            # Not forked: NVRTC, once loaded, has threads.
            context = multiprocessing.get_context("spawn")
            self._end = context.Event()
            self._executor = ProcessPoolExecutor(
                self.jobs, context, _start_worker, (self._end, os.getpid())
            )
        return self._executor


class _Work:
    """What is being compiled for one architecture: batches, and what has come of them.

    When a process dies, its batches and those of all others come to nothing. The one that is waited
    for is then compiled one instance after another, each with nothing beside it, so that the one to
    blame is found out; the rest begins anew.
    """

    def __init__(
        self, compilers: Compilers, missing: list[Instance], keys: dict[str, str], arch: str
    ) -> None:
        self._compilers, self._keys, self._arch = compilers, keys, arch
        size = max(1, min(BATCH, -(-len(missing) // compilers.jobs)))
        self._batches = [missing[i : i + size] for i in range(0, len(missing), size)]
        self._number = {i.symbol: n for n, batch in enumerate(self._batches) for i in batch}
        self._futures: dict[int, Future[Found]] = {}
        self._begin(range(len(self._batches)))

    def _begin(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            batch = self._batches[number]
            self._futures[number] = self._compilers.submit(batch, self._keys, self._arch)

    def result(self, symbol: str) -> Resources | str:
        """What came of an instance, when that is known."""
        number = self._number[symbol]
        try:
            return self._futures[number].result()[symbol]
        except BrokenProcessPool:
            self._one_by_one(number)
            return self._futures[number].result()[symbol]

    def _one_by_one(self, number: int) -> None:
        self._compilers.restart()
        found: Found = {}
        for instance in self._batches[number]:
            try:
                found.update(self._compilers.submit([instance], self._keys, self._arch).result())
            except BrokenProcessPool:
                self._compilers.restart()
                found[instance.symbol] = "the process that compiled it ended before it was done"
        self._futures[number] = Future()
        self._futures[number].set_result(found)
        self._begin([other for other, future in self._futures.items() if _is_lost(future)])

    def cancel(self) -> None:
        """Begin nothing more."""
        for future in self._futures.values():
            future.cancel()


def _is_lost(future: Future[Found]) -> bool:
    """Of processes that have ended."""
    return future.cancelled() or isinstance(future.exception(), BrokenProcessPool)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker(end: Any, parent: int) -> None:
    """Leave interrupts to the parent, and go when it says so or is no more.

    A compiler cannot be interrupted, but its process can end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while not end.wait(1.0) and os.getppid() == parent:
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def compile_batch(instances: Sequence[Instance], keys: dict[str, str], arch: str) -> Found:
    """Compile instances as one translation unit, and keep what came of it under their keys.

    One that is rejected does not take the others along: halves are tried, and halves of these.
    """
    try:
        found: Found = dict(resources_of(instances, arch))
    except BackendError as error:  # a CompileError; or a disassembler that failed
        if len(instances) == 1:
            return {instances[0].symbol: str(error)}
        half = len(instances) // 2
        return {
            **compile_batch(instances[:half], keys, arch),
            **compile_batch(instances[half:], keys, arch),
        }
    # A directory that cannot be written was told of when the run began.
    with contextlib.suppress(BackendError):
        store.save(arch, {keys[s]: r for s, r in found.items() if isinstance(r, Resources)})
    return found


def resources_of(instances: Sequence[Instance], arch: str) -> dict[str, Resources]:
    """Compile instances as one translation unit, here; their resources by symbol.

    Raises
    ------
    BackendError
        If there is no compiler for the architecture.
    CompileError
        If it rejects one of them.
    """
    machine = PROFILES[arch].machine
    text = source_text(tuple({i.symbol: i for i in instances}.values()), machine)
    return (nvidia if machine == "cuda" else amd).resources(text, arch)
