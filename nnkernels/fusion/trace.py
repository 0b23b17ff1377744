"""Tracers: what a fused function is called with to find out what it computes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import nnkernels
from nnkernels.dispatch import dtypes, machines
from nnkernels.dispatch.dtypes import ELEMENTS, numpy_dtype
from nnkernels.errors import DTypeError, TraceError
from nnkernels.fusion.expression import (
    BOOL,
    OPERATIONS,
    WEAK,
    WEAK_FLOAT,
    WEAK_INT,
    Argument,
    Builder,
    Constant,
    FunctorName,
    Program,
    Source,
)

# Frames in here are not the user's: of nnkernels, and of NumPy, whose functions call it back.
_OURS = tuple(os.path.dirname(os.path.abspath(str(m.__file__))) + os.sep for m in (nnkernels, np))


def fail(what: str) -> TraceError:
    """An error with the file and line of the function that is traced."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return TraceError(f"{frame.f_code.co_filename}:{frame.f_lineno}: {what}")


class MissingAttribute(TraceError, AttributeError):
    """An attribute that arrays have and values of a fused function have not."""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.bool_, np.integer, np.floating))


class Tracer:
    """A value of a fused function while it is traced: it computes nothing and writes all down."""

    __slots__ = ("_position", "_trace")
    __array_priority__ = 1000
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, trace: Trace, position: int) -> None:
        self._trace = trace
        self._position = position

    @property
    def dtype(self) -> Any:
        """The NumPy dtype of the value."""
        name = self._trace.builder.dtype(self._position)
        if name in WEAK:
            raise fail("a Python number has no dtype before it meets an array")
        return numpy_dtype(name)

    def __repr__(self) -> str:
        return f"<value of a fused function, {self._trace.builder.dtype(self._position)}>"

    def astype(self, dtype: Any, copy: bool = True) -> Tracer:
        """The value in another dtype."""
        return self._trace.astype(self, dtype)

    def clip(self, min: Any = None, max: Any = None) -> Any:
        """The value between two bounds."""
        from nnkernels.fusion.functions import clip

        return clip(self, min, max)

    # ---- arithmetic ----------------------------------------------------------------------------

    def __pos__(self) -> Tracer:
        return self._trace.apply("positive", (self,))

    def __neg__(self) -> Tracer:
        return self._trace.apply("negative", (self,))

    def __abs__(self) -> Tracer:
        return self._trace.apply("abs", (self,))

    def __invert__(self) -> Tracer:
        return self._trace.apply("logical_not", (self,))

    def __round__(self, digits: Any = None) -> Tracer:
        if digits is not None:
            raise fail("round takes no number of digits in a fused function")
        return self._trace.apply("round", (self,))

    def __floor__(self) -> Tracer:
        return self._trace.apply("floor", (self,))

    def __ceil__(self) -> Tracer:
        return self._trace.apply("ceil", (self,))

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        return self._trace.power(self, other)

    def __rpow__(self, other: Any) -> Any:
        return self._trace.power(other, self)

    # ---- what needs the numbers, or another shape ------------------------------------------------

    def __bool__(self) -> bool:
        raise fail(
            "the truth of a value is asked for (by if, while, and, or, not, min, max or bool), and "
            "it differs from element to element; use where, & | ~, minimum or maximum"
        )

    def __float__(self) -> float:
        raise fail(
            "float() of a value of a fused function, as functions of math do; use those of numpy"
        )

    def __int__(self) -> int:
        raise fail("int() of a value of a fused function; use astype")

    def __index__(self) -> int:
        raise fail("a value of a fused function is used as an index")

    def __complex__(self) -> complex:
        raise fail("complex() of a value of a fused function")

    def __len__(self) -> int:
        raise fail("len() of a value of a fused function, which stands for one element")

    def __iter__(self) -> Any:
        raise fail("iteration over a value of a fused function, which stands for one element")

    def __contains__(self, other: Any) -> bool:
        raise fail("`in` asks for the elements of a value of a fused function")

    def __getitem__(self, index: Any) -> Any:
        raise fail("indexing of a value of a fused function, which stands for one element")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise fail("assignment to elements in a fused function; use where")

    def __matmul__(self, other: Any) -> Any:
        raise fail("@ in a fused function, which is elementwise")

    def __rmatmul__(self, other: Any) -> Any:
        raise fail("@ in a fused function, which is elementwise")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        error = fail(
            f".{name} of a value of a fused function; it has arithmetic, comparisons, dtype, "
            "astype and clip, and functions of NumPy and nnkernels take it"
        )
        raise MissingAttribute(*error.args)

    # ---- namespaces ------------------------------------------------------------------------------

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise fail("a value of a fused function is made an array")

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        from nnkernels.fusion.functions import NAMESPACE

        return NAMESPACE

    def __array_ufunc__(self, ufunc: Any, method: str, *arguments: Any, **options: Any) -> Any:
        from nnkernels.fusion import functions

        if method != "__call__":
            raise fail(f"{ufunc.__name__}.{method} in a fused function, which is elementwise")
        return functions.call_ufunc(ufunc.__name__, arguments, options)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        from nnkernels.fusion import functions

        return functions.call_function(function.__name__, arguments, options)

    def apply_functor(self, functor: Any, arrays: Any, params: Any, out: Any) -> Any:
        """An activation of nnkernels on values: see ``dispatch.elementwise.apply``."""
        if out is not None:
            raise fail(f"out= of {functor.name} in a fused function")
        if functor.outputs > 1:
            raise fail(f"{functor.name}, which is a gradient, in a fused function")
        name = FunctorName(functor.name, functor.header, functor.inputs)
        return self._trace.activation(name, arrays, functor.kinds, params)

    def refused(self, argument: str) -> TraceError:
        """The error for a function of nnkernels that needs an array."""
        frame, name = sys._getframe(1), ""
        while frame is not None and frame.f_code.co_filename.startswith(_OURS):
            if frame.f_code.co_name != "call":  # of ops._public
                name = frame.f_code.co_name
            frame = frame.f_back  # type: ignore[assignment]
        return fail(f"{name} in a fused function, which is elementwise, for its {argument}")


def _binary(name: str, reflected: bool) -> Callable[[Tracer, Any], Any]:
    def method(self: Tracer, other: Any) -> Any:
        operands = (other, self) if reflected else (self, other)
        return self._trace.apply(name, operands)

    return method


_BINARY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide",
    "floordiv": "floor_divide", "mod": "remainder", "and": "logical_and", "or": "logical_or",
    "xor": "logical_xor",
}  # fmt: skip
for _python, _name in _BINARY.items():
    setattr(Tracer, f"__{_python}__", _binary(_name, reflected=False))
    setattr(Tracer, f"__r{_python}__", _binary(_name, reflected=True))
for _python, _name in {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "eq": "equal", "ne": "not_equal",
}.items():  # fmt: skip
    setattr(Tracer, f"__{_python}__", _binary(_name, reflected=False))


class Trace:
    """One run of a function on tracers."""

    def __init__(self, captured: frozenset[int] | None) -> None:
        self.builder = Builder()
        self._captured = captured
        self._literals: dict[int, tuple[Any, int]] = {}

    def tracer(self, position: int) -> Tracer:
        """The tracer of a node."""
        return Tracer(self, position)

    # ---- operands -------------------------------------------------------------------------------

    def position_of(self, value: Any, what: str) -> int:
        """The node of an operand: a tracer, or a number of the function."""
        if isinstance(value, Tracer):
            if value._trace is not self:
                raise fail(f"{what}: a value of another fused function, kept from its tracing")
            return value._position
        if isinstance(value, (bool, np.bool_)):
            return self.builder.add("truth", (), BOOL, bool(value))
        if _is_number(value):
            return self._number(value)
        if getattr(value, "shape", None) == () and hasattr(value, "dtype"):
            try:
                return self.position_of(np.asarray(value)[()], what)
            except (TypeError, ValueError):
                pass
        kind = type(value).__name__
        shape = getattr(value, "shape", None)
        if shape is not None:
            raise fail(
                f"{what}: an array ({kind} of shape {tuple(shape)}) that is no argument of the "
                "fused function; make it one"
            )
        raise fail(f"{what}: an operand of type {kind}, which is no number")

    def _number(self, value: Any) -> int:
        # One literal is one object, however often the function uses it: then it is one value too.
        # Of what the function captures, and integers, which Python shares, the next value may be
        # shared otherwise; that would be another kernel.
        key = id(value)
        if key in self._literals:
            return self._literals[key][1]
        strong = isinstance(value, np.generic)
        if strong:
            dtype, number = value.dtype.name, value.item()
            if dtype not in ELEMENTS:
                raise fail(f"a number of dtype {dtype}, which no kernel has")
        elif isinstance(value, int):
            dtype, number = WEAK_INT, value
        else:
            dtype, number = WEAK_FLOAT, float(value)
        position = self.builder.scalar(Constant(number), dtype)
        shared = self._captured is None or key in self._captured
        if isinstance(value, float) and not shared:
            self._literals[key] = (value, position)  # which keeps the object, and so its number
        return position

    def common(self, positions: Sequence[int], what: str) -> list[int]:
        """Operands in the dtype to which they promote."""
        names = [self.builder.dtype(p) for p in positions]
        dtype = self._promoted(names, what)
        if dtype not in WEAK:
            self._check_integers(positions, dtype, what)
        return [self.builder.typed(p, dtype) for p in positions]

    def _promoted(self, names: Sequence[str], what: str) -> str:
        strong = tuple(name for name in names if name not in WEAK and name != BOOL)
        weak = {name for name in names if name in WEAK}
        if not strong:
            if weak:
                return WEAK_FLOAT if WEAK_FLOAT in weak else WEAK_INT
            return BOOL
        try:
            dtype = dtypes.promote(strong)
        except DTypeError as error:
            raise fail(f"{what}: {error}") from None
        if WEAK_FLOAT in weak and ELEMENTS[dtype].kind != "f":
            raise fail(f"{what}: a Python float with {dtype}; convert the latter by astype first")
        return dtype

    def _check_integers(self, positions: Sequence[int], dtype: str, what: str) -> None:
        if dtype == BOOL or ELEMENTS[dtype].kind == "f":
            return
        limits = np.iinfo(dtype)
        for position in positions:
            node = self.builder.nodes[position]
            if node.op == "scalar" and node.dtype == WEAK_INT:
                source = self.builder.sources[node.detail]
                if isinstance(source, Constant) and not limits.min <= source.value <= limits.max:
                    raise fail(f"{what}: {source.value} does not fit {dtype}")

    # ---- operations -----------------------------------------------------------------------------

    def apply(self, name: str, values: Sequence[Any]) -> Tracer:
        """One operation on values."""
        positions = [self.position_of(value, name) for value in values]
        if name == "positive":
            return self.tracer(positions[0])
        operation = OPERATIONS[name]
        positions = self.common(positions, name)
        dtype = self.builder.dtype(positions[0])
        if dtype == BOOL and operation.kinds != "b":
            if name in ("equal", "not_equal"):
                different = self.builder.add("logical_xor", tuple(positions), BOOL)
                if name == "not_equal":
                    return self.tracer(different)
                return self.tracer(self.builder.add("logical_not", (different,), BOOL))
            raise fail(f"{name} of bool; use & | ^ ~ and where, or astype first")
        if dtype == WEAK_INT and operation.kinds == "f":
            positions = [self.builder.typed(p, WEAK_FLOAT) for p in positions]
            dtype = WEAK_FLOAT
        kind = {BOOL: "b", WEAK_INT: "i", WEAK_FLOAT: "f"}.get(dtype)
        if kind is None:
            kind = ELEMENTS[dtype].kind
        if kind not in operation.kinds:
            if name in ("floor", "ceil", "round"):
                return self.tracer(positions[0])  # whole already
            wanted = "bool" if operation.kinds == "b" else "floating numbers"
            raise fail(f"{name} of {dtype}; it is for {wanted}, as astype makes them")
        if operation.truth and dtype in WEAK:  # of Python numbers alone
            strong = "float64" if dtype == WEAK_FLOAT else "int64"
            positions = [self.builder.typed(p, strong) for p in positions]
        result = BOOL if operation.truth else dtype
        return self.tracer(self.builder.add(name, tuple(positions), result))

    def power(self, base: Any, exponent: Any) -> Any:
        """``base ** exponent``, by products where the function has a small exponent."""
        if isinstance(base, Tracer) and _is_number(exponent):
            special = {
                1: "positive", 2: "square", 3: "cube", 4: "fourth_power",
                0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal",
            }.get(exponent)  # fmt: skip
            if isinstance(exponent, np.generic):  # which promotes
                base = self.tracer(
                    self.common([self.position_of(v, "pow") for v in (base, exponent)], "pow")[0]
                )
            if special is not None:
                return self.apply(special, (base,))
        return self.apply("pow", (base, exponent))

    def where(self, condition: Any, x: Any, y: Any) -> Tracer:
        """``x`` where a bool is true, else ``y``."""
        chosen = self.position_of(condition, "where")
        if self.builder.dtype(chosen) != BOOL:
            raise fail(f"where on a condition of {self.builder.dtype(chosen)}; it must be bool")
        a, b = self.common([self.position_of(v, "where") for v in (x, y)], "where")
        if self.builder.dtype(a) == BOOL:
            both = self.builder.add("logical_and", (chosen, a), BOOL)
            other = self.builder.add("logical_not", (chosen,), BOOL)
            other = self.builder.add("logical_and", (other, b), BOOL)
            return self.tracer(self.builder.add("logical_or", (both, other), BOOL))
        return self.tracer(self.builder.add("where", (chosen, a, b), self.builder.dtype(a)))

    def astype(self, value: Any, dtype: Any) -> Tracer:
        """A value in a dtype that is asked for."""
        try:
            # NumPy has no dtype of the name alone.
            name = "bfloat16" if dtype == "bfloat16" else np.dtype(dtype).name
        except TypeError:
            name = str(dtype).rpartition(".")[2]  # of another library, such as torch.float32
        if name != BOOL and (name not in ELEMENTS or ELEMENTS[name].kind == "c"):
            raise fail(f"astype to {dtype}, which fused functions do not have")
        position = self.position_of(value, "astype")
        if name == BOOL:
            if self.builder.dtype(position) == BOOL:
                return self.tracer(position)
            return self.apply("not_equal", (self.tracer(position), 0))
        if self.builder.dtype(position) in WEAK:
            self._promoted([name, self.builder.dtype(position)], "astype")
        position = self.builder.typed(position, name)
        if ELEMENTS[name].itemsize < ELEMENTS[name].compute_itemsize:
            position = self.builder.add("rounded", (position,), name)
        return self.tracer(position)

    def activation(
        self, functor: FunctorName, arrays: Sequence[Any], kinds: str, parameters: Sequence[Any]
    ) -> Any:
        """A functor of nnkernels on values."""
        name = functor.name
        positions = self.common([self.position_of(value, name) for value in arrays], name)
        dtype = self.builder.dtype(positions[0])
        if dtype in WEAK:
            dtype = WEAK_FLOAT
            positions = [self.builder.typed(p, dtype) for p in positions]
        elif dtype == BOOL or ELEMENTS[dtype].kind not in kinds:
            raise fail(f"{name} of {dtype}; it is for floating numbers, as astype makes them")
        numbers = [self.builder.scalar(Constant(p), dtype) for p in parameters]
        operands = (*positions, *numbers)
        return self.tracer(self.builder.add("activation", operands, dtype, functor))


def trace(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    captured: frozenset[int] | None,
) -> tuple[Program, tuple[Source, ...], bool]:
    """Run a function on tracers.

    Parameters
    ----------
    arguments : sequence
        The name of the dtype of an array; the type ``int`` or ``float`` for a number; anything
        else in a tuple of one is passed as it is.
    captured : frozenset of int
        Identities of the numbers that the function captures; None if they are not known.

    Returns
    -------
    program, sources
        What it computes, and the numbers that it needs.
    several : bool
        Whether it returns a tuple.
    """
    run = Trace(captured)
    given: list[Any] = []
    inputs: list[str] = []
    for position, argument in enumerate(arguments):
        if isinstance(argument, tuple):
            given.append(argument[0])
        elif isinstance(argument, str):
            given.append(run.tracer(run.builder.add("input", (), argument, len(inputs))))
            inputs.append(argument)
        else:
            weak = WEAK_FLOAT if argument is float else WEAK_INT
            given.append(run.tracer(run.builder.scalar(Argument(position), weak)))
    # On a machine on which nothing runs: not that of the references, which would want arrays.
    with machines.use_machine(machines.DRY):
        results = function(*given)
    several = isinstance(results, (tuple, list))
    returned = tuple(results) if several else (results,)
    if not returned:
        raise TraceError(f"{_place(function)}: the fused function returns an empty tuple")
    outputs = tuple(_output(run, value, inputs, function) for value in returned)
    program, sources = run.builder.finish(outputs, tuple(inputs))
    return program, sources, several


def _output(run: Trace, value: Any, inputs: Sequence[str], function: Any) -> int:
    if not isinstance(value, Tracer) and not _is_number(value):
        raise TraceError(
            f"{_place(function)}: the fused function returns {type(value).__name__}; it must "
            "return a value, or a tuple of values, computed from its arguments"
        )
    position = run.position_of(value, "return")
    weak = run.builder.dtype(position)
    if weak not in WEAK:
        return position
    # Python numbers alone, such as of where(x > 0, 1.0, 0.0): as the arrays, if they can hold them.
    kinds = "f" if weak == WEAK_FLOAT else "fiu"
    fitting = tuple(d for d in inputs if d != BOOL and ELEMENTS[d].kind in kinds)
    default = "float64" if weak == WEAK_FLOAT else "int64"
    try:
        dtype = dtypes.promote(fitting) if fitting else default
    except DTypeError:
        dtype = default
    return run.builder.typed(position, dtype)


def _place(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)
