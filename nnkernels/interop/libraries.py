"""Array libraries: whose an array is, and its NumPy or CuPy view without a copy.

A library is found by ``type(x)`` in a dictionary; none is imported that the program has not
imported itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from nnkernels.errors import BackendError, DTypeError


@dataclass(frozen=True, eq=False)
class Library:
    """How arrays of one library come in and go out.

    Attributes
    ----------
    name : str
        For messages.
    adopt : callable
        ``adopt(x, argument)`` is a NumPy or CuPy view of the same memory; ``argument`` is what a
        message calls it.
    restore : callable
        ``restore(array, like)`` is the array as one of the library and device of ``like``.
    on_gpu : callable
        ``on_gpu(x)`` is whether the memory is a GPU's.
    """

    name: str
    adopt: Callable[[Any, str], Any]
    restore: Callable[[Any, Any], Any]
    on_gpu: Callable[[Any], bool]


def _same(x: Any, argument: str) -> Any:
    return x


def _plain(x: Any, argument: str) -> np.ndarray:
    return np.asarray(x)


def _same_like(array: Any, like: Any) -> Any:
    return array


def _never(x: Any) -> bool:
    return False


def _always(x: Any) -> bool:
    return True


NUMPY = Library("numpy", _same, _same_like, _never)
# Subclasses (memmap, matrix) and NumPy scalars are taken as plain arrays.
_NUMPY_KIND = Library("numpy", _plain, _same_like, _never)
CUPY = Library("cupy", _same, _same_like, _always)

_KNOWN: dict[type, Library] = {np.ndarray: NUMPY}


def library_of(x: Any, argument: str) -> Library:
    """The library of an array.

    Raises
    ------
    DTypeError
        If it is no array, naming the argument.
    """
    kind = type(x)
    found = _KNOWN.get(kind)
    if found is None:
        if hasattr(kind, "refused"):  # a value of a function that is being fused
            raise x.refused(argument)
        found = _identify(x)
        if found is None:
            raise DTypeError(
                f"{argument} must be an array ({_what_would_do(x)}); got {_describe(x)}"
            )
        _KNOWN[kind] = found
    return found


def _what_would_do(x: Any) -> str:
    if _is_masked(type(x)):
        return "without a mask: filled() of it is one"
    return "NumPy, CuPy, or one with DLPack and the Array API"


def _describe(x: Any) -> str:
    try:
        text = " ".join(repr(x).split())
    except Exception:  # of a half-made object, whose repr is not what is wrong here
        text = ""
    return f"{type(x).__name__} {text if len(text) <= 40 else text[:37] + '...'}".strip()


def _is_masked(kind: type) -> bool:
    masked = sys.modules.get("numpy.ma")
    return masked is not None and issubclass(kind, masked.MaskedArray)


def _identify(x: Any) -> Library | None:
    kind = type(x)
    if _is_masked(kind):
        return None
    if issubclass(kind, (np.ndarray, np.generic)):
        return _NUMPY_KIND
    cupy = sys.modules.get("cupy")
    if cupy is not None and issubclass(kind, cupy.ndarray):
        return CUPY
    if hasattr(kind, "__dlpack__") and hasattr(kind, "__dlpack_device__"):
        try:
            namespace = _namespace(x)
        except TypeError:  # results could not be given back as what came in
            return None
        name = namespace.__name__.removeprefix("array_api_compat.").partition(".")[0]
        adopt, restore = partial(_adopt_dlpack, namespace), partial(_restore_dlpack, namespace)
        return Library(name, adopt, restore, _on_gpu_dlpack)
    return None


# DLPack's device types.
_CPU_DEVICES = (1, 3)  # kDLCPU, kDLCUDAHost
_GPU_DEVICES = (2, 10, 13)  # kDLCUDA, kDLROCM, kDLCUDAManaged


def _on_gpu_dlpack(x: Any) -> bool:
    try:
        return int(x.__dlpack_device__()[0]) in _GPU_DEVICES
    except (BufferError, TypeError, RuntimeError, ValueError):  # no memory: `adopt` says so
        return False


def _adopt_dlpack(namespace: Any, x: Any, argument: str) -> Any:
    _refuse_lazy(x, argument)
    importer = _importer(x, argument)
    # NumPy imports no bfloat16 from DLPack: the same bits as integers, and back.
    is_bfloat16 = x.dtype == getattr(namespace, "bfloat16", None)
    try:
        view = importer.from_dlpack(x.view(namespace.uint16) if is_bfloat16 else x)
    except (BufferError, TypeError, RuntimeError, ValueError) as error:
        raise DTypeError(
            f"{argument} is a {_module(x)} array whose memory cannot be shared through DLPack: "
            f"{error}"
        ) from error
    if importer is np and not view.flags.writeable and _module(x) == "torch":
        # NumPy before 2.1, or PyTorch before DLPack 1.0, has no word for it and NumPy says no.
        view = np.asarray(_Writable(view))
    if is_bfloat16:
        from nnkernels.dispatch.dtypes import numpy_dtype

        view = view.view(numpy_dtype("bfloat16"))
    return view


class _Writable:
    """The memory of an array, for NumPy to write: PyTorch has no tensors that are read-only."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array  # kept alive as long as this is
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def _importer(x: Any, argument: str) -> Any:
    """NumPy or CuPy: whose arrays are on the device of ``x``."""
    try:
        device = int(x.__dlpack_device__()[0])
    except (BufferError, TypeError, RuntimeError, ValueError) as error:  # no memory, such as "meta"
        raise BackendError(
            f"{argument} is on the device {getattr(x, 'device', '(unknown)')}, which cannot be "
            f"used ({error}); arrays on CPUs and CUDA or ROCm GPUs can"
        ) from error
    if device in _CPU_DEVICES:
        return np
    if device not in _GPU_DEVICES:
        raise BackendError(
            f"{argument} is on DLPack device type {device}, which cannot be used; arrays on CPUs "
            "and CUDA or ROCm GPUs can"
        )
    try:
        import cupy
    except ImportError as error:
        raise BackendError(
            f"{argument} is on a GPU, for which CuPy is needed: install cupy-cuda13x, say, or move "
            "the array to the CPU"
        ) from error
    return cupy


def _refuse_lazy(x: Any, argument: str) -> None:
    """Refuse PyTorch tensors that are more, or other, than their memory says."""
    if getattr(x, "requires_grad", False):
        raise DTypeError(
            f"{argument} requires grad, and nnkernels records nothing for autograd: give "
            "tensor.detach(), and see nnkernels.vjp for gradients"
        )
    # PyTorch gives such memory through DLPack as if nothing were to be done to it.
    if hasattr(x, "is_neg") and x.is_neg():
        raise DTypeError(
            f"{argument} is a lazily negated view, whose memory holds other numbers: give "
            "tensor.resolve_neg()"
        )


def _module(x: Any) -> str:
    return type(x).__module__.partition(".")[0]


def _restore_dlpack(namespace: Any, array: Any, like: Any) -> Any:
    if array.dtype.kind == "V":  # bfloat16; to ask for the name takes 2 microseconds
        restored = namespace.from_dlpack(array.view("uint16")).view(namespace.bfloat16)
    else:
        restored = namespace.from_dlpack(array)
    if restored.device != like.device:  # several devices with one memory, as array-api-strict has
        restored = restored.to_device(like.device)
    return restored


def _namespace(x: Any) -> Any:
    import array_api_compat

    return array_api_compat.array_namespace(x)


def adopt_all(arrays: Sequence[Any], names: Sequence[str]) -> tuple[list[Any], Library, Any]:
    """NumPy or CuPy views of the arguments, their one library, and one of the original arrays.

    Python scalars are weak: they become 0-d arrays of the dtype of the first array.

    Raises
    ------
    DTypeError
        For something that is no array, or arrays of two libraries.
    BackendError
        For arrays on two devices.
    """
    first = arrays[0]
    kind = type(first)
    alike = NUMPY if kind is np.ndarray else _KNOWN.get(kind)
    if alike is NUMPY or alike is CUPY:  # the usual calls, which nothing need be asked of
        device = None if alike is NUMPY else first.data.device_id
        for x in arrays:
            if type(x) is not kind or (device is not None and x.data.device_id != device):
                break
        else:
            return [*arrays], alike, first
    library: Library | None = None
    like: Any = None
    like_name = ""
    scalars: list[int] = []
    views: list[Any] = []
    for position, (x, name) in enumerate(zip(arrays, names, strict=True)):
        if type(x) in (int, float, complex) and len(arrays) > 1:
            scalars.append(position)
            views.append(None)
            continue
        found = library_of(x, name)
        if library is None:
            library, like, like_name = found, x, name
        elif found is not library or found is not NUMPY:
            check_together(library, found, like_name, name, like, x)
        views.append(found.adopt(x, name))
    if library is None:
        raise DTypeError(f"one of {', '.join(names)} must be an array; got only Python numbers")
    if scalars:
        array = next(view for view in views if view is not None)
        for position in scalars:
            views[position] = _weak_scalar(arrays[position], names[position], array)
    return views, library, like


def check_together(a: Library, b: Library, name_a: str, name_b: str, x: Any, y: Any) -> None:
    """Check that two arrays are of one library and on one device.

    Raises
    ------
    DTypeError, BackendError
        If they are not, naming both.
    """
    if a.name != b.name:
        raise DTypeError(
            f"{name_a} is an array of {a.name} and {name_b} one of {b.name}; give both from one "
            "library"
        )
    device_x, device_y = _device_of(x), _device_of(y)
    if device_x != device_y:
        raise BackendError(
            f"{name_a} is on the device {device_x} and {name_b} on {device_y}; move both to one"
        )


def _device_of(x: Any) -> Any:
    return "cpu" if isinstance(x, (np.ndarray, np.generic)) else x.device


def _weak_scalar(value: complex, name: str, like: Any) -> Any:
    kind = "c" if isinstance(value, complex) else "f" if isinstance(value, float) else "i"
    rank = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}
    try:
        if rank[kind] > rank.get(like.dtype.kind, 2):
            raise TypeError
        with np.errstate(over="ignore"):  # 1e6 is inf in float16, as a float of that size is
            scalar = np.asarray(value, dtype=like.dtype)
        if isinstance(like, np.ndarray):
            return scalar
        with like.device:
            return sys.modules["cupy"].asarray(scalar)
    except (TypeError, ValueError, OverflowError):
        raise DTypeError(
            f"{name} is the {type(value).__name__} {value}, which {like.dtype} cannot hold"
        ) from None
