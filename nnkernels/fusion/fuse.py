"""``fuse``: an elementwise Python function as one kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.dispatch import elementwise, machines
from nnkernels.dispatch.dtypes import ELEMENTS, name_of
from nnkernels.dispatch.results import adopt_out
from nnkernels.errors import DTypeError
from nnkernels.fusion.captures import Captures, Snapshot
from nnkernels.fusion.emit import emit
from nnkernels.fusion.expression import BOOL, Program, Source
from nnkernels.fusion.functor import FusedFunctor, functor_of, number_packer
from nnkernels.fusion.trace import Tracer, trace
from nnkernels.interop.libraries import adopt_all

# Traces that a function keeps: a program that captures another number at every call must not keep
# all of them.
_MOST_TRACES = 256


@dataclass(frozen=True, eq=False)
class Traced:
    """One trace of a function: what it computes for some kinds of arguments.

    Attributes
    ----------
    program : Program
        What is computed.
    sources : tuple
        Where its run-time numbers come from.
    several : bool
        Whether the function returns a tuple.
    arrays : tuple of int
        Positions of the arguments that are arrays.
    names : tuple of str
        Of all arguments.
    functor, numbers
        What is launched, and the function that gives the bytes of its numbers.
    """

    program: Program
    sources: tuple[Source, ...]
    several: bool
    arrays: tuple[int, ...]
    names: tuple[str, ...]
    functor: FusedFunctor
    numbers: Callable[[Sequence[Any]], bytes]


# One functor for equal programs, so that functions of one structure share plans.
shared_functor = functools.lru_cache(maxsize=1024)(functor_of)


class Fused:
    """An elementwise function as one kernel: what :func:`fuse` gives.

    Attributes
    ----------
    fused_function : callable
        The function itself.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.fused_function = function
        self._captures: Captures | None = None
        # By what is captured, and then by kinds of arguments.
        self._traces: dict[Any, dict[Any, Traced]] = {}
        self._now: tuple[Snapshot, dict[Any, Traced]] | None = None
        self._known_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"nnkernels.fuse({self.fused_function!r})"

    def __call__(self, *arguments: Any, out: Any = None) -> Any:
        """The function of arrays that broadcast together, as one kernel.

        Parameters
        ----------
        *arguments : array, number, or anything else
            Arrays of one library and device; Python ints and floats are run-time arguments of the
            kernel; any other value (bool, str, None) is given to the function as it is.
        out : array or tuple of arrays, optional
            Where the results go.

        Returns
        -------
        array, or tuple of arrays where the function returns one
            Of the library of the inputs.
        """
        plain = out is None and machines.default_has_kernels and not machines.reference_selected
        kinds: list[Any] = []
        for argument in arguments:
            kind = type(argument)
            if kind is np.ndarray:
                kinds.append(argument.dtype)
            elif kind is float or kind is int:
                kinds.append(kind)
            else:
                return self._call_other(arguments, out)
        if not plain:
            return self._call_other(arguments, out)
        traced = self._traced(kinds)
        if not traced.arrays:
            return self._call_other(arguments, out)
        arrays = (
            arguments
            if len(traced.arrays) == len(arguments)
            else [arguments[i] for i in traced.arrays]
        )
        result = elementwise.run(
            traced.functor,
            arrays,
            (),
            machines.for_numpy(),
            machines.numpy_address,
            (),
            traced.numbers(arguments),
        )
        return (result,) if traced.several and len(traced.program.outputs) == 1 else result

    def _call_other(self, arguments: tuple[Any, ...], out: Any) -> Any:
        """Any arguments."""
        for argument in arguments:
            if isinstance(argument, Tracer):  # inside another fused function
                return self.fused_function(*arguments)
        traced, views, library, like = self.adopted(arguments)
        machine, address = machines.for_array(views[0])
        outs = None if out is None else self._outs(traced, out)
        if machine is machines.REFERENCE:
            results = self._by_reference(traced, views, arguments, outs, library, like)
        elif outs is not None:
            given = outs if len(outs) > 1 else outs[0]
            elementwise.run_out(
                traced.functor, views, (), given, library, like, traced.numbers(arguments)
            )
            return out
        else:
            results = elementwise.run(
                traced.functor, views, (), machine, address, (), traced.numbers(arguments)
            )
            results = results if len(traced.program.outputs) > 1 else (results,)
        if out is not None:
            return out
        restored = tuple(library.restore(result, like) for result in results)
        return restored if traced.several else restored[0]

    def adopted(self, arguments: Sequence[Any]) -> tuple[Traced, list[Any], Any, Any]:
        """The trace for some arguments, views of the arrays, their library, and one of them."""
        kinds, positions = self._kinds(arguments)
        names = self._names(len(arguments))
        views, library, like = adopt_all(
            [arguments[i] for i in positions], [names[i] for i in positions]
        )
        for position, view in zip(positions, views, strict=True):
            kinds[position] = view.dtype
        return self._traced(kinds), views, library, like

    @staticmethod
    def _outs(traced: Traced, out: Any) -> tuple[Any, ...]:
        outs = tuple(out) if traced.several else (out,)
        if len(outs) != len(traced.program.outputs):
            raise TypeError(
                f"out must be a tuple of {len(traced.program.outputs)} arrays, one for each "
                f"result; got {len(outs)}"
            )
        return outs

    def _by_reference(
        self,
        traced: Traced,
        views: Sequence[Any],
        arguments: Sequence[Any],
        outs: tuple[Any, ...] | None,
        library: Any,
        like: Any,
    ) -> tuple[Any, ...]:
        from nnkernels.reference.fusion import evaluate, values_of

        functor, numbers = traced.functor, traced.numbers(arguments)
        with machines.use_machine(machines.DRY):  # all checks, and no kernel
            if outs is None:
                elementwise.run(
                    functor, views, (), machines.DRY, machines.numpy_address, (), numbers
                )
            else:
                given = outs if len(outs) > 1 else outs[0]
                elementwise.run_out(functor, views, (), given, library, like, numbers)
        results = evaluate(traced.program, views, values_of(traced.sources, arguments))
        for result, out in zip(results, outs or (), strict=False):
            adopt_out(out, "out", library, like)[...] = result
        return results

    def gradient(self, *arguments: Any) -> tuple[Any, Callable[..., tuple[Any, ...]]]:
        """Value and pullback: see :func:`nnkernels.vjp`."""
        from nnkernels.fusion.pullback import pullback_of

        return self(*arguments), pullback_of(self, arguments)

    # ---- tracing --------------------------------------------------------------------------------

    def _kinds(self, arguments: Sequence[Any]) -> tuple[list[Any], list[int]]:
        """What a trace depends on of the arguments that are no arrays, and where arrays are."""
        kinds: list[Any] = []
        positions = []
        for position, argument in enumerate(arguments):
            kind = type(argument)
            if kind is float or kind is int:
                kinds.append(kind)
            elif kind is bool or kind is str or argument is None:
                kinds.append((argument,))
            else:
                kinds.append(None)
                positions.append(position)
        if not positions:
            names = ", ".join(self._names(len(arguments)))
            raise DTypeError(f"one of {names} must be an array; got only numbers and options")
        return kinds, positions

    def _traced(self, kinds: Sequence[Any]) -> Traced:
        now = self._now
        try:
            if now is not None:
                snapshot, traces = now
                if not snapshot.holds():
                    traces = self._traces_now()
                found = traces.get((*kinds,))
                if found is not None:
                    return found
        except (TypeError, ValueError):  # something new that is no key, or an empty cell
            pass
        return self._trace_again(kinds)

    def _traces_now(self) -> dict[Any, Traced]:
        """The traces for what is captured now, which are looked up from here on."""
        captures = self._captures
        assert captures is not None
        snapshot = captures.snapshot()
        key = snapshot.key()
        traces = self._traces.get(key)
        if traces is None:
            if len(self._traces) >= _MOST_TRACES:
                self._traces.clear()
            traces = self._traces.setdefault(key, {})
        self._now = snapshot, traces  # at once: threads share it
        return traces

    def _trace_again(self, kinds: Sequence[Any]) -> Traced:
        captures = self._captures
        if captures is None or captures.known:  # what was unknown once stays so
            captures = Captures(self.fused_function)
        names = self._names(len(kinds))
        described = tuple(_described(k, n) for k, n in zip(kinds, names, strict=True))
        program, sources, several = trace(
            self.fused_function, described, captures.identities() if captures.known else None
        )
        arrays = tuple(i for i, k in enumerate(described) if isinstance(k, str))
        traced = Traced(
            program,
            sources,
            several,
            arrays,
            names,
            shared_functor(program, tuple(names[i] for i in arrays)),
            number_packer(program, sources, names),
        )
        self._captures = captures
        self._now = None
        if captures.known:
            traces = self._traces_now()
            if len(traces) >= _MOST_TRACES:
                traces.clear()
            traces[(*kinds,)] = traced
        return traced

    def _names(self, count: int) -> tuple[str, ...]:
        """Of so many arguments, for messages."""
        if count > len(self._known_names):
            found = [p.name for p in _positional(self.fused_function)][:count]
            found += [f"argument {i}" for i in range(len(found), count)]
            self._known_names = tuple(found)
        return self._known_names[:count]


def _described(kind: Any, name: str) -> Any:
    """An argument as ``trace`` takes it."""
    if not isinstance(kind, np.dtype):
        return kind
    found = name_of(kind)
    if found != BOOL and (
        found not in ELEMENTS or ELEMENTS[found].kind == "c" or not kind.isnative
    ):
        raise DTypeError(
            f"{name} has dtype {kind}, which fused functions do not have; they have bool, "
            "integers of 8 to 64 bits, float16, bfloat16, float32 and float64"
        )
    return found


def fuse(function: Callable[..., Any], /) -> Fused:
    """Make one kernel of an elementwise function.

    Parameters
    ----------
    function : callable
        A function of one or more values that computes one value, or a tuple of them, by
        arithmetic, comparisons, ``& | ^ ~`` of bools, functions of NumPy, CuPy or the namespace
        ``x.__array_namespace__()``, and the activation functions of nnkernels.

    Returns
    -------
    Fused
        A function of arrays that broadcast together: of NumPy, CuPy, or any library with DLPack.
        It computes all results in one kernel, with ``out=`` into given arrays.

    Raises
    ------
    TypeError
        If it is no callable. At the first call with some dtypes, :class:`TraceError` for what is
        not elementwise, with file and line of the function.

    Notes
    -----
    The function is called once for each combination of dtypes, on objects that write down what it
    does with them. Numbers in it, and those that it captures, are arguments of the kernel: with
    another number, or another shape, nothing is compiled. An exponent of -1, 1/2, -1/2, 1, 2, 3 or
    4 makes another kernel than others.

    Types promote as in the Array API, Python numbers are weak, and a bool is 0 or 1 where it meets
    numbers. Values of float16 and bfloat16 are computed in float32 and stay so until a result is
    written or ``astype`` asks for a narrow type.

    Examples
    --------
    >>> import numpy as np
    >>> import nnkernels as nnk
    >>> @nnk.fuse
    ... def scaled(x, bias):
    ...     return nnk.relu(2.0 * x + bias), x > bias
    >>> y, larger = scaled(np.array([-1.0, 2.0]), np.array([[1.0], [3.0]]))
    >>> y.tolist(), larger.tolist()
    ([[0.0, 5.0], [1.0, 7.0]], [[False, True], [False, False]])
    """
    if not callable(function):
        raise TypeError(f"function must be callable; got {function!r:.60}")
    return function if isinstance(function, Fused) else Fused(function)


def device_source(function: Callable[..., Any], /, *dtypes: Any) -> str:
    """The C++ that a fused function becomes.

    Parameters
    ----------
    function : callable
        A fused function, or one that could be.
    *dtypes : dtype
        Of its arguments, one for each array; the types ``int`` and ``float`` are Python numbers.
        With one dtype all arguments have it, and with none float32.

    Returns
    -------
    str
        A struct for namespace ``nnk`` with ``Parameters``, its run-time numbers ``s0``, ``s1``, ...
        in the order of their use, and ``apply(parameters, x0, x1, ...)`` on ``Vec``s of the
        computing types. It needs a platform header and the headers of the first lines: see
        :func:`get_include`.

    Raises
    ------
    TraceError
        For what is not elementwise.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> text = nnk.device_source(lambda x: nnk.gelu(x * 2.0), "float32")
    >>> print(text[text.index("    const auto& t0"):])  # doctest: +ELLIPSIS
        const auto& t0 = x0;
        const auto t1 = Vec<float, N>::splat(p.s0);
        const auto t2 = t0 * t1;
        const auto t3 = Gelu::apply(static_cast<const float*>(nullptr), t2);
        return t3;
      }
    };
    <BLANKLINE>
    """
    fused = fuse(function)
    given: list[Any] = [d if d in (int, float) else _numpy_dtype_of(d) for d in dtypes]
    if len(given) < 2:
        count = sum(p.default is p.empty for p in _positional(fused.fused_function))
        given = (given or [np.dtype("float32")]) * max(count, 1)
    emitted = emit(fused._traced(given).program)
    includes = "".join(f'#include "nnk/{header}.cuh"\n' for header in emitted.headers)
    return f"{includes}\n{emitted.text}\n"


def _numpy_dtype_of(dtype: Any) -> Any:
    from nnkernels.dispatch.dtypes import numpy_dtype

    return numpy_dtype(dtype) if isinstance(dtype, str) else np.dtype(dtype)


def _positional(function: Callable[..., Any]) -> list[Any]:
    """The parameters of a function that are given by position."""
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a built-in function that does not tell
        return []
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
