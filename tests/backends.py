"""The machines that the tests run on, all used in one way."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

import nnkernels as nnk
from nnkernels.compile import cxx
from nnkernels.compile.instance import Instance
from nnkernels.dispatch import machines
from nnkernels.launch import gpu, sim

# Kernels of one translation unit: beyond some sixteen a compile gains nothing from more.
_BATCH = 16
# The environment variable that names a directory in which the processes of one run of the tests
# tell each other what they have compiled: a file for each kernel, with all those of its batch.
BATCHES = "NNKERNELS_TEST_BATCHES"


class _NotCompiled(Exception):
    """A kernel is not in the cache on disk."""


def _refuse(*_: Any) -> None:
    raise _NotCompiled


class Backend:
    """A machine, and arrays for it.

    Attributes
    ----------
    name : str
        ``cpu``, ``sim:<architecture>`` or ``cupy``.
    recording : bool
        Whether calls only note their kernels: results are garbage then, and not to be checked.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.recording = False
        if name != "cupy":
            machines.machine_named(name)  # an unknown name fails here, not in every test

    def __repr__(self) -> str:
        return self.name

    @property
    def is_cpu(self) -> bool:
        return self.name == "cpu"

    @property
    def is_cupy(self) -> bool:
        return self.name == "cupy"

    @property
    def machine(self) -> Any:
        return gpu.machine_of(0) if self.is_cupy else machines.machine_named(self.name)

    @property
    def device(self) -> Any:
        return self.machine.device

    def context(self, seed: int = 0) -> Any:
        """A ``with`` block in which the arrays of this backend run on its machine."""
        return nullcontext() if self.is_cupy else nnk.use_backend(self.name, seed=seed)

    def array(self, view: np.ndarray) -> Any:
        """A NumPy array as one of this backend: as it is, or its memory copied to the GPU."""
        if not self.is_cupy:
            return view
        cupy = sys.modules["cupy"]
        if view.base is None or view.size == 0:
            return cupy.asarray(view)
        buffer = view
        while isinstance(buffer.base, np.ndarray):
            buffer = buffer.base
        offset = view.__array_interface__["data"][0] - buffer.__array_interface__["data"][0]
        memory = cupy.asarray(buffer.reshape(-1).view(np.uint8))
        return cupy.ndarray(view.shape, view.dtype, memory.data + offset, view.strides)

    def numpy(self, result: Any) -> Any:
        """A result as NumPy array whose axes lie in the same order, or a tuple of results."""
        if isinstance(result, tuple):
            return tuple(self.numpy(part) for part in result)
        if not self.is_cupy or result is None:
            return result
        axes = sorted(range(result.ndim), key=lambda axis: -result.strides[axis])
        return result.transpose(axes).get().transpose(np.argsort(axes))

    def is_own(self, result: Any) -> bool:
        """Whether a result is an array of this backend's library."""
        kind = sys.modules["cupy"].ndarray if self.is_cupy else np.ndarray
        return type(result) is kind

    # ---- compiling in batches ----------------------------------------------------------------

    def precompiled(self, body: Callable[[], Any]) -> Any:
        """Run a function twice: to note which kernels it needs, and with these compiled together.

        A translation unit for sixteen kernels takes a third of the time of sixteen units. The
        function looks at ``recording`` and checks no results then; and it makes the same calls
        both times, as Hypothesis's do where ``derandomize`` is set; elsewhere it runs once.
        """
        if not settings.default.derandomize:
            return body()
        # Arithmetic with the garbage that results are then must not warn.
        with self.noting() as instances, np.errstate(all="ignore"):
            body()
        self._compile(list(dict.fromkeys(instances)))
        return body()

    def _compile(self, instances: list[Instance]) -> None:
        for instance in instances:
            if not self._is_loaded(instance):
                self._fetch(instance)
        new = [i for i in instances if not self._is_loaded(i)]
        for first in range(0, len(new), _BATCH):
            self._compile_batch(tuple(new[first : first + _BATCH]))

    def _compile_batch(self, batch: tuple[Instance, ...]) -> None:
        self.machine.precompile(batch)
        for instance in batch:
            path = self._note_of(instance)
            if path is not None and not path.exists():
                own = path.with_suffix(f".{os.getpid()}")
                own.write_bytes(pickle.dumps(batch))
                own.replace(path)

    def _fetch(self, instance: Instance) -> None:
        """Load a kernel from the cache on disk if it is there, from a batch or alone."""
        path = self._note_of(instance)
        if path is not None and path.exists():
            self.machine.precompile(pickle.loads(path.read_bytes()))
        elif not self.is_cupy:
            self._fetch_alone(instance)

    def _fetch_alone(self, instance: Instance) -> None:
        with pytest.MonkeyPatch.context() as patch, suppress(_NotCompiled):
            patch.setattr(cxx, "_compile", _refuse)
            self.machine.precompile((instance,))

    def _note_of(self, instance: Instance) -> Path | None:
        directory, device = os.environ.get(BATCHES), self.machine.device
        if not directory or os.environ.get("NNKERNELS_CXXFLAGS"):
            return None
        kind = f"sim{device.warp}" if self.name.startswith("sim") else self.name
        return Path(directory) / f"{kind}-{instance.symbol}"

    @contextmanager
    def noting(self) -> Iterator[list[Any]]:
        """A ``with`` block whose calls choose kernels, which are noted and not compiled."""
        machine, instances = self.machine, []

        def prepare(instance: Any, *_: Any) -> Callable[[bytes], None]:
            instances.append(instance)
            return lambda args: None

        machine.plans.clear()  # a plan that is there asks for no kernel
        self.recording, machine.prepare = True, prepare
        try:
            yield instances
        finally:
            self.recording = False
            del machine.prepare
            machine.plans.clear()

    @property
    def kernels(self) -> Any:
        """The kernels that are loaded: architectures of one warp width share them."""
        machine = self.machine
        return sim._kernels if isinstance(machine, sim.SimMachine) else machine._kernels

    def _is_loaded(self, instance: Any) -> bool:
        machine = self.machine
        key = (instance, machine.device.warp) if self.kernels is sim._kernels else instance
        return key in self.kernels._values
