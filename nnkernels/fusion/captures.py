"""What a function reads beside its arguments: whether one trace of it serves the next call."""

from __future__ import annotations

import builtins
import types
from typing import Any, NamedTuple

import numpy as np

# Modules whose attributes do not change.
_CONSTANT_MODULES = ("math", "numpy", "cupy", "nnkernels", "array_api_compat", "scipy", "torch")
_NUMBERS = (int, float, bool, np.generic, str, type(None))


class Snapshot(NamedTuple):
    """What a function found at one time.

    Attributes
    ----------
    functions, cells, names : tuple
        Each with what it held: code and defaults of functions, contents of cells, and values of
        global names.
    keyword_defaults : bool
        Whether any function has some; they change without a trace.
    """

    functions: tuple[tuple[types.FunctionType, Any, Any], ...]
    cells: tuple[tuple[types.CellType, Any], ...]
    names: tuple[tuple[dict[str, Any], str, Any], ...]
    keyword_defaults: bool

    def holds(self) -> bool:
        """Whether all are the same objects still: this is asked at every call.

        Raises
        ------
        ValueError
            If a cell has become empty.
        """
        for function, code, defaults in self.functions:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                return False
        for cell, value in self.cells:
            if cell.cell_contents is not value:
                return False
        for namespace, name, value in self.names:
            if namespace.get(name, _MISSING) is not value:
                return False
        return not self.keyword_defaults

    @property
    def values(self) -> list[Any]:
        """All that was found."""
        found: list[Any] = []
        for function, code, defaults in self.functions:
            found += [code, *(defaults or ()), *(function.__kwdefaults__ or {}).values()]
        found += [value for _, value in self.cells]
        return found + [value for _, _, value in self.names]

    def key(self) -> Any:
        """All that was found as a key: one of equal numbers is as good as another."""
        return tuple(map(_key, self.values))


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
        self._functions: list[types.FunctionType] = []
        self._cells: list[types.CellType] = []
        self._names: list[tuple[dict[str, Any], str]] = []
        self._visit_function(function)

    def snapshot(self) -> Snapshot:
        """What is captured now.

        Raises
        ------
        ValueError
            If a cell is empty.
        """
        return Snapshot(
            tuple((f, f.__code__, f.__defaults__) for f in self._functions),
            tuple((cell, cell.cell_contents) for cell in self._cells),
            tuple((space, name, space.get(name, _MISSING)) for space, name in self._names),
            any(f.__kwdefaults__ for f in self._functions),
        )

    def identities(self) -> frozenset[int]:
        """The identities of captured numbers."""
        found = self.snapshot().values
        return frozenset(id(value) for value in found if isinstance(value, _NUMBERS))

    def _visit_function(self, function: Any) -> None:
        if not isinstance(function, types.FunctionType):
            self.known = False
            return
        if any(function is known for known in self._functions):
            return
        self._functions.append(function)
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._visit_value(default)
        for cell in function.__closure__ or ():
            self._cells.append(cell)
            try:
                self._visit_value(cell.cell_contents)
            except ValueError:  # an empty cell
                self.known = False
        namespace = function.__globals__
        for name in _globals_of(function.__code__):
            if name in namespace or not hasattr(builtins, name):
                self._names.append((namespace, name))
                self._visit_value(namespace.get(name, _MISSING))

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
