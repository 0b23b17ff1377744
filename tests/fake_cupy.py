"""A stand-in for CuPy whose GPUs are the simulator: for the way of a call from array to launch.

As strict as CuPy 14.2 where that is strict (cupy/cuda/function.pyx, cupy/_core/raw.pyx), and with
nothing that CuPy has not. Memory of a device is NumPy's; kernels are compiled for the simulator
from the same text and run with the same argument bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
import threading
import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnkernels.compile import cxx
from nnkernels.compile.sources import fingerprint, include_directories
from nnkernels.errors import CompileError
from nnkernels.interop import libraries
from nnkernels.launch import gpu
from nnkernels.launch.sim import _SimLaunch

# What the current stream is called by the driver.
STREAM = 7
# What a block gets without asking.
DEFAULT_SHARED = 48 * 1024
_ENTRY = re.compile(r"NNK_ENTRY\((\w+), (\d+), ")


@dataclass
class Launch:
    """One kernel launch."""

    device: int
    symbol: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int


@dataclass
class Recorded:
    """What was asked of the stand-in."""

    launches: list[Launch] = field(default_factory=list)
    compiled: list[tuple[int, str]] = field(default_factory=list)  # device and text
    looked_up: list[str] = field(default_factory=list)  # RawModule.get_function
    programs: list[tuple[str, ...]] = field(default_factory=list)  # options of nvrtc
    functions: dict[int, Any] = field(default_factory=dict)  # by what the driver calls them
    # Threads and devices for which CuPy has seen to a context of the driver.
    contexts: set[tuple[int, int]] = field(default_factory=set)
    by_driver: int = 0  # launches past CuPy
    # Calls of a stream that is being recorded, instead of their results.
    graph: list[Any] | None = None
    # Device and memory of every array, kept so that no address is used twice.
    memory: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def devices_of(self, content: bytes) -> set[int]:
        """The devices to which the pointers in an argument struct point."""
        words = np.frombuffer(content[: len(content) // 8 * 8], np.uint64)
        found = set()
        for device, host in self.memory:
            start = host.__array_interface__["data"][0]
            if ((words >= start) & (words < start + host.nbytes)).any():
                found.add(device)
        return found


# ---- devices ------------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    pass


class _Devices(threading.local):
    current = 0

    def __init__(self) -> None:
        self.stack: list[int] = []


class Runtime(types.SimpleNamespace):
    """``cupy.cuda.runtime``."""

    CUDARuntimeError = CUDARuntimeError

    def __init__(self, hip: bool, count: int) -> None:
        super().__init__()
        self.is_hip = hip
        self._count = count
        self._devices = _Devices()

    def getDevice(self) -> int:
        return self._devices.current

    def setDevice(self, index: int) -> None:
        if not 0 <= index < self._count:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self._devices.current = index

    def getDeviceCount(self) -> int:
        return self._count

    def runtimeGetVersion(self) -> int:
        return 13020

    def getDeviceProperties(self, index: int) -> dict[str, Any]:
        common = {
            "name": b"Simulated",
            "totalGlobalMem": 80 << 30,
            "sharedMemPerBlock": 65536 if self.is_hip else 49152,
            "warpSize": 64 if self.is_hip else 32,
            "multiProcessorCount": 8,  # a few rows are enough to fill it
            "l2CacheSize": 8 << 20,
            "major": 9,
            "minor": 0,
        }
        if self.is_hip:
            return {**common, "gcnArchName": b"gfx90a:sramecc+:xnack-"}
        return {**common, "sharedMemPerBlockOptin": 232448}


class Device:
    """``cupy.cuda.Device``."""

    runtime: Runtime

    def __init__(self, device: int | None = None) -> None:
        self.id = self.runtime.getDevice() if device is None else int(device)

    def __enter__(self) -> Device:
        self.runtime._devices.stack.append(self.runtime.getDevice())
        self.runtime.setDevice(self.id)
        return self

    def __exit__(self, *_: object) -> None:
        self.runtime.setDevice(self.runtime._devices.stack.pop())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def synchronize(self) -> None:
        pass


# ---- arrays -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryPointer:
    ptr: int
    device: Any

    @property
    def device_id(self) -> int:
        return int(self.device.id)

    def __add__(self, bytes_: int) -> MemoryPointer:
        return MemoryPointer(self.ptr + bytes_, self.device)


class Flags:
    # There is no `writeable` in CuPy.
    def __init__(self, flags: Any) -> None:
        self.c_contiguous, self.f_contiguous = flags.c_contiguous, flags.f_contiguous
        self.owndata = flags.owndata


class ndarray:
    """``cupy.ndarray``: a view of NumPy memory that NumPy itself does not accept."""

    runtime: Runtime
    # NumPy must not try to help: CuPy's operators are its own.
    __array_ufunc__ = None

    def __init__(self, host: np.ndarray, device: Any) -> None:
        self._host, self._device = host, device

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    flags = property(lambda self: Flags(self._host.flags))
    # A new one each time, as in CuPy.
    device = property(lambda self: type(self._device)(self._device.id))

    @property
    def data(self) -> MemoryPointer:
        address = self._host.__array_interface__["data"][0] if self.size else 0
        return MemoryPointer(address, self._device)

    @property
    def T(self) -> ndarray:
        return self._view(self._host.T)

    def _view(self, host: np.ndarray) -> ndarray:
        return ndarray(host, self._device)

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self._host.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> ndarray:
        return self._view(self._host.swapaxes(a, b))

    def view(self, dtype: Any) -> ndarray:
        return self._view(self._host.view(dtype))

    def __getitem__(self, index: Any) -> ndarray:
        found = self._host[index]
        if not isinstance(found, np.ndarray):  # a 0-d array, unlike NumPy's scalar
            parts = index if isinstance(index, tuple) else (index,)
            found = self._host[(*parts, ...)]
        return self._view(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._check_current("a fill")
        self._host[index] = value._host if isinstance(value, ndarray) else value

    def get(self) -> np.ndarray:
        return self._host.copy()

    def set(self, host: np.ndarray) -> None:
        self._check_current("a copy")
        assert host.dtype == self.dtype
        assert host.flags.c_contiguous
        self._host[...] = host

    def __array__(self, dtype: Any = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError("arrays of CuPy need no DLPack")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._device.id

    def _check_current(self, what: str) -> None:
        current = self.runtime.getDevice()
        assert current == self._device.id, (
            f"{what} on device {self._device.id}, and device {current} is current"
        )


# ---- kernels ------------------------------------------------------------------------------------


class CompileException(Exception):
    """``cupy.cuda.compiler.CompileException``."""

    def __init__(self, message: str) -> None:
        self._message = message
        super().__init__()

    def __str__(self) -> str:
        return self._message


class Function:
    """``cupy.cuda.function.Function``: belongs to one device."""

    def __init__(self, module: _Module, symbol: str) -> None:
        self._module, self.symbol = module, symbol
        self._entry = getattr(module.library, symbol)  # an unknown name fails as in CuPy
        self._entry.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        self._entry.restype = ctypes.c_int
        self.granted = DEFAULT_SHARED
        self.ptr = id(self)
        module.raw.recorded.functions[self.ptr] = self

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Any, shared_mem: int = 0
    ) -> None:
        raw = self._module.raw
        assert type(grid) is tuple
        assert type(block) is tuple
        current = raw.runtime.getDevice()
        assert current == self._module.device, "a function of another device"
        assert block == (self._module.threads[self.symbol],), "not the threads of the entry"
        assert 1 <= grid[0] < 2**31
        assert shared_mem <= self.granted, "more shared memory than was asked for"
        (argument,) = args
        # CuPy passes an array of one element by value, and refuses longer ones.
        assert isinstance(argument, np.ndarray)
        assert argument.size == 1
        address = argument.__array_interface__["data"][0]
        self.nbytes = argument.nbytes
        raw.recorded.contexts.add((threading.get_ident(), current))
        self.launch(ctypes.string_at(address, argument.nbytes), grid, block, shared_mem)

    def launch(
        self, content: bytes, grid: tuple[int, ...], block: tuple[int, ...], shared_mem: int
    ) -> None:
        raw = self._module.raw
        current = self._module.device
        assert raw.recorded.devices_of(content) == {current}, "memory of another device"
        raw.recorded.launches.append(Launch(current, self.symbol, grid, block, shared_mem))
        if raw.recorded.graph is None:
            self._run(content, grid[0], shared_mem)
        else:
            raw.recorded.graph.append(lambda: self._run(content, grid[0], shared_mem))

    def _run(self, content: bytes, blocks: int, shared: int) -> None:
        message = ctypes.create_string_buffer(2048)
        launch = _SimLaunch(blocks, shared, 232448, 0, len(message), ctypes.addressof(message))
        if self._entry(content, ctypes.byref(launch)):
            raise AssertionError(message.value.decode(errors="replace"))


@dataclass
class _Module:
    """A module on one device."""

    raw: Any
    device: int
    library: Any
    threads: dict[str, int]


class RawKernel:
    def __init__(self, raw: Any, name: str) -> None:
        self._raw, self._name = raw, name
        self._functions: dict[int, Function] = {}

    @property
    def kernel(self) -> Function:
        """The function of the current device."""
        device = self._raw.runtime.getDevice()
        if device not in self._functions:
            self._functions[device] = Function(self._raw._module(), self._name)
        return self._functions[device]

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self.kernel.granted

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if self._raw.runtime.is_hip:  # cuFuncSetAttribute in cupy_backends/hip/cupy_hip.h
            raise RuntimeError("hipErrorUnknown")
        assert size <= 232448
        self.kernel.granted = size

    def __call__(self, *_: Any, **__: Any) -> None:
        raise AssertionError("slower than its function: a look-up at every call")


def check_options(options: tuple[str, ...]) -> None:
    assert type(options) is tuple
    assert all(type(option) is str for option in options)
    assert "-std=c++17" in options
    assert f"-DNNK_FINGERPRINT={fingerprint()}" in options
    for directory in include_directories():
        assert f"-I{directory}" in options


class RawModule:
    runtime: Runtime
    recorded: Recorded

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        assert type(code) is str
        check_options(options)
        self.code = code
        self._modules: dict[int, _Module] = {}

    def _module(self) -> _Module:
        device = self.runtime.getDevice()
        if device not in self._modules:
            self.recorded.compiled.append((device, self.code))
            self._modules[device] = self._compiled(device)
        return self._modules[device]

    def _compiled(self, device: int) -> _Module:
        platform = "hip" if self.runtime.is_hip else "cuda"
        first, rest = self.code.split("\n", 1)
        assert first == f'#include "platform/{platform}.cuh"'
        warp = 64 if self.runtime.is_hip else 32
        text = f'#include "platform/sim.cuh"\n{rest}'
        try:
            path = cxx.shared_library(text, "sim", (f"-DNNK_SIM_WARP={warp}",))
        except CompileError as error:
            raise CompileException(error.log) from error
        threads = {name: int(count) for name, count in _ENTRY.findall(self.code)}
        return _Module(self, device, ctypes.CDLL(str(path)), threads)

    def compile(self) -> None:
        self._module()

    def get_function(self, name: str) -> RawKernel:
        assert type(name) is str
        self.recorded.looked_up.append(name)
        kernel = RawKernel(self, name)
        _ = kernel.kernel  # compiled here, as in CuPy
        return kernel


class NVRTCError(RuntimeError):
    pass


class Nvrtc:
    """``cupy.cuda.nvrtc``; the code of a program is its text."""

    NVRTCError = NVRTCError

    def __init__(self, recorded: Recorded) -> None:
        self._recorded, self._texts = recorded, {0: ""}

    def getVersion(self) -> tuple[int, int]:
        return 13, 2

    def createProgram(self, text: str, name: str, headers: Any, names: Any) -> int:
        assert type(text) is type(name) is str
        assert headers == names == ()
        self._texts[len(self._texts)] = text
        return len(self._texts) - 1

    def compileProgram(self, program: int, options: tuple[str, ...]) -> None:
        check_options(options)
        self._recorded.programs.append(options)
        if "#error" in self._texts[program]:
            raise NVRTCError("NVRTC_ERROR_COMPILATION (6)")

    def getProgramLog(self, program: int) -> str:
        return f"the log of {len(self._texts[program])} characters"

    def getCUBIN(self, program: int) -> bytes:
        return self._texts[program].encode()

    def destroyProgram(self, program: int) -> None:
        del self._texts[program]
        self._texts[program] = ""  # its number is not used again


class Module:
    """``cupy.cuda.function.Module``, of what Nvrtc made."""

    raw_module: Any

    def load(self, code: bytes) -> None:
        assert type(code) is bytes
        options = ("-std=c++17", f"-DNNK_FINGERPRINT={fingerprint()}")
        options += tuple(f"-I{directory}" for directory in include_directories())
        self._module = self.raw_module(code=code.decode(), options=options)._module()

    def get_function(self, name: str) -> Function:
        return Function(self._module, name)


class Stream:
    """``cupy.cuda.Stream``, with which the calls of any array are recorded."""

    recorded: Recorded

    def __init__(self, non_blocking: bool = False) -> None:
        assert non_blocking, "recording the legacy stream is an error"

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def synchronize(self) -> None:
        assert self.recorded.graph is None, "cudaErrorStreamCaptureUnsupported"

    def begin_capture(self) -> None:
        self.recorded.graph = []

    def end_capture(self) -> Graph:
        calls, self.recorded.graph = self.recorded.graph, None
        assert calls is not None
        return Graph(calls)


@dataclass
class Graph:
    """``cupy.cuda.graph.Graph``."""

    calls: list[Any]

    def launch(self) -> None:
        for call in self.calls:
            call()


# ---- the module ---------------------------------------------------------------------------------


def make(hip: bool = False, devices: int = 2) -> Any:
    """A module to take the place of ``cupy``."""
    cupy = types.ModuleType("cupy")
    runtime, recorded = Runtime(hip, devices), Recorded()
    own_device = type("Device", (Device,), {"runtime": runtime})
    own_array = type("ndarray", (ndarray,), {"runtime": runtime})
    own_array._view = lambda self, host: own_array(host, self._device)

    def on_device(host: np.ndarray) -> Any:
        recorded.memory.append((runtime.getDevice(), host))
        return own_array(host, own_device())

    def empty(shape: Any, dtype: Any = float) -> Any:
        host = np.empty(shape, dtype)
        host.reshape(-1).view(np.uint8)[:] = 0xFF
        return on_device(host)

    def asarray(x: Any, dtype: Any = None) -> Any:
        if isinstance(x, own_array):
            return x
        # A copy with the strides of a dense array, at an address as aligned as a GPU's.
        source = np.asarray(x, dtype)
        memory = np.empty(source.nbytes + 512, np.uint8)
        start = -memory.__array_interface__["data"][0] % 512
        host = memory[start : start + source.nbytes].view(source.dtype).reshape(source.shape)
        host[...] = source
        return on_device(host)

    cupy.ndarray, cupy.empty, cupy.asarray = own_array, empty, asarray
    cupy.asnumpy = lambda x: x.get()

    def set_attribute(function: int, attribute: int, value: int) -> None:
        assert attribute == 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        assert value <= 232448
        recorded.functions[function].granted = value

    def launch_kernel(
        function: int, x: int, y: int, z: int, threads: int, threads_y: int, threads_z: int,
        shared: int, stream: int, parameters: int, extra: int,
    ) -> None:  # fmt: skip
        known = recorded.functions[function]
        assert (y, z, threads_y, threads_z, stream, extra) == (1, 1, 1, 1, STREAM, 0)
        assert (threading.get_ident(), known._module.device) in recorded.contexts, "no context"
        assert runtime.getDevice() == known._module.device, "a function of another device"
        assert threads == known._module.threads[known.symbol]
        assert shared <= known.granted
        address = ctypes.c_void_p.from_address(parameters).value
        assert address is not None
        recorded.by_driver += 1
        known.launch(ctypes.string_at(address, known.nbytes), (x,), (threads,), shared)

    cupy.RawModule = type("RawModule", (RawModule,), {"runtime": runtime, "recorded": recorded})
    cupy.cuda = types.SimpleNamespace(
        runtime=runtime,
        Device=own_device,
        Stream=type("Stream", (Stream,), {"recorded": recorded}),
        set_allocator=lambda allocator: None,
        compiler=types.SimpleNamespace(CompileException=CompileException),
        nvrtc=Nvrtc(recorded),
        function=types.SimpleNamespace(
            Module=type("Module", (Module,), {"raw_module": cupy.RawModule})
        ),
        driver=types.SimpleNamespace(funcSetAttribute=set_attribute, launchKernel=launch_kernel),
        get_current_stream=lambda: types.SimpleNamespace(ptr=STREAM),
    )
    cupy.__version__ = "14.2.0"
    cupy.recorded = recorded
    return cupy


@contextlib.contextmanager
def installed(hip: bool = False, devices: int = 2) -> Any:
    """``import cupy`` gives a stand-in inside the block; nothing of it is left afterwards."""
    cupy = make(hip, devices)
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = cupy
    gpu._machines.clear()
    try:
        yield cupy
    finally:
        gpu._machines.clear()
        libraries._KNOWN.pop(cupy.ndarray, None)
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
