"""The ops as primitives of the ``autograd`` package: gradients of whole NumPy and CuPy programs.

After ``import nnkernels.interop.autograd``, or the first :func:`nnkernels.value_and_grad`, the
functions of nnkernels take the values that ``autograd`` traces beside arrays, and are recorded. All
primitives are made from the registry.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import autograd
import numpy as np
from autograd.builtins import SequenceBox
from autograd.core import VSpace, defvjp_argnums
from autograd.extend import Box, primitive
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.numpy.numpy_vspaces import ArrayVSpace, ComplexArrayVSpace

from nnkernels.dispatch import machines
from nnkernels.interop import calls
from nnkernels.registry.record import Op
from nnkernels.registry.rule import Call, Given, Rule, saving

_FUNCTIONS = sys.modules[__name__]


# ---- CuPy's arrays ------------------------------------------------------------------------------


def _teach_cupy() -> None:
    """Let autograd know CuPy's arrays, if the program has imported CuPy."""
    cupy: Any = sys.modules.get("cupy")
    if cupy is None or cupy.ndarray in VSpace.mappings:
        return

    def empty_of(space: Any, fill: Callable[..., Any]) -> Any:
        return fill(space.shape, dtype=space.dtype)

    class CupySpace(ArrayVSpace):
        def zeros(self) -> Any:
            return empty_of(self, cupy.zeros)

        def ones(self) -> Any:
            return empty_of(self, cupy.ones)

    class ComplexCupySpace(ComplexArrayVSpace):
        def zeros(self) -> Any:
            return empty_of(self, cupy.zeros)

        def ones(self) -> Any:
            return empty_of(self, cupy.ones)

    ArrayBox.register(cupy.ndarray)
    VSpace.register(
        cupy.ndarray,
        lambda x: ComplexCupySpace(x) if x.dtype.kind == "c" else CupySpace(x),
    )


# ---- calls --------------------------------------------------------------------------------------


def _wrapper(op: Op) -> Callable[..., Any]:
    def run(*arrays: Any, names: Any, options: Any) -> Any:
        result = op.call(op.function, Given(arrays, names, options))
        if isinstance(result, tuple):  # autograd has no None among several results
            return tuple(r for r in result if r is not None)
        return result

    run.__name__ = op.name
    recorded = primitive(run)

    def make_vjp(argnums: Sequence[int], ans: Any, args: Any, kwargs: Any) -> Any:
        names, options = kwargs["names"], kwargs["options"]
        rule = calls.rule_for(op, names)
        given = Given(args, names, options)
        missing = calls.missing_results(op, names, args, options)
        call = Call(
            tuple(x if n in rule.keeps else None for x, n in zip(args, names, strict=True)),
            names,
            tuple(None if x is None else tuple(getattr(x, "shape", ())) for x in args),
            _kept_result(rule, ans, options),
            options,
            tuple(i in argnums and n not in op.constant for i, n in enumerate(names)),
        )
        activated = calls.activation_of(op, given), ans if op.fused else None

        def pull(cotangent: Any) -> tuple[Any, ...]:
            several = _is_tuple(ans)
            cotangents = [cotangent[i] for i in range(len(ans))] if several else [cotangent]
            if missing is not None:
                found = iter(cotangents)
                cotangents = [None if is_missing else next(found) for is_missing in missing]
            gradients = calls.differentiated(
                _FUNCTIONS, op, rule, call, activated, cotangents, _opaque_pull
            )
            return tuple(_filled(gradients[i], args[i]) for i in argnums)

        return pull

    defvjp_argnums(recorded, make_vjp)

    def call(*arguments: Any, **options: Any) -> Any:
        given = calls.sorted_call(op, arguments, options)
        activation = calls.activation_of(op, given)
        if activation is not None and not activation.takes_result:
            operand = call(*arguments, **given.without(op.fused).options)
            return getattr(_FUNCTIONS, activation.name)(operand, **activation.options)
        hides = False
        if op.gradient is not None and any(isinstance(x, Box) for x in given.arrays):
            given, hides = saving(op.gradient.of(given.names), given)
        result = recorded(*given.arrays, names=given.names, options=given.options)
        if hides:
            return result[0]
        missing = calls.missing_results(op, given.names, given.arrays, given.options)
        if missing is None:
            return result
        places = iter(range(len(missing)))
        return tuple(None if is_missing else result[next(places)] for is_missing in missing)

    call.__name__ = call.__qualname__ = op.name
    call.__module__ = __name__
    call.__doc__ = op.function.__doc__
    return call


def _kept_result(rule: Rule, result: Any, options: dict[str, Any]) -> Any:
    parts = tuple(result[i] for i in range(len(result))) if _is_tuple(result) else result
    return rule.kept_result(parts, options)


def _is_tuple(result: Any) -> bool:
    while isinstance(result, Box):
        result = result._value
    return isinstance(result, tuple)


def _filled(gradient: Any, operand: Any) -> Any:
    """A gradient; zeros where there is none."""
    return operand * 0.0 if gradient is None else gradient


# ---- gradients of gradients that are no compositions of ops -------------------------------------


def _opaque_pull(op: Op, call: Call, cotangents: Sequence[Any]) -> Sequence[Any]:
    found = _pullback(
        *cotangents, *call.arrays, op=op, count=len(cotangents), names=call.names,
        options=call.options, wanted=call.wanted,
    )  # fmt: skip
    places = iter(range(sum(call.wanted)))
    return [found[next(places)] if is_wanted else None for is_wanted in call.wanted]


@primitive
def _pullback(
    *given: Any, op: Op, count: int, names: Any, options: Any, wanted: Sequence[bool]
) -> Any:
    rule = op.gradient
    assert rule is not None
    arrays = given[count:]
    shapes = tuple(tuple(np.shape(a)) for a in arrays)
    call = Call(arrays, names, shapes, None, options, tuple(wanted))
    found = rule.pull(None, call, *given[:count])
    return tuple(g for g, is_wanted in zip(found, wanted, strict=True) if is_wanted)


def _no_third(argnums: Any, ans: Any, args: Any, kwargs: Any) -> Any:
    raise TypeError(f"{kwargs['op'].forward} has no third derivative")


defvjp_argnums(_pullback, _no_third)


def _of_boxes(name: str, arrays: Sequence[Any], options: dict[str, Any]) -> Any:
    if name not in _wrapped:
        raise TypeError(f"{name} has no gradient")
    return _wrapped[name](*arrays, **options)


def value_and_grad(function: Callable[..., Any], argnum: Any = 0) -> Callable[..., Any]:
    """See :func:`nnkernels.value_and_grad`."""
    _teach_cupy()
    return autograd.value_and_grad(function, argnum)


def _unpacked(x: Any) -> Any:
    """The traced arrays in a traced list."""
    return [x[i] for i in range(len(x))] if isinstance(x, SequenceBox) else x


_wrapped = calls.wrapped(_FUNCTIONS, _wrapper, _unpacked)
globals().update(_wrapped)
for _kind in Box.type_mappings.values():
    machines.recorders[_kind] = _of_boxes
__all__ = [*_wrapped, "value_and_grad"]
