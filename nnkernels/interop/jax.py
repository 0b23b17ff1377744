"""The ops as functions of JAX, for ``jit``, ``grad``, ``vmap`` and the rest.

``from nnkernels.interop import jax as nnj``; then ``nnj.softmax(x, axis=-1)`` and the rest take
and give JAX arrays. All of them are made from the registry: ``jax.custom_vjp`` around a call of the
host, ``jax.pure_callback``, which XLA makes when it comes to it. Outside ``jit`` arrays go to the
kernels as they are, on GPUs through DLPack.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from nnkernels import registry
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.interop import calls
from nnkernels.registry.record import Op
from nnkernels.registry.rule import Call, Given, saving

_FUNCTIONS = sys.modules[__name__]
Names = tuple[str, ...]


@jax.tree_util.register_pytree_node_class
class _Static:
    """What is known while a function is traced, among what its gradient keeps."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tree_flatten(self) -> tuple[tuple[()], Any]:
        return (), self.value

    @classmethod
    def tree_unflatten(cls, value: Any, children: Any) -> _Static:
        return cls(value)


# ---- calls --------------------------------------------------------------------------------------


def _wrapper(op: Op) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        given = calls.sorted_call(op, arguments, options)
        arrays = _arrays(op, given)
        activation = calls.activation_of(op, given)
        if activation is not None and not activation.takes_result:
            operand = call(*arguments, **given.without(op.fused).options)
            return getattr(_FUNCTIONS, activation.name)(operand, **activation.options)
        return _function(op.name, given.names, calls.encode(given.options))(*arrays)

    call.__name__ = call.__qualname__ = op.name
    call.__module__ = __name__
    call.__doc__ = op.function.__doc__
    return call


def _arrays(op: Op, given: Given) -> list[Any]:
    first = given.arrays[0] if given.arrays else None
    if not isinstance(first, (jax.Array, np.ndarray)):
        raise calls.require_array(op, op.arrays[0], first, "a JAX array")
    found = []
    for name, x in zip(given.names, given.arrays, strict=True):
        if x is not None and not isinstance(x, (jax.Array, np.ndarray, int, float)):
            raise calls.require_array(op, name, x, "a JAX array")
        is_number = isinstance(x, (int, float))
        found.append(x if x is None else jnp.asarray(x, first.dtype if is_number else None))
    concrete = [
        (n, x)
        for n, x in zip(given.names, found, strict=True)
        if x is not None and not isinstance(x, jax.core.Tracer)
    ]
    calls.check_devices([n for n, _ in concrete], [x for _, x in concrete])
    return found


@lru_cache(maxsize=4096)
def _function(name: str, names: Names, text: str) -> Callable[..., Any]:
    """One call of an op, of arrays alone."""
    op = registry.find(name)
    options = calls.decode(text)

    def compute(*arrays: Any) -> Any:
        return op.call(op.function, Given(arrays, names, options))

    @jax.custom_vjp
    def function(*arrays: Any) -> Any:
        if _is_concrete(arrays):
            return _computed(compute, arrays)
        given = Given(arrays, names, options)
        results = calls.outline(op, given, [_described(x) for x in arrays])
        shapes = tuple(
            None if r is None else jax.ShapeDtypeStruct(r[0], numpy_dtype(r[2])) for r in results
        )
        wanted: Any = shapes if len(shapes) > 1 or _gives_tuple(op, given) else shapes[0]
        return _host_call(compute, wanted, arrays)

    def forward(*primals: Any) -> Any:
        rule = calls.rule_for(op, names)
        arrays = tuple(p if p is None else p.value for p in primals)
        perturbed = tuple(p is not None and p.perturbed for p in primals)
        saved, hides = saving(rule, Given((), names, options))
        called = _function(name, names, calls.encode(saved.options)) if hides else function
        result = called(*arrays)
        kept = tuple(x if n in rule.keeps else None for x, n in zip(arrays, names, strict=True))
        last = rule.kept_result(result, saved.options)
        if op.fused and op.fused in options:
            last = result[0] if isinstance(result, tuple) else result
        described = tuple(None if x is None else (tuple(x.shape), str(x.dtype)) for x in arrays)
        own = result[0] if hides else result
        return own, (kept, last, _Static((perturbed, described)))

    def backward(residuals: Any, cotangent: Any) -> Any:
        kept, result, static = residuals
        perturbed, described = static.value
        cotangents = [
            _instantiated(c) for c in (cotangent if isinstance(cotangent, tuple) else (cotangent,))
        ]
        chosen = tuple(p and n not in op.constant for p, n in zip(perturbed, names, strict=True))
        call = Call(kept, names, tuple(d and d[0] for d in described), result, options, chosen)
        given = Given(kept, names, options)
        gradients = calls.differentiated(
            _FUNCTIONS,
            op,
            calls.rule_for(op, names),
            call,
            (calls.activation_of(op, given), result),
            cotangents,
            _opaque_pull,
        )
        return tuple(_filled(g, d) for g, d in zip(gradients, described, strict=True))

    function.defvjp(forward, backward, symbolic_zeros=True)
    return function


def _gives_tuple(op: Op, given: Given) -> bool:
    return calls.missing_results(op, given.names, given.arrays, given.options) is not None


def _is_concrete(arrays: Sequence[Any]) -> bool:
    return not any(isinstance(x, jax.core.Tracer) for x in arrays)


def _computed(compute: Callable[..., Any], arrays: Sequence[Any]) -> Any:
    """Outside of any transformation: at once."""
    devices = [x.devices() for x in arrays if isinstance(x, jax.Array)]
    if devices and devices[0].pop().platform != "cpu":  # through DLPack, which all functions take
        return compute(*arrays)
    return jax.tree.map(jnp.asarray, _on_host(compute, arrays))


def _on_host(compute: Callable[..., Any], arrays: Sequence[Any]) -> Any:
    return compute(*(None if x is None else np.asarray(x) for x in arrays))


def _host_call(compute: Callable[..., Any], shapes: Any, arrays: Sequence[Any]) -> Any:
    """A call of the host in the middle of a compiled function; None is no argument of it."""
    places = [i for i, x in enumerate(arrays) if x is not None]

    def run(*given: Any) -> Any:
        filled: list[Any] = [None] * len(arrays)
        for place, x in zip(places, given, strict=True):
            filled[place] = x
        return _on_host(compute, filled)

    return jax.pure_callback(run, shapes, *(arrays[i] for i in places), vmap_method="sequential")


def _described(x: Any) -> Any:
    if x is None:
        return None
    strides = []
    step = 1
    for n in reversed(x.shape):
        strides.append(step)
        step *= n
    return tuple(x.shape), tuple(reversed(strides)), str(x.dtype)


def _instantiated(cotangent: Any) -> Any:
    """A cotangent that is known to be zero as an array; None for results without one."""
    if cotangent is None or cotangent.dtype == jax.dtypes.float0:
        return None
    if isinstance(cotangent, SymbolicZero):
        return jnp.zeros(cotangent.shape, cotangent.dtype)
    return cotangent


def _filled(gradient: Any, described: Any) -> Any:
    """JAX wants zeros where there is no gradient."""
    if described is None:
        return None
    shape, dtype = described
    if not jnp.issubdtype(dtype, jnp.inexact):
        return np.zeros(shape, jax.dtypes.float0)
    return jnp.zeros(shape, dtype) if gradient is None else gradient.astype(dtype)


# ---- gradients of gradients that are no compositions of ops -------------------------------------


def _opaque_pull(op: Op, call: Call, cotangents: Sequence[Any]) -> Sequence[Any]:
    function = _pullback(op.name, call.names, calls.encode(call.options), call.wanted)
    found = iter(function(tuple(cotangents), call.arrays))
    return [next(found) if is_wanted else None for is_wanted in call.wanted]


@lru_cache(maxsize=4096)
def _pullback(name: str, names: Names, text: str, wanted: tuple[bool, ...]) -> Callable[..., Any]:
    op, options = registry.find(name), calls.decode(text)
    rule = op.gradient
    assert rule is not None

    @jax.custom_vjp
    def function(cotangents: Any, arrays: Any) -> Any:
        count = len(cotangents)

        def compute(*given: Any) -> Any:
            operands = given[count:]
            shapes = tuple(None if a is None else tuple(a.shape) for a in operands)
            call = Call(operands, names, shapes, None, options, wanted)
            found = rule.pull(None, call, *given[:count])
            return tuple(g for g, is_wanted in zip(found, wanted, strict=True) if is_wanted)

        every = (*cotangents, *arrays)
        if _is_concrete(every):
            return _computed(compute, every)
        shapes = tuple(
            jax.ShapeDtypeStruct(a.shape, a.dtype)
            for a, is_wanted in zip(arrays, wanted, strict=True)
            if is_wanted
        )
        return _host_call(compute, shapes, every)

    def forward(*arguments: Any) -> Any:
        raise TypeError(f"{op.forward} has no third derivative")

    function.defvjp(forward, lambda kept, cotangent: ((), ()))
    return function


_wrapped = calls.wrapped(_FUNCTIONS, _wrapper)
globals().update(_wrapped)
__all__ = [*_wrapped]
