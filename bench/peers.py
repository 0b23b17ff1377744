"""Who is timed: nnkernels, and the libraries whose functions do the same."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import array_functions
import fused_functions
import numpy as np
import scipy_functions
import torch_conv
import torch_functions
import torch_models
import torch_norms
import torch_pool
import torch_windows
from problems import Problem

from nnkernels import registry
from nnkernels.dispatch.dtypes import numpy_dtype

OURS = "nnkernels"
PEERS = ("numpy", "scipy", "torch", "torch_compile", "cupy")


class Unavailable(Exception):
    """A peer that cannot take part, and why."""


class Functions(NamedTuple):
    """An op in one library: a call, and one with ``out=`` where the library has that.

    ``compiles``: a first call takes far longer than others. (Ours has been called by then.)
    """

    call: Callable[..., Any]
    call_out: Callable[..., Any] | None = None
    compiles: bool = False


def as_tuple(result: Any) -> tuple[Any, ...]:
    return registry.flat(result)


class OwnLibrary:
    """nnkernels, on the arrays that the bench makes."""

    name = OURS

    def adopt(self, array: Any) -> Any:
        return array

    def export(self, array: Any) -> np.ndarray:
        return array if isinstance(array, np.ndarray) else array.get()

    def functions(self, problem: Problem) -> Functions | None:
        op = problem.record
        call = op.function
        if op.numbers or op.lists:

            def call(*arrays: Any, **out: Any) -> Any:
                positional, options = op.arguments(arrays, problem.options)
                return op.function(*positional, **options, **out)

        elif problem.options:
            call = functools.partial(op.function, **problem.options)
        parameters = inspect.signature(op.function).parameters
        if "taps" in parameters:
            call = _with_taps(problem, call)
        takes_out = op.outputs == 1 and "out" in parameters
        return Functions(call, call if takes_out else None)


def _with_taps(problem: Problem, backward: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient of a maximum, with what the forward pass keeps: as the peer's has it.

    The taps are found in the untimed first call on each set of operands.
    """
    forward = registry.find(problem.forward).function
    found: dict[int, Any] = {}

    def call(dy: Any, x: Any, **out: Any) -> Any:
        key = id(x)
        if key not in found:
            given = problem.options or {"output_size": tuple(dy.shape[2:])}
            found[key] = x, forward(x, **given, return_indices="taps")[1]
        return backward(dy, x, taps=found[key][1], **out)

    return call


class ArrayLibrary(OwnLibrary):
    """NumPy, or CuPy with its special functions: expressions as a user would write them."""

    def __init__(self, name: str, xp: Any, special: Any = None) -> None:
        self.name = name
        self._xp, self._special = xp, special

    def functions(self, problem: Problem) -> Functions | None:
        if problem.dtype == "bfloat16" and problem.record.family == "matmul":
            return None  # ml_dtypes lends NumPy a loop for it, of minutes
        is_complex = problem.dtype.startswith("complex")
        table = array_functions.table(self._xp, self._special, problem.axis, is_complex)
        if problem.record.family == "fusion":
            return Functions(fused_functions.functions(self._xp)[problem.op], None)
        function = table.get(problem.op)
        if function is None:
            return None
        takes_out = problem.op not in array_functions.WITHOUT_OUT
        return Functions(function, function if takes_out else None)


class ScipyLibrary(OwnLibrary):
    """SciPy: `special`, `signal` and `ndimage`, on NumPy arrays and in one thread."""

    name = "scipy"

    def __init__(self, scipy: Any) -> None:
        self._scipy = scipy

    def functions(self, problem: Problem) -> Functions | None:
        table = scipy_functions.table(
            self._scipy, problem.shape, problem.axis, problem.options, problem.dtype
        )
        pair = table.get(problem.op)
        return None if pair is None else Functions(*pair)


class TorchLibrary:
    """PyTorch on the very memory of the arrays, on the CPU or a GPU."""

    name = "torch"

    def __init__(self, torch: Any, threads: int) -> None:
        self._torch = torch
        torch.set_num_threads(threads)

    def adopt(self, array: Any) -> Any:
        if array.dtype.name == "bfloat16":  # NumPy's DLPack knows none: pass the bits
            return self._share(array.view("uint16")).view(self._torch.bfloat16)
        return self._share(array)

    def _share(self, array: Any) -> Any:
        if isinstance(array, np.ndarray):
            return self._torch.from_numpy(array)
        return self._torch.from_dlpack(array)

    def export(self, tensor: Any) -> np.ndarray:
        if tensor.dtype == self._torch.bfloat16:
            bits = tensor.view(self._torch.uint16).cpu().numpy()
            return bits.view(numpy_dtype("bfloat16"))
        return tensor.cpu().numpy()

    def functions(self, problem: Problem) -> Functions | None:
        if problem.record.family == "fusion":
            return Functions(fused_functions.functions(self._torch)[problem.op], None)
        functions = torch_functions.table(self._torch, problem.axis)
        functions |= torch_norms.table(self._torch, problem.axis, problem.groups)
        if problem.record.family == "pool":
            functions = torch_pool.table(self._torch, len(problem.shape), problem.options)
        if problem.record.family == "windows":
            functions = torch_windows.table(
                self._torch, problem.shape, problem.options, problem.dtype
            )
        if problem.record.family == "conv":
            functions = torch_conv.table(self._torch, problem.shape, problem.options, problem.dtype)
        if problem.record.family == "models":
            functions = torch_models.table(self._torch)
        pair = functions.get(problem.op)
        return None if pair is None else Functions(*pair)


class CompiledTorch(TorchLibrary):
    """PyTorch's own fusion of the same expressions: `torch.compile`."""

    name = "torch_compile"

    def functions(self, problem: Problem) -> Functions | None:
        if problem.record.family != "fusion":
            return None
        function = fused_functions.functions(self._torch)[problem.op]
        return Functions(self._torch.compile(function, dynamic=False), compiles=True)


Library = OwnLibrary | TorchLibrary


def open_peer(name: str, on_gpu: bool, threads: int) -> Library:
    """A peer by name.

    Raises
    ------
    Unavailable
        If it is not installed, or works on other arrays than those of this run.
    """
    if name == "numpy":
        if on_gpu:
            raise Unavailable("numpy cannot take CuPy arrays; it is a peer of --backend cpu")
        return ArrayLibrary("numpy", np)
    if name == "cupy":
        if not on_gpu:
            raise Unavailable("cupy needs arrays on a GPU; it is a peer of --backend cupy")
        import cupy
        from cupyx.scipy import special

        return ArrayLibrary("cupy", cupy, special)
    if name == "scipy":
        return _open_scipy(on_gpu)
    try:
        import torch
    except ImportError as error:
        raise Unavailable(
            f'torch cannot be imported ({error}): pip install "nnkernels[bench]"'
        ) from None
    if on_gpu and not torch.cuda.is_available():
        raise Unavailable("this torch has no GPU support")
    kind = CompiledTorch if name == "torch_compile" else TorchLibrary
    return kind(torch, threads)


def _open_scipy(on_gpu: bool) -> ScipyLibrary:
    if on_gpu:
        raise Unavailable("scipy cannot take CuPy arrays; it is a peer of --backend cpu")
    try:
        import scipy.ndimage
        import scipy.signal
        import scipy.special
    except ImportError as error:
        raise Unavailable(
            f'scipy cannot be imported ({error}): pip install "nnkernels[bench]"'
        ) from None
    return ScipyLibrary(scipy)
