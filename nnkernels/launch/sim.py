"""The ``sim`` machine: the kernels and configurations of a GPU, each thread a fiber on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from nnkernels.compile import cxx
from nnkernels.compile.instance import Instance, source_text
from nnkernels.config.device import PROFILES, SIMULATED
from nnkernels.errors import BackendError
from nnkernels.launch import simulation_seed
from nnkernels.launch.single_flight import SingleFlight

_MESSAGE_BYTES = 2048


class _SimLaunch(ctypes.Structure):
    # The same layout as SimLaunch in cuda_src/platform/sim_state.cuh.
    _fields_ = (
        ("blocks", ctypes.c_int64),
        ("shared_bytes", ctypes.c_int64),
        ("shared_limit", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("message_bytes", ctypes.c_int64),
        ("message", ctypes.c_void_p),
    )


class SimMachine:
    """Runs the GPU configuration of one architecture; see ``cuda_src/platform/sim.cuh``."""

    def __init__(self, arch: str) -> None:
        if arch not in SIMULATED:
            raise BackendError(
                f"no simulated architecture is called {arch!r}; there are {', '.join(SIMULATED)}"
            )
        self.name = f"sim:{arch}"
        self.device = PROFILES[arch].simulated()
        self.plans: dict[Any, Any] = {}

    def prepare(
        self, instance: Instance, blocks: int, shared_bytes: int, traffic: int
    ) -> Callable[[bytes], None]:
        """A function that launches an instance with packed arguments."""
        entry = _kernels.get((instance, self.device.warp))
        limit = self.device.shared_limit

        def start(args: bytes) -> None:
            message = ctypes.create_string_buffer(_MESSAGE_BYTES)
            launch = _SimLaunch(
                blocks,
                shared_bytes,
                limit,
                simulation_seed.get(),
                _MESSAGE_BYTES,
                ctypes.addressof(message),
            )
            if entry(args, ctypes.byref(launch)):
                raise BackendError(f"{self.name}: {message.value.decode(errors='replace')}")

        return start

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A new array, poisoned: whatever a kernel leaves unwritten shows (NaN in floats)."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = 0xFF
        return array

    def precompile(self, instances: tuple[Instance, ...]) -> None:
        """Compile several instances as one translation unit."""
        library = _build(instances, self.device.warp)
        for instance in instances:
            _kernels.put((instance, self.device.warp), _entry(library, instance.symbol))


def _build(instances: tuple[Instance, ...], warp: int) -> ctypes.CDLL:
    return cxx.load(source_text(instances, "sim"), "sim", (f"-DNNK_SIM_WARP={warp}",))


def _entry(library: ctypes.CDLL, symbol: str) -> Any:
    entry = getattr(library, symbol)
    entry.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    entry.restype = ctypes.c_int
    return entry


def _load(key: tuple[Instance, int]) -> Any:
    instance, warp = key
    return _entry(_build((instance,), warp), instance.symbol)


# Architectures with one warp width share their kernels.
_kernels: SingleFlight[tuple[Instance, int], Any] = SingleFlight(_load)
