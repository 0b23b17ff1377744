"""What every public op has: a complete docstring, and the way to its reference."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from nnkernels.dispatch import machines
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
        # Two attribute look-ups in the ordinary case: this stands in the path of every call.
        if machines.reference_selected or not machines.default_has_kernels:
            from nnkernels.reference.run import applies, run_reference

            if applies(arrays) and machines.for_reference():
                return run_reference(function, arrays, options)
        return function(*arrays, **options)

    return cast(Function, call)
