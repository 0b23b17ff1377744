"""Runs a public function as its NumPy reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnkernels import registry
from nnkernels.dispatch import machines
from nnkernels.dispatch.results import adopt_out
from nnkernels.interop.libraries import adopt_all


def run_reference(
    function: Callable[..., Any], arrays: Sequence[Any], options: dict[str, Any]
) -> Any:
    """The reference of an op, on arrays of any library, with ``out`` honoured.

    Parameters
    ----------
    function : callable
        The public function below :func:`nnkernels.ops._public.public`.
    """
    with machines.use_machine(machines.DRY):
        function(*arrays, **options)  # all its checks, and no kernel
    op = registry.find(function.__name__)
    options = dict(options)
    out = options.pop("out", None)
    given = [(x, name) for x, name in zip(arrays, op.arrays, strict=False) if x is not None]
    found, library, like = adopt_all([x for x, _ in given], [name for _, name in given])
    left = iter(found)
    result = op.reference(*(None if x is None else next(left) for x in arrays), **options)
    if out is None:
        if isinstance(result, tuple):
            return tuple(library.restore(np.asarray(r), like) for r in result)
        return library.restore(np.asarray(result), like)
    adopt_out(out, "out", library, like)[...] = result
    return out
