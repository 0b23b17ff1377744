"""The ``cpu`` machine: kernels as functions of a shared library, blocks shared out to threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from nnkernels.compile import cxx
from nnkernels.compile.instance import Instance, source_text
from nnkernels.compile.sources import include_directories
from nnkernels.config.device import Device
from nnkernels.errors import BackendError
from nnkernels.launch.addresses import numpy_address
from nnkernels.launch.result_pool import CACHE_LINE, SMALLEST_BYTES, ResultPool, pool_bytes
from nnkernels.launch.single_flight import SingleFlight

# Below this many bytes of traffic a second thread costs more than it brings (waking it takes
# about 5 microseconds, in which one thread moves some 64 KiB from its cache).
_PARALLEL_BYTES = 128 * 1024
# Below this size, aligning a new array costs more than it brings (about 1 microsecond).
_ALIGNED_BYTES = 32 * 1024


_MAX_THREADS = 255  # as in cuda_src/platform/cpu_runtime.cc


class _Launch(ctypes.Structure):
    # The same layout as Launch in cuda_src/platform/cpu_runtime.cc.
    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("blocks", ctypes.c_int64),
        ("scratch_bytes", ctypes.c_int64),
        ("threads", ctypes.c_int64),
    )


def _default_threads() -> int:
    text = os.environ.get("NNKERNELS_NUM_THREADS", "")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise BackendError(
                f"NNKERNELS_NUM_THREADS is {text!r}; it must be a whole number of at least 1"
            )
        return int(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _simd_bytes() -> int:
    """Of the registers that kernels use: how much scratch memory they need depends on it."""
    model, macros = cxx.cpu_model().split(), cxx.target_macros()
    for name, macro, size in (("avx512f", "__AVX512F__", 64), ("avx", "__AVX__", 32)):
        if name in model and (macros is None or macro in macros):
            return size
    return 16


# Instructions for products, as /proc/cpuinfo names them.
_FEATURES = {"amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "sse2"}


def _features() -> frozenset[str]:
    model = cxx.cpu_model()
    found = _FEATURES.intersection(model.split())
    # On Intel's processors, VDPBF16PS is no use: one core of an Emerald Rapids Xeon did 88 GFLOP/s
    # with it, and 176 with fused multiply-adds of float32.
    return frozenset(found if "AMD" in model else found - {"avx512_bf16"})


@cache
def _tiles_are_allowed() -> bool:
    """Ask Linux for the tile registers of AMX: a process has them only if it asks.

    ``arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)``: see "Using XSTATE features in user
    space applications" of the kernel's documentation. It is refused where the stack of a signal
    handler is too small for them.
    """
    try:
        return ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0
    except (AttributeError, OSError):
        return False


def _streamed_bytes() -> int:
    """From which size on results go past the caches: that saves reading each line first.

    Measured with a 16 MiB relu into an existing array on 2 cores: 2.0 ms past the caches and 3.6 ms
    through them on Sapphire Rapids, whose level-3 cache is a slow one shared by dozens of cores;
    0.73 ms and 0.56 ms on Zen 4, with its 32 MiB for eight. There, at 64 MiB, 2.6 ms and 3.2 ms.
    """
    return (32 if "AMD" in cxx.cpu_model() else 8) << 20


class CpuMachine:
    """Runs kernels in this process, one thread a block, SIMD lanes inside it."""

    name = "cpu"

    def __init__(self) -> None:
        self.plans: dict[Any, Any] = {}
        self._threads = min(_default_threads(), _MAX_THREADS)
        self._kernels: SingleFlight[Instance, int] = SingleFlight(self._load)
        self._results = ResultPool(pool_bytes())
        self._runtime: SingleFlight[str, Any] = SingleFlight(_load_runtime)
        self.device = Device(
            machine="cpu",
            arch="host",
            warp=1,
            processors=self._threads,
            shared_limit=512 * 1024,
            vector_bytes=_simd_bytes(),
            cache_bytes=_streamed_bytes(),
            features=_features(),
        )

    @property
    def num_threads(self) -> int:
        """Threads that a launch may use."""
        return self._threads

    def set_num_threads(self, count: int) -> None:
        """Change the number of threads; plans are made anew."""
        self._threads = min(count, _MAX_THREADS)
        self.plans = {}

    def allows_tiles(self) -> bool:
        """Whether kernels may use tile registers; the operating system is asked once."""
        return _tiles_are_allowed()

    def prepare(
        self, instance: Instance, blocks: int, shared_bytes: int, traffic: int
    ) -> Callable[[bytes], None]:
        """A function that launches an instance with packed arguments.

        Parameters
        ----------
        instance : Instance
            Compiled now if it is not yet.
        blocks : int
            Size of the grid.
        shared_bytes : int
            Scratch memory of a block.
        traffic : int
            Bytes that the launch moves, to decide whether threads pay.
        """
        entry = self._kernels.get(instance)
        threads = self._threads if traffic >= _PARALLEL_BYTES else 1
        launch = _Launch(entry, blocks, shared_bytes, threads)
        run, address = self._runtime.get(_RUNTIME), ctypes.addressof(launch)

        def start(args: bytes, _keep: _Launch = launch) -> None:
            failed = run(address, args)
            if failed == _OVERRUN:
                raise BackendError(f"{instance} wrote past its {shared_bytes} bytes of scratch")
            if failed:
                raise BackendError(f"no memory for {shared_bytes} bytes of scratch on each thread")

        return start

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A new array for a result or a workspace.

        Large ones begin at a multiple of 64 bytes. NumPy's own begin 16 bytes past one, where
        every 64-byte store would touch two cache lines, and could not go past the caches.
        """
        size = dtype.itemsize
        for n in shape:
            size *= n
        if size < _ALIGNED_BYTES:
            return np.empty(shape, dtype)
        if size >= SMALLEST_BYTES:
            return self._results.empty(shape, dtype, size)
        memory = np.empty(size + CACHE_LINE, np.uint8)
        offset = -numpy_address(memory) % CACHE_LINE
        return np.ndarray(shape, dtype, memory, offset)

    def precompile(self, instances: tuple[Instance, ...]) -> None:
        """Compile several instances as one translation unit."""
        library = self._build(instances)
        for instance in instances:
            self._kernels.put(instance, _address(library, instance.symbol))

    def _load(self, instance: Instance) -> int:
        if len(self._runtime):
            return _address(self._build((instance,)), instance.symbol)
        # The first kernel of a cold cache waits for two compiles: side by side.
        other = threading.Thread(target=self._load_runtime_early)
        try:
            other.start()
        except RuntimeError:  # while the interpreter shuts down, no thread can be started
            return _address(self._build((instance,)), instance.symbol)
        try:
            return _address(self._build((instance,)), instance.symbol)
        finally:
            other.join()

    def _load_runtime_early(self) -> None:
        with contextlib.suppress(Exception):  # `prepare` asks again, and says what is wrong
            self._runtime.get(_RUNTIME)

    def _build(self, instances: tuple[Instance, ...]) -> ctypes.CDLL:
        return cxx.load(source_text(instances, "cpu"), "cpu")


def _address(library: ctypes.CDLL, symbol: str) -> int:
    address = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    assert address is not None
    return address


_RUNTIME = "cpu_runtime.cc"
_OVERRUN = 2  # of what it returns
# The tests set it: every launch then looks whether a kernel wrote past its scratch memory.
_GUARD_VARIABLE = "NNKERNELS_GUARD_SCRATCH"


def _load_runtime(name: str) -> Any:
    source = include_directories()[0] / "platform" / name
    text = source.read_text(encoding="utf-8")
    if os.environ.get(_GUARD_VARIABLE):
        text = f"#define NNK_GUARD_SCRATCH\n{text}"
    run = cxx.load(text, "cpu").nnk_run
    run.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    run.restype = ctypes.c_int
    return run
