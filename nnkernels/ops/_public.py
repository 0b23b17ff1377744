"""What every public op has: a complete docstring, and the way to its reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from nnkernels.dispatch import machines
from nnkernels.errors import DTypeError, TraceError
from nnkernels.interop.libraries import library_of
from nnkernels.ops._documentation import documented

Function = TypeVar("Function", bound=Callable[..., Any])


def public(function: Function) -> Function:
    """Complete the docstring of a function, and let it run as its NumPy reference.

    The reference runs for NumPy arrays inside ``use_backend("reference")``, and where no
    compiler was found.
    """
    documented(function)

    @functools.wraps(function)
    def call(*arrays: Any, **options: Any) -> Any:
        # Three attribute look-ups in the ordinary case: this stands in the path of every call.
        unsure = machines.reference_selected or not machines.default_has_kernels
        if machines.recorders:
            for argument in (*arrays, *options.values()):
                for x in argument if type(argument) in (list, tuple) else (argument,):
                    record = machines.recorders.get(type(x))
                    if record is not None:
                        return record(function.__name__, arrays, options)
        if unsure and on_cpu(arrays) and machines.for_reference():
            from nnkernels.reference.run import run_reference

            return run_reference(function, arrays, options)
        return function(*arrays, **options)

    return cast(Function, call)


def on_cpu(arrays: Sequence[Any]) -> bool:
    """Whether a call is for the CPU: arrays on a GPU always run there."""
    for x in arrays:
        if type(x) is np.ndarray:
            return True
        if not isinstance(x, (int, float, complex)):
            try:
                return not library_of(x, "").on_gpu(x)
            except (DTypeError, TraceError):  # said again, and better, by the function itself
                return True
    return True
