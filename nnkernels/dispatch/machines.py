"""Which machine runs a call: chosen by the array, and for NumPy arrays by ``use_backend``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from nnkernels.compile.cxx import find_compiler
from nnkernels.compile.instance import Instance
from nnkernels.config.device import SIMULATED, Device
from nnkernels.errors import BackendError
from nnkernels.launch import gpu, simulation_seed
from nnkernels.launch.addresses import numpy_address as numpy_address
from nnkernels.launch.cpu import CpuMachine
from nnkernels.launch.single_flight import SingleFlight


class ReferenceMachine:
    """The NumPy references: slow and right, for when nothing can be compiled.

    No kernel runs here; ``nnkernels.reference.run`` does the work.
    """

    name = "reference"

    @property
    def plans(self) -> dict[Any, Any]:
        """None: what is no public op has no reference."""
        raise BackendError("this has no NumPy reference; use_backend must name another backend")

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array for a result."""
        return np.empty(shape, dtype)


class DryMachine:
    """Does everything that the CPU machine does before a launch, and launches nothing.

    So a call that goes to a reference is checked as any other call is.
    """

    name = "dry"

    def __init__(self) -> None:
        self.plans: dict[Any, Any] = {}

    @property
    def device(self) -> Device:
        """The device for which the CPU machine plans."""
        return cpu_machine().device

    def allows_tiles(self) -> bool:
        """Whether kernels may use tile registers: no kernel is there to use them."""
        return False

    def prepare(
        self, instance: Instance, blocks: int, shared_bytes: int, traffic: int
    ) -> Callable[[bytes], None]:
        """A function that does nothing."""
        return lambda args: None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array for a result that nobody looks at."""
        return np.empty(shape, dtype)


REFERENCE = ReferenceMachine()
DRY = DryMachine()
# A call has to look whether it is for the references until the default is known to be another,
# and from when anybody has chosen them.
default_has_kernels = False
reference_selected = False
# What calls with values of some types go to, which stand for arrays while a tool for
# differentiation records a program: a function of the op's name, its arguments and its options.
recorders: dict[type, Callable[[str, Any, dict[str, Any]], Any]] = {}

_selected: ContextVar[Any] = ContextVar("nnkernels_machine", default=None)
_default: Any = None


def for_numpy() -> Any:
    """The machine for NumPy arrays: the selected one, or the CPU."""
    machine = _selected.get()
    if machine is None:
        machine = _default or _make_default()
    return machine


def for_reference() -> bool:
    """Whether a call on NumPy arrays is for the references."""
    selected = _selected.get()
    return (selected or _default or _make_default()) is REFERENCE


def _make(name: str) -> Any:
    if name == "cpu":
        return CpuMachine()
    from nnkernels.launch import sim

    return sim.SimMachine(name.partition(":")[2])


_machines: SingleFlight[str, Any] = SingleFlight(_make)


def cpu_machine() -> CpuMachine:
    """The one CPU machine of this process."""
    return _machines.get("cpu")


def _choose_default(_: str) -> Any:
    global _default, default_has_kernels
    if find_compiler() is not None:
        _default = cpu_machine()
        default_has_kernels = True
        return _default
    _default = REFERENCE
    warnings.warn(
        "nnkernels found no C++ compiler (tried $NNKERNELS_CXX, c++, g++, clang++ and the "
        "ziglang package): NumPy arrays go through the slow reference functions",
        RuntimeWarning,
        stacklevel=_caller_level(),
    )
    return _default


_defaults: SingleFlight[str, Any] = SingleFlight(_choose_default)


def _make_default() -> Any:
    return _defaults.get("default")


def _caller_level() -> int:
    """How many frames lie between a warning and the code that called nnkernels."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("nnkernels."):
        level, frame = level + 1, frame.f_back
    return level


def machine_named(name: str) -> Any:
    """A machine for NumPy arrays by its public name.

    Raises
    ------
    BackendError
        If there is none of that name.
    """
    if name == "cpu":
        return cpu_machine()
    if name == "reference":
        return REFERENCE
    if name == "sim":
        return _machines.get("sim:sm_90")
    if isinstance(name, str) and name.startswith("sim:"):
        return _machines.get(name)
    known = ["cpu", "reference", "sim", *(f"sim:{arch}" for arch in SIMULATED)]
    raise BackendError(f"no backend is called {name!r}; there are {', '.join(known)}")


@contextmanager
def use_backend(name: str, *, seed: int = 0) -> Iterator[None]:
    """Run NumPy arrays on another machine inside a ``with`` block.

    CuPy arrays are not concerned: they always run on their own device.

    Parameters
    ----------
    name : {"cpu", "reference", "sim", "sim:sm_80", "sim:sm_90", "sim:sm_90a", "sim:gfx90a", \
"sim:gfx1100"}
        ``sim`` runs the kernels and configurations of a GPU in a simulator that reports data
        races, divergent barriers, out-of-bounds accesses and the like; ``reference`` the NumPy
        specification.
    seed : int
        Order in which the simulator runs the threads of a block.

    Raises
    ------
    BackendError
        If there is no backend of that name.
    TypeError
        If ``seed`` is no integer.

    Examples
    --------
    >>> import numpy as np
    >>> import nnkernels as nnk
    >>> with nnk.use_backend("reference"):
    ...     nnk.relu(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    global reference_selected
    machine = machine_named(name)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer; got {type(seed).__name__} {seed!r}")
    if machine is REFERENCE:
        reference_selected = True
    seed_token = simulation_seed.set(int(seed) % 2**64)
    try:
        with use_machine(machine):
            yield
    finally:
        simulation_seed.reset(seed_token)


@contextmanager
def use_machine(machine: Any) -> Iterator[None]:
    """Run NumPy arrays on a machine object inside a ``with`` block.

    ``inspect`` passes one that compiles and launches nothing and writes down what it is asked;
    a call that goes to a reference is first checked on :data:`DRY`.
    """
    token = _selected.set(machine)
    try:
        yield
    finally:
        _selected.reset(token)


def set_num_threads(n: int) -> None:
    """Set how many CPU threads a call may use. Results do not depend on it.

    Parameters
    ----------
    n : int
        At least 1. The default is the number of processors, or ``$NNKERNELS_NUM_THREADS``.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is no integer, or less than 1.
    BackendError
        If ``$NNKERNELS_NUM_THREADS`` is set, and not to a number of at least 1.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be an integer; got {type(n).__name__} {n!r}")
    if n < 1:
        raise ValueError(f"n must be at least 1; got {n}")
    cpu_machine().set_num_threads(int(n))


def clear_cache() -> None:
    """Delete all compiled kernels from the disk cache.

    What this process has loaded stays in use.

    Raises
    ------
    BackendError
        If a file of the cache cannot be deleted.
    """
    from nnkernels.compile import cache

    cache.clear()


# ---- addresses ----------------------------------------------------------------------------------


def cupy_address(array: Any) -> int:
    """The device address of a CuPy array."""
    return int(array.data.ptr)


def require_aligned(machine: Any, arrays: Iterable[Any], names: Iterable[str]) -> None:
    """Check that a GPU can read every element in one access; a CPU reads at any address.

    Raises
    ------
    BackendError
        If elements do not lie at multiples of their size, as those of a field of a packed NumPy
        record may.
    """
    if not machine.device.is_gpu:
        return
    for array, name in zip(arrays, names, strict=True):
        size = array.dtype.itemsize
        address = numpy_address(array) if isinstance(array, np.ndarray) else cupy_address(array)
        steps = (s for s, n in zip(array.strides, array.shape, strict=True) if n > 1)
        if array.size and (address % size or any(step % size for step in steps)):
            raise BackendError(
                f"{name} has elements of {size} bytes that do not lie at multiples of {size}, "
                f"where {machine.name} cannot reach them; give an aligned array, such as a copy"
            )


def for_array(array: Any) -> tuple[Any, Any]:
    """The machine for a NumPy or CuPy array, and the function that gives its address."""
    if isinstance(array, np.ndarray):
        return for_numpy(), numpy_address
    # Not `array.device.id`: CuPy would make a Device at every call.
    return gpu.machine_of(array.data.device_id), cupy_address
