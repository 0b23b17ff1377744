"""The ``cuda`` and ``hip`` machines: kernels through ``cupy.RawModule``, on CuPy's streams."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nnkernels.compile.instance import Instance, source_text
from nnkernels.compile.sources import fingerprint, include_options
from nnkernels.config.device import PROFILES, Device
from nnkernels.errors import BackendError, CompileError
from nnkernels.launch import cuda_module
from nnkernels.launch.gpu_start import starting
from nnkernels.launch.single_flight import SingleFlight

# Without asking, a block gets this much shared memory.
_DEFAULT_SHARED = 48 * 1024
# Architectures that CuPy names by their compute capability alone: see cuda_module.py.
_NAMED_BY_US = ("sm_90a",)
# Blocks of a launch: gridDim.x of CUDA. HIP counts threads, in 32 bits.
_MOST_BLOCKS, _MOST_HIP_THREADS = 2**31 - 1, 2**32 - 1


@dataclass(frozen=True)
class _Kernel:
    """A kernel as CuPy has it.

    ``function`` is what RawKernel.__call__ looks up for the current device at every call; found
    once, while the right device was current. ``grant`` gives it more shared memory.
    """

    function: Any
    grant: Callable[[int], None]


class GpuMachine:
    """Runs kernels on one device of CuPy.

    Launches go to CuPy's current stream and nothing waits for them, so a call can be captured
    into a CUDA graph once its kernel is compiled.
    """

    def __init__(self, cupy: Any, index: int) -> None:
        self._cupy = cupy
        self.index = index
        self.plans: dict[Any, Any] = {}
        self.device = _device(cupy, index)
        self.name = f"{self.device.machine}:{index}"
        self._kernels: SingleFlight[Instance, _Kernel] = SingleFlight(self._load)
        self._shared_granted: dict[Instance, int] = {}
        self._shared_lock = threading.Lock()

    def prepare(
        self, instance: Instance, blocks: int, shared_bytes: int, traffic: int
    ) -> Callable[[bytes], None]:
        """A function that launches an instance with packed arguments.

        Raises
        ------
        BackendError
            If CuPy cannot compile here, or the grid is too large.
        CompileError
            If the compiler fails.
        """
        self._check_grid(blocks, instance.threads)
        kernel = self._kernels.get(instance)
        self._grant_shared(instance, kernel, shared_bytes)
        return starting(
            self._cupy, self.index, kernel.function, blocks, instance.threads, shared_bytes
        )

    def _check_grid(self, blocks: int, threads: int) -> None:
        hip = self.device.machine == "hip"
        most = min(_MOST_BLOCKS, _MOST_HIP_THREADS // threads) if hip else _MOST_BLOCKS
        if blocks > most:
            raise BackendError(
                f"a launch of {blocks} blocks of {threads} threads is more than {self.name} can do "
                f"({most} blocks); split the arrays"
            )

    def _grant_shared(self, instance: Instance, kernel: _Kernel, shared_bytes: int) -> None:
        # On AMD a block may have all 64 KiB without asking, and CuPy refuses to ask.
        if shared_bytes <= _DEFAULT_SHARED or self.device.machine == "hip":
            return
        with self._shared_lock:
            if shared_bytes > self._shared_granted.get(instance, _DEFAULT_SHARED):
                with self._cupy.cuda.Device(self.index):
                    kernel.grant(shared_bytes)
                self._shared_granted[instance] = shared_bytes

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array on this device."""
        if self._cupy.cuda.runtime.getDevice() == self.index:
            return self._cupy.empty(shape, dtype)
        with self._cupy.cuda.Device(self.index):
            return self._cupy.empty(shape, dtype)

    def precompile(self, instances: tuple[Instance, ...]) -> None:
        """Compile several instances as one module."""
        for instance, kernel in zip(instances, self._compile(instances), strict=True):
            self._kernels.put(instance, kernel)

    def _load(self, instance: Instance) -> _Kernel:
        return self._compile((instance,))[0]

    def _compile(self, instances: tuple[Instance, ...]) -> list[_Kernel]:
        text = source_text(instances, self.device.machine)
        symbols = [instance.symbol for instance in instances]
        with self._cupy.cuda.Device(self.index):
            try:
                if self.device.arch in _NAMED_BY_US:
                    return self._compile_ourselves(text, symbols)
                return self._compile_raw(text, symbols)
            except self._cupy.cuda.compiler.CompileException as error:
                raise CompileError(
                    f"{self.device.machine} compiler failed on {instances[0].kernel}: {error}",
                    str(error),
                ) from error
            except BackendError:
                raise
            except (ImportError, OSError, RuntimeError) as error:
                # No NVRTC, no CUDA headers, a driver that is too old: CuPy says which.
                raise BackendError(f"CuPy cannot compile for {self.name}: {error}") from error

    def _compile_raw(self, text: str, symbols: list[str]) -> list[_Kernel]:
        module = self._cupy.RawModule(code=text, options=compile_options())
        raw = [module.get_function(symbol) for symbol in symbols]
        return [_Kernel(kernel.kernel, _granting(kernel)) for kernel in raw]

    def _compile_ourselves(self, text: str, symbols: list[str]) -> list[_Kernel]:
        options = (*compile_options(), *options_of_cupy(self.device.arch))
        module = cuda_module.load(self._cupy, text, options)
        functions = [module.get_function(symbol) for symbol in symbols]
        return [_Kernel(f, cuda_module.granting(self._cupy, f)) for f in functions]


def _granting(raw: Any) -> Callable[[int], None]:
    def grant(shared_bytes: int) -> None:
        raw.max_dynamic_shared_size_bytes = shared_bytes

    return grant


def options_of_cupy(arch: str) -> tuple[str, ...]:
    """What CuPy 14 appends to the options of NVRTC.

    ``cupy/cuda/compiler.py``, _compile_with_cache_cuda and _compile_using_nvrtc_no_warning.
    """
    return ("-ftz=true", f"-arch={arch}", "--device-as-default-execution-space")


def compile_options() -> tuple[str, ...]:
    """The options of every compile with NVRTC or hipRTC.

    The fingerprint is there because CuPy's disk cache does not see what included headers hold.
    """
    return ("-std=c++17", f"-DNNK_FINGERPRINT={fingerprint()}", *include_options())


def _device(cupy: Any, index: int) -> Device:
    properties = cupy.cuda.runtime.getDeviceProperties(index)
    hip = bool(cupy.cuda.runtime.is_hip)
    if hip:
        arch = properties["gcnArchName"].decode().partition(":")[0]
    else:
        arch = _architecture(f"sm_{properties['major']}{properties['minor']}")
    known = PROFILES.get(arch)
    limit = properties.get("sharedMemPerBlockOptin") or properties["sharedMemPerBlock"]
    return Device(
        machine="hip" if hip else "cuda",
        arch=arch,
        warp=properties.get("warpSize", known.warp if known else 32),
        processors=properties["multiProcessorCount"],
        shared_limit=max(int(limit), int(properties["sharedMemPerBlock"])),
        vector_bytes=16,
        cache_bytes=int(properties.get("l2CacheSize", 0)) or 8 << 20,
    )


def _architecture(own: str) -> str:
    """What to compile for on a device: with all its instructions, or ``$NNKERNELS_GPU_ARCH``."""
    asked = os.environ.get("NNKERNELS_GPU_ARCH", "")
    can = [own, *(arch for arch in _NAMED_BY_US if arch == f"{own}a")]
    if asked and asked not in can:
        raise BackendError(
            f"NNKERNELS_GPU_ARCH is {asked!r}, and this device runs {' and '.join(can)}"
        )
    return asked or can[-1]


_machines: dict[int, GpuMachine] = {}
_lock = threading.Lock()


def machine_of(index: int) -> GpuMachine:
    """The machine of a CuPy device, made at the first call."""
    machine = _machines.get(index)
    if machine is None:
        import cupy

        with _lock:
            machine = _machines.get(index)
            if machine is None:
                machine = _machines[index] = GpuMachine(cupy, index)
    return machine
