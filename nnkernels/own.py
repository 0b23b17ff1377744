"""Kernels of your own, from the block-level templates: on a GPU, or in the simulator without one.

:class:`RawModule` and :class:`RawKernel` are called as CuPy's are. Given CuPy arrays, a kernel is
compiled by CuPy and runs on their device; given NumPy arrays, the same CUDA text is compiled by the
C++ compiler and runs in the simulator of thread blocks. ``docs/own-kernels.md`` has the templates.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from nnkernels.compile.sources import fingerprint, include_options
from nnkernels.dispatch import machines
from nnkernels.errors import BackendError, CompileError, DTypeError
from nnkernels.interop.libraries import adopt_all
from nnkernels.launch import simulated_cuda

__all__ = ["RawKernel", "RawModule", "array_library", "compile_options"]

_ARCH = "sm_90"  # that is simulated, where use_backend names none
# Without asking, a block gets this much shared memory.
_DEFAULT_SHARED = 48 * 1024


def compile_options() -> tuple[str, ...]:
    """The options with which ``cupy.RawModule`` finds the headers: C++17 and two directories.

    Returns
    -------
    tuple of str
        For the default backend of RawModule, NVRTC, or hipRTC on AMD. The fingerprint among them
        is there because CuPy's cache on disk does not see what included headers hold.

    Examples
    --------
    >>> from nnkernels import own
    >>> own.compile_options()[0]
    '-std=c++17'
    """
    return ("-std=c++17", f"-DNNK_FINGERPRINT={fingerprint()}", *include_options())


def array_library() -> Any:
    """CuPy where it is installed and has a device, and NumPy elsewhere.

    Returns
    -------
    module
        ``cupy`` or ``numpy``: a program that makes its arrays with it runs on both machines.

    Examples
    --------
    >>> from nnkernels import own
    >>> own.array_library().__name__ in ("cupy", "numpy")
    True
    """
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount() > 0:
            return cupy
    except Exception:  # no CuPy; or one whose libraries or driver are missing, whatever they raise
        return np
    return np


class RawModule:
    """CUDA source text, called as ``cupy.RawModule``.

    Parameters
    ----------
    code : str
        The text, which includes ``"platform/gpu.cuh"`` and then headers of ``nnk/block``.
    options : tuple of str, optional
        Options of the compiler besides :func:`compile_options`: ``-DNAME=VALUE``, ``-I``. For the
        simulator those that begin with ``-D``, ``-U``, ``-I`` count.
    name_expressions : sequence of str, optional
        Names of kernels that are templates: ``["classify<float>"]``.
    path : str, optional
        What messages call the text.

    Raises
    ------
    DTypeError
        If ``code`` or an option is no str.

    See Also
    --------
    array_library : CuPy or NumPy, for arrays that a kernel can be given.

    Notes
    -----
    Nothing is compiled before :meth:`get_function` of a kernel is called with arguments. In the
    simulator blocks run one after the other, the threads of each in an order that
    ``nnk.use_backend(..., seed=)`` draws; it reports divergent barriers, and data races and
    accesses out of bounds in the shared memory of the templates. It is that of ``sm_90``, or of
    what `nnkernels.use_backend` says. Shared memory that the kernel declares itself is poisoned,
    but not watched; nor is global memory.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkernels import own
    >>> module = own.RawModule('''
    ... #include "platform/gpu.cuh"
    ... #include "nnk/block/softmax_row.cuh"
    ... extern "C" __global__ void normalise(const float* x, float* y, int length) {
    ...   nnk::Group<32> group;
    ...   const int row = blockIdx.x * length;
    ...   nnk::softmax_row(group, x + row, y + row, length);
    ... }''')
    >>> x, y = np.zeros((2, 4), np.float32), np.empty((2, 4), np.float32)
    >>> module.get_function("normalise")((2,), (32,), (x, y, np.int32(4)))
    >>> y[0].tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    def __init__(
        self,
        code: str,
        options: tuple[str, ...] = (),
        name_expressions: Any = None,
        *,
        path: str = "kernel.cu",
    ) -> None:
        options = tuple(options) if not isinstance(options, str) else (options,)
        for what, text in (("code", code), *(("an option", option) for option in options)):
            if not isinstance(text, str):
                raise DTypeError(f"{what} must be a str; got {type(text).__name__}")
        self.code, self.path = code, path
        self.options = options
        self.name_expressions = tuple(name_expressions or ())
        self._lock = threading.Lock()
        self._module: Any = None

    def get_function(self, name: str) -> RawKernel:
        """A kernel of the module.

        Parameters
        ----------
        name : str
            Its name, ``extern "C"``, or one of the name expressions.

        Returns
        -------
        RawKernel
            Called with grid, block and arguments.
        """
        return RawKernel._of(self, name)

    def _own_headers(self) -> str:
        """Hash of the files that the text includes from directories of its options."""
        directories = [Path(d) for d in _include_directories(self.options)]
        digest, seen, todo = hashlib.sha256(), set(), [self.code]
        while todo:
            for name in re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', todo.pop(), re.MULTILINE):
                found = next((d / name for d in directories if (d / name).is_file()), None)
                if found is not None and found not in seen:
                    seen.add(found)
                    todo.append(found.read_text(encoding="utf-8", errors="replace"))
                    digest.update(todo[-1].encode())
        return digest.hexdigest()[:16]

    # ---- the two machines -----------------------------------------------------------------------

    def _simulated(self, name: str, device: Any) -> simulated_cuda.Kernel:
        defines = [f"-DNNK_OWN_HEADERS={self._own_headers()}"]
        options = iter(self.options)
        for option in options:
            if option in ("-I", "-D", "-U"):
                option += next(options, "")
            if option.startswith(("-D", "-U", "-I")):
                defines.append(option)
        return simulated_cuda.compiled(self.code, self.path, name, tuple(defines), device)

    def _by_cupy(self, cupy: Any, name: str) -> Any:
        with self._lock:
            if self._module is None:
                headers = f"-DNNK_OWN_HEADERS={self._own_headers()}"
                names = {"name_expressions": self.name_expressions} if self.name_expressions else {}
                self._module = cupy.RawModule(
                    code=self.code, options=(*compile_options(), headers, *self.options), **names
                )
            try:
                return self._module.get_function(name)
            except cupy.cuda.compiler.CompileException as error:
                raise CompileError(
                    f"the GPU's compiler failed on {self.path}: {error}", str(error)
                ) from error
            except (ImportError, OSError, RuntimeError) as error:
                raise BackendError(f"CuPy cannot give {name!r} of {self.path}: {error}") from error


class RawKernel:
    """One kernel of a source text, called as ``cupy.RawKernel``.

    Parameters
    ----------
    code, options, path
        As those of :class:`RawModule`.
    name : str
        Of the kernel, which is ``extern "C"``.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkernels import own
    >>> double = own.RawKernel('''
    ... extern "C" __global__ void twice(float* x, int n) {
    ...   const int i = blockIdx.x * blockDim.x + threadIdx.x;
    ...   if (i < n) x[i] *= 2.0f;
    ... }''', "twice")
    >>> x = np.ones(5, np.float32)
    >>> double((2,), (4,), (x, x.size))
    >>> x.tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0]
    """

    def __init__(
        self, code: str, name: str, options: tuple[str, ...] = (), *, path: str = "kernel.cu"
    ) -> None:
        self._begin(RawModule(code, options, path=path), name)

    @classmethod
    def _of(cls, module: RawModule, name: str) -> RawKernel:
        self = cls.__new__(cls)
        self._begin(module, name)
        return self

    def _begin(self, module: RawModule, name: str) -> None:
        if not isinstance(name, str):
            raise DTypeError(f"the name of a kernel must be a str; got {type(name).__name__}")
        plain = re.fullmatch(r"[A-Za-z_]\w*", name) is not None
        if not plain and name not in module.name_expressions:
            raise BackendError(f"{name!r} is not among the name_expressions of {module.path}")
        self.module, self.name = module, name
        self._kernels: dict[int, tuple[Any, int]] = {}

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Any, *, shared_mem: int = 0
    ) -> None:
        """Launch the kernel.

        Parameters
        ----------
        grid, block : tuple of int
            Blocks of the launch, and threads of a block: one to three numbers.
        args : tuple
            Arrays, all of CuPy or all of NumPy (or of a library with DLPack), for pointers; NumPy
            scalars for numbers, of the very type of the parameter. A Python int does for any
            integer and a float for a double, as in CuPy.
        shared_mem : int, optional
            Dynamic shared memory of a block, in bytes. What is more than a GPU gives without being
            asked, is asked for.

        Raises
        ------
        CompileError
            If the text does not compile; ``log`` is what the compiler said, ``source_path`` (in
            the simulator) the file that it was given.
        DTypeError
            For arguments of other number or types than the parameters (in the simulator), or
            arrays of several libraries.
        BackendError
            If the kernel is not there, does what it must not, or the launch is impossible.
        """
        shape = simulated_cuda.check_launch(grid, block, shared_mem)
        given = list(args)
        arrays = [i for i, x in enumerate(given) if _is_array(x)]
        if arrays:
            names = [f"argument {i} of kernel {self.name}" for i in arrays]
            for i, view in zip(
                arrays, adopt_all([given[i] for i in arrays], names)[0], strict=True
            ):
                given[i] = view
        if not arrays or isinstance(given[arrays[0]], np.ndarray):
            machine = _simulator()
            kernel = self.module._simulated(self.name, machine.device)
            kernel.launch(machine, grid, block, tuple(given), int(shared_mem))
        else:
            device = given[arrays[0]].device
            self._launch_by_cupy(shape, given, device, int(shared_mem))

    def _launch_by_cupy(
        self, shape: tuple[int, ...], args: list[Any], device: Any, shared: int
    ) -> None:
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(device.id):
            kernel, granted = self._kernels.get(device.id, (None, _DEFAULT_SHARED))
            if kernel is None:
                kernel = self.module._by_cupy(cupy, self.name)
            # On AMD a block may have all 64 KiB without asking, and CuPy refuses to ask.
            if shared > granted and not cupy.cuda.runtime.is_hip:
                kernel.max_dynamic_shared_size_bytes = granted = shared
            self._kernels[device.id] = kernel, granted
            # A struct goes by value as an array of one element of NumPy.
            packed = tuple(np.array([x]) if isinstance(x, np.void) else x for x in args)
            kernel(shape[:3], shape[3:], packed, shared_mem=shared)


def _is_array(x: Any) -> bool:
    if isinstance(x, np.generic):
        return False
    return isinstance(x, np.ndarray) or hasattr(type(x), "__dlpack__")


def _simulator() -> Any:
    """The simulator that use_backend names, or that of sm_90."""
    machine = machines.for_numpy()
    if machine.name.startswith("sim:"):
        return machine
    return machines.machine_named(f"sim:{_ARCH}")


def _include_directories(options: tuple[str, ...]) -> list[str]:
    found, following = [], False
    for option in options:
        if following:
            found.append(option)
        following = option == "-I"
        if option.startswith("-I") and not following:
            found.append(option[2:])
    return found
