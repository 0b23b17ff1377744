"""Runs a public function as its NumPy reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnkernels import registry
from nnkernels.dispatch import machines
from nnkernels.dispatch.results import adopt_out
from nnkernels.interop.libraries import adopt_all
from nnkernels.registry import Op

# Options that are arrays.
ARRAY_OPTIONS = ("residual", "dresidual")


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
    if op.lists:
        bound = inspect.signature(function).bind(*arrays, **options)
        return _run_on_lists(op, bound.args, dict(bound.kwargs))

    def restored(result: Any) -> Any:
        return None if result is None else library.restore(np.asarray(result), like)

    options = dict(options)
    out = options.pop("out", None)
    positional = list(arrays)
    for name, place in reversed(op.numbers):
        if name not in options and place < len(positional):
            options[name] = positional.pop(place)
    named = dict(zip(op.arrays, positional, strict=False))
    named |= {name: options.pop(name) for name in ARRAY_OPTIONS if name in options}
    given = [name for name, x in named.items() if x is not None]
    found, library, like = adopt_all([named[name] for name in given], given)
    named |= dict(zip(given, found, strict=True))
    positional, options = op.arguments(
        [named.pop(name) for name in op.arrays[: len(positional)]], options
    )
    result = op.reference(*positional, **options, **named)
    if out is not None:
        target = adopt_out(out, "out", library, like)
        target[...] = result[0] if isinstance(result, tuple) else result
        return (out, *map(restored, result[1:])) if isinstance(result, tuple) else out
    return tuple(map(restored, result)) if isinstance(result, tuple) else restored(result)


def _run_on_lists(op: Op, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    """The reference of an op some of whose arguments are lists of arrays."""
    out = options.pop("out", None)
    leaves = registry.flat(list(arguments))
    given = [leaf for leaf in leaves if leaf is not None]
    found, library, like = adopt_all(given, [op.name] * len(given))
    left = iter(found)

    def adopted(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [adopted(part) for part in value]
        return None if value is None else next(left)

    def restored(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(restored(part) for part in value)
        return None if value is None else library.restore(np.asarray(value), like)

    result = op.reference(*[adopted(a) for a in arguments], **options)
    if out is None:
        return restored(result)
    adopt_out(out, "out", library, like)[...] = result
    return out
