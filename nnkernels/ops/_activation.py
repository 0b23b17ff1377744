"""The activation that a kernel applies to its results: options such as ``activation="relu"``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from typing import Any

from nnkernels._typing import Array
from nnkernels.dispatch.applied import Application
from nnkernels.dispatch.elementwise import OPERAND, Functor, Traced
from nnkernels.dispatch.matmul_call import PLAIN, Epilogue
from nnkernels.dispatch.mlp import Activated, activated
from nnkernels.fusion.fuse import Fused
from nnkernels.fusion.inside import checked_operands, fused_of


@dataclass(frozen=True)
class Activation:
    """An activation function with its options.

    Attributes
    ----------
    name : str
        Of the public function.
    options : dict
        Its options, as they were given.
    functor, parameters
        What runs inside a kernel.
    """

    name: str
    options: dict[str, Any]
    functor: Functor
    parameters: tuple[complex, ...]

    def __call__(self, x: Array) -> Array:
        """The activation of an array, by a kernel of its own."""
        return self._find(self.name).function(x, **self.options)

    def reference(self, x: Array) -> Array:
        """The activation of an array by its specification."""
        return self._find(self.name).reference(x, **self.options)

    @cached_property
    def takes_result(self) -> bool:
        """Whether the gradient follows from the result (and not from the operand)."""
        return self._find(f"{self.name}_backward").arrays[1] == "y"

    def backward(self, dy: Array, residual: Array, in_place: bool = False) -> Array:
        """The gradient, from the result or the operand, and in its place if that is asked for."""
        if in_place:
            return self._backward(dy, residual, out=residual, **self.options)
        return self._backward(dy, residual, **self.options)

    @cached_property
    def _backward(self) -> Callable[..., Array]:
        function: Callable[..., Array] = self._find(f"{self.name}_backward").function
        return function

    def reference_backward(self, dy: Array, residual: Array) -> Array:
        """The gradient by its specification."""
        return self._find(f"{self.name}_backward").reference(dy, residual, **self.options)

    @cached_property
    def in_kernels(self) -> Activated:
        """What runs inside a kernel, its gradient included."""
        function = self._find(f"{self.name}_backward").function
        traced: Traced = function.__wrapped__(OPERAND, OPERAND, **self.options)
        return activated(
            (self.functor, self.parameters),
            (traced.functor, traced.parameters),
            self.takes_result,
        )

    @staticmethod
    def _find(name: str) -> Any:
        from nnkernels import registry

        return registry.find(name)


# What such an option may be: None, a name, a function of nnkernels, or that with its options.
ActivationLike = str | Callable[..., Any] | Activation | None


def resolve(value: ActivationLike, argument: str) -> Activation | None:
    """The activation that an option means.

    Parameters
    ----------
    value : str, callable or None
        A name such as ``"relu"``, a function such as ``nnk.relu``, or one with its options,
        ``functools.partial(nnk.gelu, approximate="tanh")``.
    argument : str
        Name of the option, for messages.

    Raises
    ------
    TypeError, ValueError
        If it is no activation of nnkernels, or its options are wrong.
    """
    if value is None or isinstance(value, Activation):
        return value
    if isinstance(value, str):
        return _plain(activation_named(value, argument))
    if isinstance(value, partial) and not value.args:
        return _traced(_known(value.func, argument), value.keywords)
    return _plain(_known(value, argument))


def activation_named(name: str, argument: str) -> Any:
    """The activation function of a name.

    Raises
    ------
    ValueError
        If there is none.
    """
    names = _functions()
    if name not in names:
        raise ValueError(f"{argument} must be one of {', '.join(names)}; got {name!r:.60}")
    return names[name]


def is_function(value: Any, operands: tuple[Any, ...] = ()) -> bool:
    """Whether an option is a function to be fused, rather than an activation of nnkernels.

    Of operands, if there are any.
    """
    if value is None or isinstance(value, (str, Activation)):
        return False
    if hasattr(value, "fused_function") or operands:
        return True
    inner = value.func if isinstance(value, partial) else value
    return callable(inner) and not _is_known(inner)


def _is_known(function: Any) -> bool:
    return any(function is known for known in _functions().values())


def fused(
    value: ActivationLike,
    argument: str,
    alpha: complex = 1,
    beta: complex = 1,
    operands: Any = (),
) -> Epilogue | Application:
    """What a kernel does with its sums: ``activation(alpha sum + beta c)``, or a fused function.

    Raises
    ------
    TypeError
        If the value is neither, or operands are given without a function.
    """
    if type(operands) is not tuple:
        operands = checked_operands(operands)
    if type(value) is Fused:
        return Application(value, operands, alpha, beta)
    if type(value) is str and alpha == beta == 1 and not operands:
        return _named(value, argument)
    if argument == "epilogue" and is_function(value, operands):
        return Application(fused_of(value), operands, alpha, beta)
    if operands:
        raise TypeError(
            f"operands are given, and {argument} is no function of them; got {value!r:.60}"
        )
    activation = resolve(value, argument)
    if activation is None:
        return PLAIN if alpha == beta == 1 else Epilogue(alpha, beta)
    return Epilogue(alpha, beta, activation.functor, activation.parameters)


def differentiable(
    product: Callable[[Activation | None], Array], activation: Activation | None
) -> tuple[Array, Callable[[Array], Array]]:
    """A result with its activation, and what pulls a cotangent back to before the activation.

    Parameters
    ----------
    product : callable
        Gives the result with an activation or, for None, without.
    """
    if activation is None:
        return product(None), lambda dy: dy
    if activation.takes_result:
        y = product(activation)
        return y, lambda dy: activation.backward(dy, y)
    z = product(None)
    return activation(z), lambda dy: activation.backward(dy, z)


@cache
def _functions() -> dict[str, Any]:
    """Activations of one array, by name."""
    from nnkernels.ops import activations

    names = (name for name in activations.__all__ if name != "prelu")
    return {name: getattr(activations, name) for name in names}


def _known(function: Any, argument: str) -> Any:
    if any(function is known for known in _functions().values()):
        return function
    raise TypeError(
        f"{argument} must be the name of an activation, such as 'relu', an activation function of "
        "nnkernels of one array, or functools.partial of one with its options; got "
        f"{function!r:.80}"
    )


@lru_cache(maxsize=256)
def _named(name: str, argument: str) -> Epilogue:
    activation = _plain(activation_named(name, argument))
    return Epilogue(activation=activation.functor, parameters=activation.parameters)


@cache
def _plain(function: Any) -> Activation:
    return _traced(function, {})


def _traced(function: Any, options: dict[str, Any]) -> Activation:
    if "out" in options:
        raise TypeError("an activation inside a kernel takes no out")
    # Below `public`: a traced call runs nothing, so it has no reference either.
    traced: Traced = function.__wrapped__(OPERAND, **options)
    return Activation(function.__name__, dict(options), traced.functor, traced.parameters)
