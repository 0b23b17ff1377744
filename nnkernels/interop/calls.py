"""What the wrappers for PyTorch, JAX and autograd have in common: calls of ops as plain values.

Nothing here knows a library; nothing there knows an op.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from nnkernels import registry
from nnkernels.differentiation import operands_inside
from nnkernels.dispatch import machines
from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.errors import DTypeError
from nnkernels.ops._activation import Activation, resolve
from nnkernels.registry.record import Op
from nnkernels.registry.rule import Call, Chain, Given, Rule

_ACTIVATION = "activation function"  # a key that no option of an activation has


def sorted_call(op: Op, positional: Sequence[Any], options: dict[str, Any]) -> Given:
    """The arguments of a call of a wrapper, which has no ``out``.

    Raises
    ------
    TypeError
        For too many arguments, an ``out``, or a fused function inside the op.
    """
    _refuse_out(op, options)
    if has_functions(op, options):
        raise TypeError(
            f"{op.name} with a fused function inside is not recorded here: call it with "
            "nnkernels.vjp, which gives its gradients"
        )
    given = op.sorted_arguments(positional, options)
    if len(given.names) != len(given.arrays):
        raise TypeError(
            f"{op.name} takes {len(op.arrays)} array arguments; got {len(given.arrays)}"
        )
    return given


def has_functions(op: Op, options: dict[str, Any]) -> bool:
    """Whether a call has fused functions inside, whose gradients are not the op's own rule."""
    return bool(op.functions) and bool(options) and operands_inside(op, options) is not None


def activation_of(op: Op, given: Given) -> Activation | None:
    """The activation that a call applies and whose gradient is not part of the op's own."""
    return resolve(given.options.get(op.fused), op.fused) if op.fused else None


def differentiated(
    functions: Any,
    op: Op,
    rule: Rule,
    call: Call,
    activated: tuple[Activation | None, Any],
    cotangents: Sequence[Any],
    opaque: Callable[..., Sequence[Any]],
) -> list[Any]:
    """The gradients of a call, made with the functions of a wrapper.

    Parameters
    ----------
    functions : object
        It has the wrapped functions as attributes.
    activated : tuple
        The activation, and the result to which it was applied, from which its gradient follows.
    opaque : callable
        ``opaque(op, call, cotangents)`` does what rules do that are for arrays alone.
    """
    activation, result = activated
    if activation is not None:
        backward = getattr(functions, f"{activation.name}_backward")
        cotangents = (backward(cotangents[0], result, **activation.options), *cotangents[1:])
    if op.auxiliary:
        cotangents = (cotangents[0], *(None,) * (len(cotangents) - 1))
    found: Sequence[Any]
    if rule.composed:
        found = rule.pull(functions, call, *cotangents)
    else:
        found = opaque(op, call, cotangents)
    return [g if w else None for g, w in zip(found, call.wanted, strict=True)]


def rule_for(op: Op, names: tuple[str, ...]) -> Rule:
    """The gradient rule of a call.

    Raises
    ------
    TypeError
        If the op has none.
    """
    if op.gradient is None:
        if op.is_gradient:
            raise TypeError(
                f"{op.forward} has no second derivative: {op.name} has no gradient of its own"
            )
        raise TypeError(f"{op.name} has no gradient")
    return op.gradient.of(names)


def wrapped(
    functions: Any, make: Callable[[Op], Any], unpacked: Callable[[Any], Any] = lambda x: x
) -> dict[str, Any]:
    """The functions of a wrapper by name.

    An op whose arguments are lists of arrays is made of others. The gradients of such ops are not
    there: what records calls makes them of others, too.

    Parameters
    ----------
    functions : module
        The wrapper.
    make : callable
        Wraps any other op.
    unpacked : callable
        Gives the list for what a library makes of one.
    """
    found = {}
    for op in registry.all_ops().values():
        if not op.lists:
            found[op.name] = make(op)
        elif op.chain is not None:
            found[op.name] = _composed(functions, op, op.chain, unpacked)
    return found


def _composed(
    functions: Any, op: Op, chain: Chain, unpacked: Callable[[Any], Any]
) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        _refuse_out(op, options)
        given = {name: unpacked(value) for name, value in options.items()}
        return chain.composition(functions, *map(unpacked, arguments), **given)

    call.__name__ = call.__qualname__ = op.name
    call.__module__ = functions.__name__
    call.__doc__ = op.function.__doc__
    return call


def _refuse_out(op: Op, options: dict[str, Any]) -> None:
    if "out" in options:
        raise TypeError(f"{op.name} takes no out here: its result is recorded, and must be new")


# ---- results ------------------------------------------------------------------------------------


def missing_results(op: Op, names: Sequence[str], arrays: Sequence[Any], options: Any) -> Any:
    """For each result whether it is None; None if that depends on nothing."""
    if not op.is_gradient or op.outputs == 1:
        return None
    from nnkernels.ops._options import wanted

    present = {n for n, a in zip(names, arrays, strict=True) if a is not None}
    chosen = wanted(options.get("wrt"), op.outputs)
    operands = op.arrays[1 : 1 + op.outputs]
    return tuple(n not in present or not c for n, c in zip(operands, chosen, strict=True))


def outline(
    op: Op, given: Given, described: Sequence[tuple[Shape, Shape, str] | None]
) -> tuple[tuple[Shape, Shape, str] | None, ...]:
    """Shapes, strides (in elements) and dtypes of the results of a call, after all its checks.

    Parameters
    ----------
    described : sequence
        Shape, strides in elements and dtype of each array.
    """
    views = tuple(None if d is None else _standin(*d) for d in described)
    with machines.use_machine(machines.DRY):
        result = op.call(op.function, Given(views, given.names, given.options))
    results = result if isinstance(result, tuple) else (result,)
    return tuple(
        None
        if r is None
        else (r.shape, tuple(s // r.itemsize for s in r.strides), str(r.dtype.name))
        for r in results
    )


def _standin(shape: Shape, strides: Shape, dtype: str) -> np.ndarray:
    """An array of some shape and strides, with memory that nobody has touched."""
    kind = numpy_dtype(dtype)
    if 0 in shape:
        return np.empty(shape, kind)
    span = sum((n - 1) * abs(s) for n, s in zip(shape, strides, strict=True)) + 1
    memory = np.empty(span, kind)
    steps = tuple(abs(s) * kind.itemsize for s in strides)
    return np.ndarray(shape, kind, memory, 0, steps)


# ---- options as text ----------------------------------------------------------------------------


def encode(options: dict[str, Any]) -> str:
    """Options as text: what a graph can hold.

    >>> encode({"axis": (0, 1), "eps": 1e-5})
    "{'axis': (0, 1), 'eps': 1e-05}"
    """
    return _text(options)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_text, value))}{',' * (len(value) == 1)})"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return repr(value)
    if isinstance(value, Activation) or (callable(value) and not isinstance(value, type)):
        found = resolve(value, "an activation")
        assert found is not None
        return _text({_ACTIVATION: found.name, **found.options})
    name = str(getattr(value, "name", None) or getattr(value, "__name__", None) or value)
    try:  # a dtype of any library
        return repr(str(numpy_dtype(name.rpartition(".")[2]).name))
    except TypeError:
        raise TypeError(f"{value!r:.60} is no value of an option") from None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> dict[str, Any]:
    return {name: _restored(value) for name, value in ast.literal_eval(text).items()}


def decode(text: str) -> dict[str, Any]:
    """The options again."""
    return dict(_parsed(text))


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and _ACTIVATION in value:
        options = {k: v for k, v in value.items() if k != _ACTIVATION}
        return resolve(partial(registry.find(value[_ACTIVATION]).function, **options), "activation")
    return value


def check_devices(names: Sequence[str], arrays: Sequence[Any]) -> None:
    """Check that arrays are on one device.

    Raises
    ------
    BackendError
        If they are not, naming both.
    """
    from nnkernels.errors import BackendError

    first = None
    for name, array in zip(names, arrays, strict=True):
        device = getattr(array, "device", None)
        if device is None:
            continue
        if first is None:
            first = name, device
        elif device != first[1]:
            raise BackendError(
                f"{first[0]} is on the device {first[1]} and {name} on {device}; move both to one"
            )


def require_array(op: Op, name: str, x: Any, kind: str) -> DTypeError:
    """The error for an argument that is no array of the library."""
    return DTypeError(f"{name} of {op.name} must be {kind}; got {type(x).__name__} {x!r:.40}")
