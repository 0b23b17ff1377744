"""What a function reads beside its arguments: whether one trace of it serves the next call."""

from __future__ import annotations

import builtins
import types
from collections.abc import Callable
from typing import Any

import numpy as np

# Modules whose attributes do not change.
_CONSTANT_MODULES = ("math", "numpy", "cupy", "nnkernels", "array_api_compat", "scipy", "torch")
_NUMBERS = (int, float, bool, np.generic, str, type(None))

Reader = Callable[[], Any]


class Captures:
    """The values that a function captures, and the functions it calls.

    Attributes
    ----------
    known : bool
        Whether that is all that it can read. A function that reads an attribute of an object, say,
        has to be traced at every call.
    """

    def __init__(self, function: Any) -> None:
        self.known = True
        self._readers: list[Reader] = []
        self._seen: set[int] = set()
        self._visit_function(function)

    def values(self) -> Any:
        """What is captured now, as a key: () for a function that captures nothing."""
        return tuple([_key(read()) for read in self._readers])

    def identities(self) -> frozenset[int]:
        """The identities of captured numbers."""
        found = (read() for read in self._readers)
        return frozenset(id(value) for value in found if isinstance(value, _NUMBERS))

    def _visit_function(self, function: Any) -> None:
        if not isinstance(function, types.FunctionType):
            self.known = False
            return
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        self._readers += [lambda: function.__code__]
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._visit_value(default)
        self._readers.append(lambda: function.__defaults__)
        if function.__kwdefaults__:
            self._readers.append(lambda: tuple((function.__kwdefaults__ or {}).items()))
        for cell in function.__closure__ or ():
            self._watch(lambda cell=cell: cell.cell_contents)  # type: ignore[misc]
        namespace = function.__globals__
        for name in _globals_of(function.__code__):
            if name in namespace or not hasattr(builtins, name):
                self._watch(lambda name=name: namespace.get(name, _MISSING))  # type: ignore[misc]

    def _watch(self, read: Reader) -> None:
        self._readers.append(read)
        try:
            self._visit_value(read())
        except ValueError:  # an empty cell
            self.known = False

    def _visit_value(self, value: Any) -> None:
        if isinstance(value, (*_NUMBERS, types.BuiltinFunctionType, np.ufunc)):
            return
        if isinstance(value, (types.ModuleType, type)):
            name = getattr(value, "__module__" if isinstance(value, type) else "__name__", "")
            known = name.partition(".")[0] in (*_CONSTANT_MODULES, "builtins")
            self.known = self.known and known
            return
        wrapped = getattr(value, "fused_function", None)
        if wrapped is not None:
            self._visit_function(wrapped)
            return
        origin = getattr(value, "__module__", None) or ""
        if not callable(value) or origin.partition(".")[0] not in _CONSTANT_MODULES:
            self._visit_function(value)


class _Missing:
    """A global name that is not there."""


_MISSING = _Missing()


def _key(value: Any) -> Any:
    kind = type(value)
    if kind is float and value == 0:
        return kind, str(value)  # -0.0 is no 0.0
    return kind, value


def _globals_of(code: types.CodeType) -> list[str]:
    import dis  # only now: a program that fuses nothing need not wait for it

    loads = ("LOAD_GLOBAL", "LOAD_NAME")
    names = [i.argval for i in dis.get_instructions(code) if i.opname in loads]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _globals_of(constant)
    return list(dict.fromkeys(names))
