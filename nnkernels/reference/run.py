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

# Fused functions of row kernels, and their operands.
FUNCTION_OPTIONS = ("prologue", "prologue_operands", "epilogue", "operands")


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
    inside = [options.pop(name, None) for name in FUNCTION_OPTIONS]
    positional = list(arrays)
    for name, place in reversed(op.numbers):
        if name not in options and place < len(positional):
            options[name] = positional.pop(place)
    named = dict(zip(op.arrays, positional, strict=False))
    named |= {name: options.pop(name) for name in op.array_options if name in options}
    given = [name for name, x in named.items() if x is not None]
    found, library, like = adopt_all([named[name] for name in given], given)
    named |= dict(zip(given, found, strict=True))
    if any(inside[::2]) and op.family in ("rows", "norm"):
        functions = _Functions(inside, library, like)
        return functions.run(op, len(positional), named, options, out, restored)
    options |= {n: x for n, x in zip(FUNCTION_OPTIONS, inside, strict=True) if x is not None}
    if options.get("operands"):
        from nnkernels.fusion.inside import adopt_operands, fused_of

        function = fused_of(options["epilogue"])
        options["operands"] = adopt_operands(function, 1, options["operands"], library, like)
    positional, options = op.arguments(
        [named.pop(name) for name in op.arrays[: len(positional)]], options
    )
    result = op.reference(*positional, **options, **named)
    if isinstance(out, (tuple, list)):
        for one, part in zip(out, result, strict=True):
            adopt_out(one, "out", library, like)[...] = part
        return out
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


class _Functions:
    """A prologue and an epilogue of a row kernel, or one of them, and their operands."""

    def __init__(self, given: Sequence[Any], library: Any, like: Any) -> None:
        from nnkernels.fusion.inside import adopt_operands
        from nnkernels.ops._functions import functions_of

        prologue, before, epilogue, after = given
        found = functions_of(prologue, before or (), epilogue, after or ())
        assert found is not None
        self.prologue, self.epilogue = found.prologue, found.epilogue
        self.library, self.like = library, like
        self.before: Sequence[Any] = ()
        self.after: Sequence[Any] = ()
        if found.prologue is not None:
            operands = found.prologue_operands
            self.before = adopt_operands(found.prologue, 1, operands, library, like)
        if found.epilogue is not None:
            self.after = adopt_operands(found.epilogue, 1, found.operands, library, like)

    def run(
        self,
        op: Any,
        count: int,
        named: dict[str, Any],
        options: dict[str, Any],
        out: Any,
        restored: Callable[[Any], Any],
    ) -> Any:
        """The reference of an op on what the prologue makes, and the epilogue of that."""
        from nnkernels.reference import fusion

        first = op.arrays[0]
        x = named[first]
        dtype, extras = x.dtype, []
        made = x.astype(np.float64) if self.prologue is None else x
        if self.prologue is not None:
            (made, *others), dtypes, _ = fusion.inside(self.prologue, x, x.dtype, self.before)
            dtype = dtypes[0]
            extras = [o.astype(d) for o, d in zip(others, dtypes[1:], strict=True)]
        total = named.pop("residual", None)
        if total is not None:
            total = (made + total.astype(np.float64)).astype(dtype)
            made = total.astype(np.float64)
        named[first] = made
        positional, options = op.arguments([named.pop(name) for name in op.arrays[:count]], options)
        result = op.reference(*positional, **options, **named)
        y, *rest = result if isinstance(result, tuple) else (result,)
        results: tuple[Any, ...] = (y,)
        dtypes, several = (dtype,), False
        if self.epilogue is not None:
            results, dtypes, several = fusion.inside(self.epilogue, y, dtype, self.after)
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = [np.asarray(r).astype(d) for r, d in zip(results, dtypes, strict=True)]
        if out is not None:
            outs = tuple(out) if several else (out,)
            for given, value in zip(outs, rounded, strict=True):
                adopt_out(given, "out", self.library, self.like)[...] = value
        own = list(map(restored, rounded)) if out is None else list(outs)
        found = (*own, *map(restored, [*([] if total is None else [total]), *rest, *extras]))
        return found if several or len(found) > 1 else found[0]
