"""The exceptions that nnkernels raises; each is also the built-in kind a caller would expect."""

from __future__ import annotations


class ShapeError(ValueError):
    """Shapes, ranks, axes or memory layouts that an operation cannot work with."""


class DTypeError(TypeError):
    """Element types, or kinds of argument, that an operation cannot work with."""


class TraceError(TypeError):
    """Something in a function for :func:`nnkernels.fuse` that no fused kernel can do.

    The message names the operation, and the file and line of the function.
    """


class BackendError(RuntimeError):
    """A machine, compiler, cache or device that cannot do what was asked."""


class CompileError(BackendError):
    """A kernel that did not compile.

    Attributes
    ----------
    log : str
        What the compiler printed.
    source_path : str
        The generated source, kept for inspection.
    """

    def __init__(self, message: str, log: str = "", source_path: str = "") -> None:
        super().__init__(message)
        self.log = log
        self.source_path = source_path
