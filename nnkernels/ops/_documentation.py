"""Docstring sections that many functions share, written once.

A docstring names a shared piece in braces on a line of its own; ``documented`` puts the piece
in its place when the module is imported, so that ``help(nnk.gelu)`` shows the whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

_PARAMETERS = "Parameters\n----------\n"

_OPERAND = """\
x : array
    Of any shape and strides, and of {dtypes}."""

_REAL = "float16, bfloat16, float32 or float64"
_REAL_OR_COMPLEX = "float16, bfloat16, float32, float64, complex64 or\n    complex128"
_REAL_OR_INTEGER = "float16, bfloat16, float32, float64 or integers of\n    any width"

_OPERANDS = """\
x, gate : array
    Of shapes that broadcast together, any strides, and of float16, bfloat16, float32 or
    float64."""

_COTANGENT = """\
dy : array
    The cotangent: the gradient of the loss with respect to the result of `{forward}`."""

_OUT = """\
out : array, optional
    Where to write the result: an array of its shape and dtype, of any strides. {overlap}

Returns
-------
array
    {result}

"""

_IN_PLACE = "It may be an\n    operand itself, but must not overlap one in another way."
_APART = "It must not\n    overlap an operand."

_RAISES = """\
Raises
------
DTypeError
    If an operand is no array or of a dtype that is not supported, if the libraries or dtypes of
    operands do not go together, or if ``out`` is read-only or of another dtype than the result.
ShapeError
    If the shapes do not fit together, an axis is out of range or given twice, or if ``out`` has
    another shape than the result, or memory in common with itself or an operand.
BackendError
    If arrays are on different devices, or a kernel cannot be compiled."""

_OPTION_ERRORS = """
TypeError, ValueError
    If an option is of the wrong type, or out of its range."""

_EXAMPLES = """\
Examples
--------
>>> import numpy as np
>>> import nnkernels as nnk"""

_RESULT = "Of the library, shape, dtype and memory order of ``x``."
_HALF_RESULT = "Of the library and dtype of ``x``, and its shape with half the axis."
_ROW_RESULT = "Of the library and dtype of ``x``, without the reduced axes."
_BROADCAST_RESULT = "Of the broadcast shape and the promoted dtype of the operands."
_GRADIENT = "The gradient of the operand, of its shape and the promoted dtype of the arguments."
_ROW_GRADIENT = "The gradient of the operand, of the shape and dtype that ``dy`` and ``y`` share."
_GRADIENTS = """\
Returns
-------
dx, dgate : array
    Of the shapes of ``x`` and ``gate``, summed over the axes along which those were broadcast,
    and of the promoted dtype of the operands."""


_EPILOGUE = """\
epilogue : str or function, optional
    What is applied to the sums before they are rounded and written: the name of an activation
    of nnkernels such as ``"relu"``, the function, ``functools.partial`` of one with its options, or
    any elementwise function of the sums and the operands, as :func:`fuse` takes it.
operands : tuple of arrays and numbers, optional
    Further arguments of that function. Arrays broadcast to the result; numbers are run-time
    arguments. Of a function that returns a tuple so is the result, and ``out``."""

_OUT_DTYPE = """\
out_dtype : dtype, optional
    dtype of the result: another of the same kind, such as ``"int32"`` for int8 operands or
    ``"float32"`` for float16 ones. Default: the promoted dtype of the operands."""

_PRECISION = """\
precision : {None, "tf32"}, optional
    ``"tf32"`` permits rounding float32 operands to TF32 (10 bits of the significand, each element
    off by up to 2^-11 of itself): NVIDIA GPUs from compute capability 8.0 multiply them several
    times as fast. Elsewhere, and for other dtypes, nothing changes. Default: never."""

_EPILOGUE_ERRORS = """\
TypeError, ValueError
    If an option is of the wrong type, or names no activation or precision."""

_PRODUCT_RAISES = f"""\
Raises
------
ShapeError
    Naming both shapes: if the inner sizes differ, an operand has too few axes, the batch shapes
    do not broadcast, what is added does not broadcast to the result, or ``out`` does not fit.
DTypeError
    If an operand is no array or of an unsupported dtype, if the dtypes have no common one or do
    not go with ``out_dtype``, the scalars or the activation, or if ``out`` is read-only or of
    another dtype.
BackendError
    If arrays are on different devices, or a kernel cannot be compiled.
{_EPILOGUE_ERRORS}"""

_PRODUCT_NOTES = """\
Sums are in float32 for float16 and bfloat16, in float64 for float64, in 32 bits for integers up
to 32 bits and in 64 bits beyond, where overflow wraps; what follows the sum is computed in that
type too, and the result is rounded once. K = 0 gives empty sums, which are 0. NaN and inf propagate
as IEEE 754 has it."""

_PADDING = """\
padding : int, str or tuple, default 0
    Zeros around x: an integer for all spatial axes, or for each of them an integer or a pair
    ``(low, high)``; ``"valid"``, none; ``"same"``, so many that there are ``ceil(n / stride)``
    windows, an odd one at the end; or ``"same_lower"``, the same with an odd one at the start."""

_CONV_RAISES = """\
Raises
------
ShapeError
    Naming the shapes, if axes, channels or groups do not fit together, or with the arithmetic, if
    a window does not fit into the padded image.
DTypeError
    If an operand is no array or of an unsupported dtype, or the dtypes have no common one.
BackendError
    If arrays are on different devices, or a kernel cannot be compiled.
TypeError, ValueError
    If an option is of the wrong type, or out of its range."""

_GRADIENT_REFERENCES = """\
References
----------
M. B. Giles, "Collected matrix derivative results for forward and reverse mode algorithmic
differentiation", Advances in Automatic Differentiation, Springer, 2008."""


_VARIANCE_EPS = """\
eps : float, default 1e-5
    Added to the variance; 0 or more. The variance is divided by the number of elements."""

_CHANNEL_PARAMETERS = """\
weight, bias : array, optional
    Of shape (channels,), and of the dtype of ``x`` or float32."""

_NORM_COTANGENT = """\
dy : array
    The cotangent: the gradient of the loss with respect to the result of the norm, of its shape
    and dtype and any strides.
x : array
    What was normalised: the operand of the norm, or with a ``residual`` the sum of both."""

_NORM_CHANNELS = """\
weight, bias : array, optional
    The parameters, one number for each channel. Of ``bias`` only the shape and dtype are used,
    unless there is an activation.
axis : int, default 1
    The axis of the channels."""

_NORM_DRESIDUAL = """\
activation : str or function, optional
    As in the norm. What is before it is then computed once more, and not rounded.
dresidual : array, optional
    Of the shape and dtype of ``x``: is added to ``dx``. With a ``residual``, the cotangent of the
    sum."""

_NORM_GRADIENTS = """\
Returns
-------
dx : array
    Of the shape, dtype and memory order of ``x``.
dweight, dbias : array or None
    Of the shapes and dtypes of ``weight`` and ``bias``; None without these."""

_NORM_OPTIONS = """\
residual : array, optional
    Of the shape and dtype of ``x``. The sum ``x + residual`` is normalised then, and returned too.
activation : str or function, optional
    What is applied to the result before it is rounded and written: the name of an activation of
    nnkernels such as ``"silu"``, the function, or ``functools.partial`` of one with its options."""

_FUNCTIONS = """\
prologue : function, optional
    What is applied to ``x`` before anything else, in the same kernel: a function as `fuse` takes
    it, of the element of ``x`` and its operands. Its result is what the op is of, and decides the
    dtype; where it returns a tuple, the other values are further results, which come last.
prologue_operands : tuple of arrays and numbers
    Further arguments of the prologue; arrays broadcast to the shape of ``x``.
epilogue : function or str, optional
    What is applied to the result before it is rounded and written; or the name of an activation.
    Where it returns a tuple, its values stand for the result.
operands : tuple of arrays and numbers
    Further arguments of the epilogue; arrays broadcast to the shape of the result."""

_NORM_OUT = """\
out : array, optional
    Where to write y: an array of its shape and dtype, of any strides. It may be ``x`` or
    ``residual`` itself, but must not overlap an operand in another way.

Returns
-------
y : array
    Of the library, shape, dtype and memory order of ``x``.
total : array
    With a residual, the sum, like y."""

_NORM_RAISES = """\
Raises
------
ShapeError
    Naming the argument and both shapes, if a weight, a bias or a residual is of a wrong shape, an
    axis is out of range or given twice, groups do not divide the channels, or ``out`` does not fit.
DTypeError
    If an operand is no array or of a dtype that does not go with that of ``x``.
BackendError
    If arrays are on different devices, or a kernel cannot be compiled.
TypeError, ValueError
    If an option is of the wrong type, or out of its range."""

_NORM_NOTES = """\
Statistics and everything that follows are in float32 (float64 for float64), and the result is
rounded once. The sum with a residual is rounded to the dtype of ``x`` before it is normalised, as
two separate functions would. Sums of squares are of deviations from the mean, so that a mean that
is large beside them does no harm. A row that holds NaN or an infinity becomes NaN; a constant row
becomes ``bias``, unless ``eps`` is 0: then it is 0 / 0, NaN."""


_IMAGE = """\
x : array
    Of shape (N, C, *spatial) with one to three spatial axes, any strides, and of {dtypes}.
    Channels-last images are views with the channel axis moved, and as fast."""

_IMAGE_REAL = "float16, bfloat16, float32\n    or float64"
_IMAGE_ANY = "float16, bfloat16, float32,\n    float64 or integers"

_KERNEL = """\
kernel_size : int or tuple of int
    Taps of a window along every spatial axis."""

_WINDOWS = """\
stride : int or tuple of int, optional
    Elements from window to window. Default: `kernel_size`.
padding : int, tuple or str, default 0
    An int, one int or one pair (low, high) for each spatial axis, ``"valid"``, ``"same"`` (extra
    at the end) or ``"same_lower"``. It may be larger than a window.
dilation : int or tuple of int, default 1
    Elements from tap to tap.
ceil_mode : bool, default False
    Whether a last window that reaches past the padding counts."""

_WINDOWS_AGAIN = """\
stride, padding, dilation, ceil_mode
    As in `{forward}`."""

_OUTPUT_SIZE = """\
output_size : int or tuple of int
    Windows along every spatial axis. Window o of m sees the elements from floor(o n / m) to
    ceil((o + 1) n / m) of n."""

_POOL_OUT = """\
out : array, optional
    Where to write {what}: an array of its shape and dtype, of any strides. It must not overlap an
    operand.

Returns
-------
{result}"""

_POOLED = """\
y : array
    Of shape (N, C, *windows), and of the library, dtype and memory order of ``x``."""

_INDICES = """\
return_indices : bool or "taps", default False
    Whether to return the places of the maxima too, or for the gradient alone their taps, of an
    eighth of the size."""

_POOLED_INDICES = """\
indices : array
    With `return_indices`, int64 in the shape of y: where the maximum is, as a flat index into its
    plane, or -1 for a window of padding alone. Of taps, its number among those of its window, in
    row-major order: uint8 where a window has up to 255 taps, 255 for a window of padding alone,
    else of wider signed integers, and -1."""

_TAPS = """\
taps : array, optional
    What `{forward}` returned with ``return_indices="taps"``. Without it the maxima are looked up in
    ``x`` again."""

_POOL_RAISES = """\
Raises
------
ShapeError
    If an array has not the rank or shape that it must have, windows do not fit into the padded
    image (with the arithmetic), an option has another number of entries than there are spatial
    axes, or ``out`` does not fit.
DTypeError
    If an argument is no array or of a dtype that is not supported, or dtypes do not go together.
BackendError
    If arrays are on different devices, or a kernel cannot be compiled.
TypeError, ValueError
    If an option is of the wrong type, or out of its range."""

_UNFOLDED = """\
stride, dilation : int or tuple of int, default 1
    Elements from window to window, and from tap to tap, along each spatial axis.
padding : int, tuple or str, default 0
    Zeros around the image: one number, one for each spatial axis, one (low, high) for each,
    ``"valid"`` for none, or ``"same"`` (``"same_lower"``) for as many windows as elements over the
    stride, an odd one at the end (at the beginning)."""

_WINDOW_OUT = """\
out : array, optional
    Where to write the result: an array of its shape and dtype, of any strides. It must not overlap
    an operand.

Returns
-------
array
    Of the library and dtype of the first argument.

Raises
------
DTypeError
    If an operand is no array or of a dtype that is not supported, or if ``out`` is read-only or of
    another dtype than the result.
ShapeError
    If a shape does not go with the options (with the arithmetic), or if ``out`` has another shape
    than the result, or memory in common with itself or an operand.
BackendError
    If arrays are on different devices, or a kernel cannot be compiled.
TypeError, ValueError
    If an option is of the wrong type, or out of its range."""

_SUM_NOTES = """\
Sums are in float32 (float64 for float64), in one order whatever the layout and the number of
threads, and without atomic operations: results are the same bit for bit in every run."""


def _parameters(*parts: str) -> str:
    return _PARAMETERS + "\n".join(parts)


def _end(result: str, more: str = "", overlap: str = _IN_PLACE) -> str:
    """``out`` and the sections that follow the parameters."""
    return _OUT.format(result=result, overlap=overlap) + _RAISES + more


def _pieces(name: str) -> dict[str, str]:
    """Every shared piece, as it reads in the docstring of one function."""
    forward = name.removesuffix("_backward")
    cotangent = _COTANGENT.format(forward=forward)
    result = f"y : array\n    The result of `{forward}`: its operand is not needed."
    return {
        "{x}": _parameters(_OPERAND.format(dtypes=_REAL)),
        "{x, also complex}": _parameters(_OPERAND.format(dtypes=_REAL_OR_COMPLEX)),
        "{x, also integers}": _parameters(_OPERAND.format(dtypes=_REAL_OR_INTEGER)),
        "{x, gate}": _parameters(_OPERANDS),
        "{dy, x}": _parameters(cotangent, f"x : array\n    The operand of `{forward}`."),
        "{dy, y}": _parameters(cotangent, result),
        "{dy, x, gate}": _parameters(
            cotangent, f"x, gate : array\n    The operands of `{forward}`."
        ),
        "{out}": _end(_RESULT),
        "{out after options}": _end(_RESULT, _OPTION_ERRORS),
        "{out of half the shape}": _end(_HALF_RESULT, _OPTION_ERRORS, _APART),
        "{out of a row}": _end(_ROW_RESULT, _OPTION_ERRORS, _APART),
        "{out of two operands}": _end(_BROADCAST_RESULT),
        "{gradient}": _end(_GRADIENT),
        "{gradient after options}": _end(_GRADIENT, _OPTION_ERRORS),
        "{gradient of rows}": _end(_ROW_GRADIENT, _OPTION_ERRORS),
        "{gradients}": _GRADIENTS,
        "{raises}": _RAISES,
        "{epilogue}": _EPILOGUE,
        "{out_dtype}": _OUT_DTYPE,
        "{precision}": _PRECISION,
        "{epilogue errors}": _EPILOGUE_ERRORS,
        "{raises of products}": _PRODUCT_RAISES,
        "{notes of products}": _PRODUCT_NOTES,
        "{padding}": _PADDING,
        "{raises of convolutions}": _CONV_RAISES,
        "{references of gradients}": _GRADIENT_REFERENCES,
        "{eps of a variance}": _VARIANCE_EPS,
        "{weight and bias of channels}": _CHANNEL_PARAMETERS,
        "{residual and activation}": _NORM_OPTIONS,
        "{prologue and epilogue}": _FUNCTIONS,
        "{out of a norm}": _NORM_OUT,
        "{cotangent and operand of a norm}": _NORM_COTANGENT,
        "{parameters of channels}": _NORM_CHANNELS,
        "{activation and cotangent of a sum}": _NORM_DRESIDUAL,
        "{gradients of a norm}": _NORM_GRADIENTS,
        "{raises of norms}": _NORM_RAISES,
        "{notes of norms}": _NORM_NOTES,
        "{image}": _parameters(_IMAGE.format(dtypes=_IMAGE_REAL), _KERNEL),
        "{image, also integers}": _parameters(_IMAGE.format(dtypes=_IMAGE_ANY), _KERNEL),
        "{image to be divided}": _parameters(_IMAGE.format(dtypes=_IMAGE_REAL), _OUTPUT_SIZE),
        "{image to be divided, also integers}": _parameters(
            _IMAGE.format(dtypes=_IMAGE_ANY), _OUTPUT_SIZE
        ),
        "{windows}": _WINDOWS,
        "{windows again}": _WINDOWS_AGAIN.format(forward=forward),
        "{indices of a pooling}": _INDICES,
        "{taps}": _TAPS.format(forward=forward),
        "{out of a pooling}": _POOL_OUT.format(what="y", result=_POOLED),
        "{out of a pooling with indices}": _POOL_OUT.format(
            what="y", result=f"{_POOLED}\n{_POOLED_INDICES}"
        ),
        "{gradient of an image}": _POOL_OUT.format(
            what="dx", result="dx : array\n    Of the shape, dtype and memory order of ``x``."
        ),
        "{gradient of a shape}": _POOL_OUT.format(
            what="dx",
            result="dx : array\n    Of shape `x_shape`, dtype and memory order of ``dy``.",
        ),
        "{raises of pooling}": _POOL_RAISES,
        "{unfolded windows}": _UNFOLDED,
        "{out of windows}": _WINDOW_OUT,
        "{notes of sums}": _SUM_NOTES,
        "{examples}": _EXAMPLES,
    }


def documented(function: Function) -> Function:
    """Put the shared pieces into the docstring of a function, and return the function."""
    if function.__doc__ is None:  # python -OO
        return function
    pieces = _pieces(function.__name__)
    lines = inspect.cleandoc(function.__doc__).split("\n")
    function.__doc__ = "\n".join(pieces.get(line, line) for line in lines) + "\n"
    return function
