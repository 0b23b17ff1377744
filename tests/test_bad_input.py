"""Bad input: each a typed error that names the argument, what it got and what would do.

One row of a table is one call. The tables run on the CPU machine and on the references, which
must refuse the same calls with the same words.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from functools import partial
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import nnkernels as nnk
from nnkernels import BackendError, DTypeError, ShapeError, differentiation
from nnkernels.launch.cpu import CpuMachine

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
WIDE = X.astype(np.float64)
INTS = np.arange(12).reshape(3, 4)
COMPLEX = X.astype(np.complex64)
VECTOR = X[0].copy()
EMPTY = np.empty((0, 4), np.float32)
CUBE = np.zeros((2, 3, 4), np.float32)

ABC = np.array([["a", "b"]])
OBJECTS = np.array([[1.0, None]])
DAYS = np.array(["2020-01-01"], "M8[D]")
RECORDS = np.zeros((2, 2), [("a", "f4"), ("b", "i2")])
BIG_ENDIAN = X.astype(X.dtype.newbyteorder())
EIGHT_BITS = np.zeros((2, 2), ml_dtypes.float8_e4m3fn)


class Sparse:
    """What SciPy's sparse arrays look like from outside."""

    shape = (3, 4)
    dtype = np.dtype(np.float32)
    ndim = 2

    def toarray(self):
        return X


class Exporter:
    """DLPack, but of a library without a namespace to give a result back in."""

    def __dlpack__(self, **options):
        return X.__dlpack__(**options)

    def __dlpack_device__(self):
        return X.__dlpack_device__()


class Unprintable:
    def __repr__(self):
        raise ValueError("half made")


class Row(NamedTuple):
    """A call, the exact class of its exception, and words of the message."""

    call: Any
    error: type[Exception]
    says: tuple[str, ...]


def row(call, error, *says):
    return Row(call, error, says)


def pull_integers():
    """Pulls a cotangent of the right shape and dtype back where there is no gradient."""
    y, pullback = nnk.vjp(nnk.relu, INTS)
    return pullback(y)


NOT_ARRAYS = {
    "None": row(lambda: nnk.relu(None), DTypeError, "x must be an array", "got NoneType"),
    "list": row(lambda: nnk.relu([1.0, 2.0]), DTypeError, "x must be", "got list [1.0, 2.0]"),
    "tuple": row(lambda: nnk.softmax((1.0, 2.0)), DTypeError, "x must be", "got tuple"),
    "string": row(lambda: nnk.gelu("abc"), DTypeError, "x must be", "got str 'abc'"),
    "dict": row(lambda: nnk.logsumexp({"a": 1}), DTypeError, "x must be", "got dict"),
    "number": row(lambda: nnk.relu(1.5), DTypeError, "x must be an array", "got float 1.5"),
    "bool": row(lambda: nnk.relu(True), DTypeError, "x must be an array", "got bool True"),
    "type": row(lambda: nnk.relu(np.ndarray), DTypeError, "x must be an array", "got type"),
    "sparse": row(lambda: nnk.relu(Sparse()), DTypeError, "x must be an array", "got Sparse"),
    "no namespace": row(lambda: nnk.relu(Exporter()), DTypeError, "Array API", "got Exporter"),
    "bad repr": row(lambda: nnk.relu(Unprintable()), DTypeError, "got Unprintable"),
    "masked": row(
        lambda: nnk.relu(np.ma.array([1.0, 2.0], mask=[0, 1])),
        DTypeError, "x must be an array (without a mask", "filled()", "MaskedArray",
    ),
    "second is None": row(lambda: nnk.swiglu(X, None), DTypeError, "gate must be", "NoneType"),
    "second is a list": row(lambda: nnk.matmul(X, [[1.0]]), DTypeError, "x2 must be", "got list"),
    "two numbers": row(lambda: nnk.swiglu(1.0, 2), DTypeError, "x, gate", "only Python numbers"),
    "bool gate": row(lambda: nnk.swiglu(X, False), DTypeError, "gate must be", "bool False"),
    "glu of a list": row(lambda: nnk.glu([1.0, 2.0]), DTypeError, "x must be", "got list"),
    "glu gradient": row(lambda: nnk.glu_backward(X, [1.0]), DTypeError, "x must be", "got list"),
    "prelu x": row(lambda: nnk.prelu([[1.0]], VECTOR), DTypeError, "x must be", "got list"),
    "prelu weight": row(lambda: nnk.prelu(X, [0.5]), DTypeError, "weight must be", "got list"),
    "prelu gradient": row(
        lambda: nnk.prelu_backward(None, X, VECTOR), DTypeError, "dy must be", "got NoneType"
    ),
    "logsumexp gradient": row(
        lambda: nnk.logsumexp_backward([1.0], X, X[:, 0]), DTypeError, "dy must be", "got list"
    ),
    "logsumexp gradient x": row(
        lambda: nnk.logsumexp_backward(VECTOR, [1.0], VECTOR), DTypeError, "x must be", "got list"
    ),
    "matmul gradient": row(
        lambda: nnk.matmul_backward(1.0, VECTOR, VECTOR), DTypeError, "dy must be", "got float 1.0"
    ),
    "gemm": row(lambda: nnk.gemm(X, [[1.0]]), DTypeError, "b must be", "got list"),
    "gemm, c": row(lambda: nnk.gemm(X, X.T, [1.0]), DTypeError, "c must be", "got list"),
    "gemv": row(lambda: nnk.gemv(X, "x"), DTypeError, "x must be", "got str"),
    "linear": row(lambda: nnk.linear(X, None), DTypeError, "weight must be", "NoneType"),
    "linear, bias": row(lambda: nnk.linear(X, X, (1, 2, 3)), DTypeError, "bias must", "got tuple"),
    "linear gradient": row(
        lambda: nnk.linear_backward(2.0, X, X), DTypeError, "dy must be", "got float 2.0"
    ),
    "linear gradient, weight": row(
        lambda: nnk.linear_backward(X, X, None), DTypeError, "weight must be", "got NoneType"
    ),
    "matmul gradient, last": row(
        lambda: nnk.matmul_backward(X, X, None), DTypeError, "x2 must be", "got NoneType"
    ),
    "vjp": row(lambda: nnk.vjp(nnk.relu, [1.0]), DTypeError, "x must be an array", "got list"),
}  # fmt: skip

DTYPES = {
    "bool": row(lambda: nnk.relu(X > 0), DTypeError, "x has dtype bool", "float32", "int8"),
    "object": row(lambda: nnk.relu(OBJECTS), DTypeError, "dtype object", "supported: float16"),
    "string": row(lambda: nnk.relu(ABC), DTypeError, "x has dtype <U1", "supported"),
    "bytes": row(lambda: nnk.relu(ABC.astype("S1")), DTypeError, "x has dtype |S1", "supported"),
    "date": row(lambda: nnk.softmax(DAYS), DTypeError, "x has dtype datetime64[D]", "supported"),
    "records": row(lambda: nnk.relu(RECORDS), DTypeError, "x has dtype [('a'", "supported"),
    "long double": row(
        lambda: nnk.tanh(X.astype(np.longdouble)), DTypeError, "x has dtype float128", "float64"
    ),
    "8-bit float": row(lambda: nnk.relu(EIGHT_BITS), DTypeError, "float8_e4m3fn", "bfloat16"),
    "byte order": row(lambda: nnk.relu(BIG_ENDIAN), DTypeError, "x has dtype >f4", "byte order"),
    "byte order, rows": row(lambda: nnk.softmax(BIG_ENDIAN), DTypeError, ">f4", "byte order"),
    "byte order, matmul": row(lambda: nnk.matmul(X, BIG_ENDIAN.T), DTypeError, "x2", "byte order"),
    "softmax of integers": row(
        lambda: nnk.softmax(INTS), DTypeError, "x has dtype int64", "float16, bfloat16, float32"
    ),
    "sigmoid of integers": row(lambda: nnk.sigmoid(INTS), DTypeError, "x has dtype int64"),
    "relu of complex": row(lambda: nnk.relu(COMPLEX), DTypeError, "x has dtype complex64"),
    "softmax of complex": row(lambda: nnk.softmax(COMPLEX), DTypeError, "x has dtype complex64"),
    "glu of integers": row(lambda: nnk.glu(INTS), DTypeError, "x has dtype int64", "float32"),
    "empty array": row(lambda: nnk.softmax(EMPTY.astype(int)), DTypeError, "x has dtype int64"),
    "gate": row(lambda: nnk.swiglu(X, X > 0), DTypeError, "gate has dtype bool", "supported"),
    "weight": row(lambda: nnk.prelu(X, np.arange(4)), DTypeError, "weight has dtype int64"),
    "relu gradient": row(lambda: nnk.relu_backward(INTS, INTS), DTypeError, "dy has dtype int64"),
    "rows gradient": row(
        lambda: nnk.softmax_backward(WIDE, X), DTypeError, "y has dtype float32", "dy float64"
    ),
    "matmul of bool": row(lambda: nnk.matmul(X > 0, X.T), DTypeError, "x1 has dtype bool"),
    "matmul of two kinds": row(
        lambda: nnk.matmul(X, INTS.T), DTypeError, "float32 and int64", "convert one"
    ),
    "matmul of uint64 and int64": row(
        lambda: nnk.matmul(INTS.astype(np.uint64), INTS.T), DTypeError, "uint64 and int64"
    ),
    "weak float with integers": row(
        lambda: nnk.matmul(INTS, 1.5), DTypeError, "x2 is the float 1.5", "int64 cannot hold"
    ),
    "weak complex with floats": row(
        lambda: nnk.swiglu(X, 1j), DTypeError, "gate is the complex 1j", "float32 cannot hold"
    ),
    "weak integer too large": row(
        lambda: nnk.matmul(INTS.astype(np.int8), 300), DTypeError, "x2 is the int 300", "int8"
    ),
    "out_dtype of another kind": row(
        lambda: nnk.matmul(X, X.T, out_dtype="int32"), DTypeError, "out_dtype int32", "float32"
    ),
    "out_dtype real for complex": row(
        lambda: nnk.matmul(COMPLEX, COMPLEX.T, out_dtype="float32"), DTypeError, "out_dtype float32"
    ),
    "out_dtype bool": row(
        lambda: nnk.matmul(INTS, INTS.T, out_dtype=bool), DTypeError, "out_dtype must be", "bool"
    ),
    "out_dtype unknown": row(
        lambda: nnk.matmul(X, X.T, out_dtype="float33"), DTypeError, "out_dtype must", "'float33'"
    ),
    "out_dtype foreign": row(
        lambda: nnk.matmul(X, X.T, out_dtype=np.dtype(">f4")), DTypeError, "out_dtype must", ">f4"
    ),
    "out_dtype number": row(
        lambda: nnk.matmul(X, X.T, out_dtype=4), DTypeError, "out_dtype must be", "int 4"
    ),
    "out_dtype list": row(
        lambda: nnk.matmul(X, X.T, out_dtype=["float32"]), DTypeError, "out_dtype must be", "list"
    ),
    "alpha that is no whole number": row(
        lambda: nnk.gemm(INTS, INTS.T, alpha=0.5), DTypeError, "alpha is 0.5", "whole", "int64"
    ),
    "beta that is infinite": row(
        lambda: nnk.gemm(INTS, INTS.T, INTS[:, :1], beta=np.inf), DTypeError, "beta is inf", "whole"
    ),
    "complex alpha": row(
        lambda: nnk.gemv(X, VECTOR, alpha=1j), DTypeError, "alpha is 1j", "real", "float32"
    ),
    "c of another kind": row(
        lambda: nnk.gemm(X, X.T, INTS[:, :3]), DTypeError, "float32 and int64", "convert one"
    ),
    "activation of integers": row(
        lambda: nnk.linear(INTS, INTS, activation="gelu"), DTypeError, "Gelu", "int64"
    ),
    "activation of complex numbers": row(
        lambda: nnk.matmul(COMPLEX, COMPLEX.T, epilogue="relu"), DTypeError, "Relu", "complex64"
    ),
    "out_dtype of gemm": row(
        lambda: nnk.gemm(X, X.T, out_dtype="int32"), DTypeError, "out_dtype int32", "float32"
    ),
    "out_dtype object": row(
        lambda: nnk.matmul(X, X.T, out_dtype=object), DTypeError, "out_dtype must be", "object"
    ),
}  # fmt: skip

AXES = {
    "too large": row(
        lambda: nnk.softmax(X, axis=2), ShapeError, "axis 2 is out of range", "rank 2", "[-2, 2)"
    ),
    "too small": row(lambda: nnk.log_softmax(X, axis=-3), ShapeError, "axis -3 is out of range"),
    "in a tuple": row(lambda: nnk.softmax(X, axis=(0, 5)), ShapeError, "axis 5 is out of range"),
    "repeated": row(lambda: nnk.softmax(X, axis=(1, 1)), ShapeError, "(1, 1)", "twice"),
    "repeated from behind": row(lambda: nnk.logsumexp(X, axis=(1, -1)), ShapeError, "(1, -1)"),
    "of nothing": row(lambda: nnk.softmax(np.float32(1)), ShapeError, "axis -1", "rank 0"),
    "float": row(lambda: nnk.softmax(X, axis=1.0), TypeError, "axis must be", "float 1.0"),
    "bool": row(lambda: nnk.softmax(X, axis=True), TypeError, "axis must be", "bool True"),
    "bool after int": row(
        lambda: (nnk.softmax(X, axis=1), nnk.softmax(X, axis=(True,))), TypeError, "bool True"
    ),
    "string": row(lambda: nnk.softmax(X, axis="1"), TypeError, "axis must be", "str '1'"),
    "list": row(lambda: nnk.softmax(X, axis=[0]), TypeError, "a tuple of integers", "list [0]"),
    "array": row(lambda: nnk.softmax(X, axis=np.array(0)), TypeError, "axis must", "ndarray"),
    "None in a tuple": row(lambda: nnk.softmax(X, axis=(0, None)), TypeError, "NoneType None"),
    "gradient": row(
        lambda: nnk.softmax_backward(X, X, axis=7), ShapeError, "axis 7", "dy of rank 2"
    ),
    "glu": row(lambda: nnk.glu(X, axis=2), ShapeError, "axis 2", "x of rank 2"),
    "glu, None": row(lambda: nnk.glu(X, axis=None), TypeError, "axis must be an integer", "None"),
    "glu, tuple": row(lambda: nnk.glu(X, axis=(0,)), TypeError, "axis must be an integer", "tuple"),
    "glu, odd": row(lambda: nnk.glu(X, axis=0), ShapeError, "(3, 4)", "axis 0", "even length"),
    "glu of a number": row(lambda: nnk.glu(np.float32(1)), ShapeError, "axis -1", "rank 0"),
    "prelu": row(lambda: nnk.prelu(X, VECTOR, axis=2), ShapeError, "axis 2", "x of rank 2"),
    "prelu, bool": row(lambda: nnk.prelu(X, VECTOR, axis=True), TypeError, "bool True"),
    "logsumexp gradient": row(
        lambda: nnk.logsumexp_backward(VECTOR, X, VECTOR, axis=4), ShapeError, "axis 4", "rank 2"
    ),
}  # fmt: skip

SHAPES = {
    "gate": row(
        lambda: nnk.swiglu(X, CUBE[0].T), ShapeError, "x of shape (3, 4)", "gate of shape (4, 3)"
    ),
    "cotangent": row(lambda: nnk.relu_backward(VECTOR, X), ShapeError, "dy has", "(4,)", "(3, 4)"),
    "cotangent too large": row(
        lambda: nnk.gelu_backward(X, VECTOR), ShapeError, "dy has shape (3, 4)", "(4,)"
    ),
    "cotangent is a number": row(
        lambda: nnk.tanh_backward(1.0, X), ShapeError, "dy has shape ()", "(3, 4)"
    ),
    "cotangent of a gate": row(
        lambda: nnk.swiglu_backward(VECTOR, X, VECTOR), ShapeError, "dy has shape (4,)", "(3, 4)"
    ),
    "cotangent of glu": row(
        lambda: nnk.glu_backward(X, X), ShapeError, "dy has shape (3, 4)", "(3, 2)"
    ),
    "rows": row(
        lambda: nnk.softmax_backward(X, X[:2]), ShapeError, "y has shape (2, 4)", "dy (3, 4)"
    ),
    "logsumexp dy": row(
        lambda: nnk.logsumexp_backward(X, X, X[:, 0]), ShapeError, "dy has shape (3, 4)", "(3,)"
    ),
    "logsumexp y": row(
        lambda: nnk.logsumexp_backward(X[:, 0], X, VECTOR), ShapeError, "y has shape (4,)", "(3,)"
    ),
    "logsumexp keepdims": row(
        lambda: nnk.logsumexp_backward(X[:, 0], X, X[:, 0], keepdims=True), ShapeError, "(3, 1)"
    ),
    "weight too short": row(
        lambda: nnk.prelu(X, VECTOR[:3]), ShapeError, "weight has shape (3,)", "(4,)", "axis 1"
    ),
    "weight of rank 2": row(lambda: nnk.prelu(X, X), ShapeError, "weight has shape (3, 4)", "(4,)"),
    "matmul": row(
        lambda: nnk.matmul(X, X), ShapeError, "x1 has shape (3, 4)", "x2 (3, 4)", "last axis"
    ),
    "matmul, vector": row(
        lambda: nnk.matmul(X, X[:, 0]), ShapeError, "x1 has shape (3, 4)", "x2 (3,)", "only axis"
    ),
    "matmul, batches": row(
        lambda: nnk.matmul(CUBE, np.zeros((3, 4, 2), "f4")), ShapeError, "(2,)", "(3,)", "batch"
    ),
    "matmul, number": row(
        lambda: nnk.matmul(X, np.float32(1)), ShapeError, "(3, 4)", "()", "at least one axis"
    ),
    "matmul, Python number": row(lambda: nnk.matmul(X, 2.0), ShapeError, "(3, 4)", "()"),
    "matmul gradient": row(
        lambda: nnk.matmul_backward(X, X, X.T), ShapeError, "dy has shape (3, 4)", "(3, 3)"
    ),
    "gemm": row(lambda: nnk.gemm(X, X), ShapeError, "a has shape (3, 4)", "b (3, 4)", "last axis"),
    "gemm, transposed": row(
        lambda: nnk.gemm(X, X.T, transpose_a=True),
        ShapeError, "a transposed has shape (4, 3)", "b (4, 3)",
    ),
    "gemm of a vector": row(
        lambda: nnk.gemm(X, VECTOR), ShapeError, "a has shape (3, 4) and b (4,): b needs", "gemv"
    ),
    "gemm of a vector from the left": row(
        lambda: nnk.gemm(VECTOR, X.T), ShapeError, "a has shape (4,) and b (4, 3): a needs", "gemv"
    ),
    "gemm, batches": row(
        lambda: nnk.gemm(CUBE, np.zeros((3, 4, 2), "f4")),
        ShapeError, "a has shape (2, 3, 4)", "b (3, 4, 2)", "(2,) and (3,)",
    ),
    "gemm, c": row(
        lambda: nnk.gemm(X, X.T, VECTOR), ShapeError, "c has shape (4,)", "(3, 3)", "broadcast"
    ),
    "gemm, c of more axes": row(
        lambda: nnk.gemm(X, X.T, CUBE[:, :3, :3], beta=0), ShapeError, "c has shape", "(3, 3)"
    ),
    "gemm gradient": row(
        lambda: nnk.gemm_backward(X, X, X.T), ShapeError, "dy has shape (3, 4)", "gemm", "(3, 3)"
    ),
    "gemm gradient, c": row(
        lambda: nnk.gemm_backward(X[:, :3], X, X.T, VECTOR), ShapeError, "c has shape (4,)"
    ),
    "gemv": row(
        lambda: nnk.gemv(X, VECTOR[:3]), ShapeError, "a has shape (3, 4)", "x (3,)", "only axis"
    ),
    "gemv, stack": row(
        lambda: nnk.gemv(X, X.T), ShapeError, "a has shape (3, 4)", "x (4, 3)", "last axis of x"
    ),
    "gemv of a vector": row(
        lambda: nnk.gemv(VECTOR, VECTOR), ShapeError, "a has shape (4,) and x (4,): a needs", "two"
    ),
    "gemv, batches": row(
        lambda: nnk.gemv(CUBE, np.zeros((5, 4), "f4")),
        ShapeError, "a has shape (2, 3, 4)", "x (5, 4)", "(2,) and (5,)",
    ),
    "gemv gradient, ranks": row(
        lambda: nnk.gemv_backward(VECTOR, VECTOR, VECTOR), ShapeError, "a has shape (4,) and x (4,)"
    ),
    "gemm gradient, ranks": row(
        lambda: nnk.gemm_backward(X, X, VECTOR), ShapeError, "a has shape (3, 4) and b (4,)"
    ),
    "gemv, y": row(lambda: nnk.gemv(X, VECTOR, VECTOR), ShapeError, "y has shape (4,)", "(3,)"),
    "gemv gradient": row(
        lambda: nnk.gemv_backward(VECTOR, X, VECTOR), ShapeError, "dz has shape (4,)", "gemv"
    ),
    "linear": row(
        lambda: nnk.linear(X, X.T), ShapeError, "x has shape (3, 4)", "weight (4, 3)", "length 3"
    ),
    "linear, weight": row(
        lambda: nnk.linear(X, CUBE),
        ShapeError, "x has shape (3, 4) and weight (2, 3, 4)", "(outputs, in",
    ),
    "linear, number": row(
        lambda: nnk.linear(np.float32(1), X), ShapeError, "x has shape ()", "weight (3, 4)"
    ),
    "linear gradient, weight": row(
        lambda: nnk.linear_backward(X, X, VECTOR), ShapeError, "x has shape (3, 4)", "weight (4,)"
    ),
    "matmul gradient, operands": row(
        lambda: nnk.matmul_backward(X, X, X), ShapeError, "x1 has shape (3, 4)", "x2 (3, 4)"
    ),
    "linear, bias": row(
        lambda: nnk.linear(X, X, VECTOR), ShapeError, "bias has shape (4,)", "(3,)", "weight (3, 4)"
    ),
    "linear gradient": row(
        lambda: nnk.linear_backward(X, X, X), ShapeError, "dy has shape (3, 4)", "linear", "(3, 3)"
    ),
    "pullback": row(
        lambda: nnk.vjp(nnk.relu, X)[1](VECTOR), ShapeError, "dy has shape (4,)", "(3, 4)"
    ),
    "pullback of a sum": row(
        lambda: nnk.vjp(nnk.logsumexp, X)[1](VECTOR), ShapeError, "dy has shape (4,)", "(3,)"
    ),
    "pullback of matmul": row(
        lambda: nnk.vjp(nnk.matmul, X, X.T)[1](X), ShapeError, "dy has shape (3, 4)", "(3, 3)"
    ),
}  # fmt: skip

NORMS = {
    "weight": row(
        lambda: nnk.layer_norm(X, VECTOR[:3]), ShapeError, "weight has shape (3,)", "(3, 4)", "(4,)"
    ),
    "weight of two axes": row(
        lambda: nnk.layer_norm(X, X, axis=(1, 0)), ShapeError, "weight has shape (3, 4)", "(4, 3)"
    ),
    "bias": row(
        lambda: nnk.layer_norm(X, VECTOR, X), ShapeError, "bias has shape (3, 4)", "be (4,)"
    ),
    "RMS": row(lambda: nnk.rms_norm(X, X[:, 0]), ShapeError, "weight has shape (3,)", "be (4,)"),
    "channels": row(
        lambda: nnk.instance_norm(CUBE, VECTOR), ShapeError, "weight has shape (4,)", "be (3,)"
    ),
    "batch": row(
        lambda: nnk.batch_norm(X, VECTOR[:3], training=True), ShapeError, "weight", "(3,)", "(4,)"
    ),
    "axis twice": row(lambda: nnk.layer_norm(X, axis=(1, -1)), ShapeError, "(1, -1)", "twice"),
    "axis": row(lambda: nnk.rms_norm(X, axis=2), ShapeError, "axis 2", "rank 2"),
    "channel axis": row(lambda: nnk.group_norm(VECTOR, 2), ShapeError, "axis 1", "rank 1"),
    "batch axis": row(lambda: nnk.batch_norm(VECTOR, training=True), ShapeError, "axis 1", "rank"),
    "batch axes": row(
        lambda: nnk.batch_norm(X, training=True, axis=(0, 1)), TypeError, "axis must be"
    ),
    "groups": row(
        lambda: nnk.group_norm(X, 3), ShapeError, "num_groups is 3", "4 channels", "(3, 4)"
    ),
    "groups of a gradient": row(
        lambda: nnk.group_norm_backward(X, X, 3), ShapeError, "num_groups is 3", "(3, 4)"
    ),
    "no groups": row(lambda: nnk.group_norm(X, 0), ValueError, "num_groups must be", "not 0"),
    "half groups": row(lambda: nnk.group_norm(X, 2.0), TypeError, "num_groups must be", "float"),
    "eps": row(lambda: nnk.layer_norm(X, eps=-1e-5), ValueError, "eps must be 0 or more", "-1e-05"),
    "eps of a batch": row(
        lambda: nnk.batch_norm(X, training=True, eps=-1.0), ValueError, "eps must be 0 or more"
    ),
    "eps of a gradient": row(lambda: nnk.rms_norm_backward(X, X, eps=-1.0), ValueError, "eps must"),
    "eps text": row(lambda: nnk.rms_norm(X, eps="1"), TypeError, "eps must be a real number"),
    "offset": row(lambda: nnk.rms_norm(X, VECTOR, offset=math.inf), ValueError, "offset must be"),
    "momentum": row(
        lambda: nnk.batch_norm(X, training=True, momentum=None), TypeError, "momentum must be"
    ),
    "training": row(lambda: nnk.batch_norm(X, training=1), TypeError, "training must be True or"),
    "activation": row(lambda: nnk.layer_norm(X, activation="sine"), ValueError, "activation must"),
    "weight of float64": row(
        lambda: nnk.layer_norm(X, VECTOR.astype(float)), DTypeError, "weight", "float64", "float32"
    ),
    "weight of float16": row(
        lambda: nnk.layer_norm(X, VECTOR.astype("f2")), DTypeError, "weight", "float16", "float32"
    ),
    "weight of float32": row(
        lambda: nnk.rms_norm(WIDE, VECTOR), DTypeError, "weight has dtype float32", "float64"
    ),
    "integers": row(lambda: nnk.layer_norm(INTS), DTypeError, "x has dtype int64"),
    "complex": row(lambda: nnk.batch_norm(COMPLEX, training=True), DTypeError, "x", "complex64"),
    "weight is a list": row(
        lambda: nnk.layer_norm(X, [1.0] * 4), DTypeError, "weight must be an array", "list"
    ),
    "residual": row(
        lambda: nnk.layer_norm(X, residual=VECTOR), ShapeError, "residual has shape (4,)", "(3, 4)"
    ),
    "residual of float64": row(
        lambda: nnk.rms_norm(X, residual=WIDE), DTypeError, "residual", "float64", "float32"
    ),
    "cotangent": row(
        lambda: nnk.layer_norm_backward(VECTOR, X), ShapeError, "dy has shape (4,)", "(3, 4)"
    ),
    "cotangent of a batch": row(
        lambda: nnk.batch_norm_backward(X.T, X, training=True), ShapeError, "dy", "(4, 3)", "(3, 4)"
    ),
    "cotangent of the sum": row(
        lambda: nnk.rms_norm_backward(X, X, dresidual=X[0]), ShapeError, "dresidual has shape (4,)"
    ),
    "no cotangent": row(lambda: nnk.layer_norm_backward(None, X), DTypeError, "dy must be", "None"),
    "one element": row(
        lambda: nnk.batch_norm(X[:1], training=True), ShapeError, "training", "(1, 4)"
    ),
    "no statistics": row(lambda: nnk.batch_norm(X), ValueError, "running_mean", "training"),
    "no variance": row(
        lambda: nnk.batch_norm(X, None, None, VECTOR), ValueError, "running_var", "training"
    ),
    "statistics of integers": row(
        lambda: nnk.batch_norm(X, None, None, INTS[0], VECTOR), DTypeError, "running_mean", "int64"
    ),
    "statistics of float64": row(
        lambda: nnk.batch_norm(X, None, None, VECTOR, WIDE[0]), DTypeError, "running_var", "float64"
    ),
    "statistics too short": row(
        lambda: nnk.batch_norm(X, None, None, VECTOR, VECTOR[:3]),
        ShapeError, "running_var has shape (3,)", "(4,)",
    ),
    "statistics in training": row(
        lambda: nnk.batch_norm(X, None, None, X, VECTOR, training=True),
        ShapeError, "running_mean has shape (3, 4)", "(4,)",
    ),
}  # fmt: skip

CALLS = {
    "pullback, dtype": row(
        lambda: nnk.vjp(nnk.relu, X)[1](WIDE), DTypeError, "dy has dtype float64", "float32"
    ),
    "pullback, list": row(lambda: nnk.vjp(nnk.relu, X)[1]([1.0]), DTypeError, "dy must be", "list"),
    "pullback, none": row(lambda: nnk.vjp(nnk.relu, X)[1](), TypeError, "one cotangent", "got 0"),
    "pullback, two": row(lambda: nnk.vjp(nnk.relu, X)[1](X, X), TypeError, "one", "got 2"),
    "pullback of integers": row(pull_integers, DTypeError, "dtype int64"),
    "vjp of no op": row(lambda: nnk.vjp(np.tanh, X), TypeError, "function must be", "tanh"),
    "vjp of a string": row(lambda: nnk.vjp("relu", X), TypeError, "function must be", "'relu'"),
    "vjp of a list": row(lambda: nnk.vjp([], X), TypeError, "function must be", "[]"),
    "vjp of a gradient": row(
        lambda: nnk.vjp(nnk.lp_pool_backward, X, X, X, 2), TypeError, "lp_pool_backward has no"
    ),
    "alpha is a string": row(lambda: nnk.gemm(X, X.T, alpha="2"), TypeError, "alpha must", "str"),
    "alpha is an array": row(lambda: nnk.gemm(X, X.T, alpha=X), TypeError, "alpha must", "ndarray"),
    "alpha is a bool": row(lambda: nnk.gemm(X, X.T, alpha=True), TypeError, "alpha must", "bool"),
    "alpha is NaN": row(lambda: nnk.gemm(X, X.T, alpha=np.nan), ValueError, "alpha", "NaN"),
    "beta is complex NaN": row(
        lambda: nnk.gemm(X, X.T, beta=complex(0, np.nan)), ValueError, "beta", "NaN"
    ),
    "transpose is a number": row(
        lambda: nnk.gemm(X, X.T, transpose_a=1), TypeError, "transpose_a must be True or", "int"
    ),
    "transpose is an array": row(
        lambda: nnk.gemm(X, X.T, transpose_b=X), TypeError, "transpose_b must be True or"
    ),
    "unknown activation": row(
        lambda: nnk.linear(X, X, activation="rely"), ValueError, "activation", "relu", "'rely'"
    ),
    "activation of two arrays": row(
        lambda: nnk.linear(X, X, activation=nnk.swiglu), TypeError, "activation must be", "swiglu"
    ),
    "activation that is none of ours": row(
        lambda: nnk.matmul(X, X.T, epilogue=lambda s: s[0]), nnk.TraceError, "indexing"
    ),
    "activation with an argument": row(
        lambda: nnk.matmul(X, X.T, epilogue=partial(nnk.relu, X)), TypeError, "epilogue must be"
    ),
    "activation with out": row(
        lambda: nnk.matmul(X, X.T, epilogue=partial(nnk.relu, out=X)), TypeError, "no out"
    ),
    "activation with a bad option": row(
        lambda: nnk.matmul(X, X.T, epilogue=partial(nnk.elu, alpha="1")), TypeError, "alpha must"
    ),
    "vjp with out": row(lambda: nnk.vjp(nnk.relu, X, out=X), TypeError, "no out"),
    "vjp with an unknown option": row(lambda: nnk.vjp(nnk.relu, X, alpha=1.0), TypeError, "alpha"),
    "vjp with a bad option": row(
        lambda: nnk.vjp(nnk.elu, X, alpha=math.nan), ValueError, "alpha must not be NaN"
    ),
    "no argument": row(lambda: nnk.relu(), TypeError, "relu()", "'x'"),
    "two arguments": row(lambda: nnk.relu(X, X), TypeError, "relu()", "2 were given"),
    "array by name": row(lambda: nnk.relu(x=X), TypeError, "relu()", "'x'"),
    "option by position": row(lambda: nnk.softmax(X, 0), TypeError, "softmax()", "2 were given"),
    "unknown option": row(lambda: nnk.softmax(X, dim=0), TypeError, "softmax()", "'dim'"),
    "keepdims": row(lambda: nnk.logsumexp(X, keepdims=1), TypeError, "keepdims", "int 1"),
    "keepdims, gradient": row(
        lambda: nnk.logsumexp_backward(X[:, 0], X, X[:, 0], keepdims="no"), TypeError, "str 'no'"
    ),
    "approximation": row(
        lambda: nnk.gelu(X, approximate="exact"), ValueError, '"none", "tanh"', "'exact'"
    ),
    "approximation, None": row(lambda: nnk.gelu(X, approximate=None), ValueError, "None"),
    "approximation, list": row(lambda: nnk.gelu_backward(X, X, approximate=[]), ValueError, "[]"),
    "backend": row(lambda: nnk.use_backend("gpu").__enter__(), BackendError, "'gpu'", "sim:sm_90"),
    "backend None": row(lambda: nnk.use_backend(None).__enter__(), BackendError, "None", "cpu"),
    "architecture": row(
        lambda: nnk.use_backend("sim:sm_20").__enter__(), BackendError, "'sm_20'", "gfx90a"
    ),
    "no architecture": row(
        lambda: nnk.use_backend("sim:").__enter__(), BackendError, "''", "gfx1100"
    ),
    "seed": row(
        lambda: nnk.use_backend("sim", seed="1").__enter__(), TypeError, "seed", "str '1'"
    ),
    "threads, 0": row(lambda: nnk.set_num_threads(0), ValueError, "n must be at least 1", "got 0"),
    "threads, -1": row(lambda: nnk.set_num_threads(-1), ValueError, "at least 1", "got -1"),
    "threads, float": row(lambda: nnk.set_num_threads(2.0), TypeError, "integer", "float 2.0"),
    "threads, bool": row(lambda: nnk.set_num_threads(True), TypeError, "integer", "bool True"),
    "threads, None": row(lambda: nnk.set_num_threads(None), TypeError, "integer", "NoneType"),
    "interval": row(
        lambda: nnk.hard_tanh(X, min=2.0, max=1.0), ValueError, "min=2.0", "max=1.0", "above"
    ),
    "interval of integers": row(
        lambda: nnk.hard_tanh(INTS, min=-0.5), ValueError, "min must be a whole number", "-0.5"
    ),
    "celu": row(lambda: nnk.celu(X, alpha=0), ValueError, "alpha must not be 0"),
    "softplus": row(lambda: nnk.softplus(X, beta=-1.0), ValueError, "beta must be above 0", "-1.0"),
    "shrink": row(lambda: nnk.soft_shrink(X, lambd=-0.5), ValueError, "lambd must be 0", "-0.5"),
    "huge integer": row(lambda: nnk.elu(X, alpha=10**400), ValueError, "alpha", "float"),
}  # fmt: skip


def fixed(shape, dtype=np.float32):
    """An array that cannot be written."""
    array = np.zeros(shape, dtype)
    array.flags.writeable = False
    return array


def window():
    """A float32 array of shape (3, 4) whose rows are windows of one another."""
    return as_strided(np.zeros(6, np.float32), (3, 4), (4, 4))


def packed(shape):
    """A float32 array whose elements lie at odd addresses: the field of a packed record."""
    return np.zeros(shape, [("pad", "i1"), ("x", "f4")])["x"]


# Every row: the call with `out`, a function that makes `out`, the error and its words.
OUTS = {
    "a list": (lambda out: nnk.relu(X, out=out), lambda: [0.0], DTypeError, "out must be"),
    "a number": (lambda out: nnk.relu(X, out=out), lambda: 1.0, DTypeError, "got float 1.0"),
    "NumPy scalar": (
        lambda out: nnk.logsumexp(X, axis=None, out=out), lambda: np.float32(1),
        DTypeError, "out is the NumPy scalar", "cannot be written",
    ),
    "masked": (
        lambda out: nnk.relu(X, out=out), lambda: np.ma.zeros((3, 4), np.float32),
        DTypeError, "out must be an array (without a mask",
    ),
    "tuple": (lambda out: nnk.relu(X, out=out), lambda: (X.copy(),), DTypeError, "got tuple"),
    "shape": (
        lambda out: nnk.relu(X, out=out), lambda: np.zeros((4, 3), np.float32),
        ShapeError, "out has shape (4, 3)", "(3, 4)",
    ),
    "larger shape": (
        lambda out: nnk.relu(VECTOR, out=out), lambda: np.zeros((3, 4), np.float32),
        ShapeError, "out has shape (3, 4)", "(4,)",
    ),
    "shape, rows": (
        lambda out: nnk.logsumexp(X, out=out), lambda: np.zeros((3, 1), np.float32),
        ShapeError, "out has shape (3, 1)", "(3,)",
    ),
    "shape, matmul": (
        lambda out: nnk.matmul(X, X.T, out=out), lambda: np.zeros((3, 4), np.float32),
        ShapeError, "out has shape (3, 4)", "(3, 3)",
    ),
    "shape, gemv": (
        lambda out: nnk.gemv(X, VECTOR, out=out), lambda: np.zeros((3, 1), np.float32),
        ShapeError, "out has shape (3, 1)", "(3,)",
    ),
    "dtype, linear": (
        lambda out: nnk.linear(X, X, VECTOR[:3].astype("f8"), out=out),
        lambda: np.zeros((3, 3), np.float32), DTypeError, "out has dtype float32", "float64",
    ),
    "shape, empty": (
        lambda out: nnk.relu(EMPTY, out=out), lambda: np.zeros((4, 0), np.float32),
        ShapeError, "out has shape (4, 0)", "(0, 4)",
    ),
    "dtype": (
        lambda out: nnk.relu(X, out=out), lambda: np.zeros((3, 4)),
        DTypeError, "out has dtype float64", "float32",
    ),
    "dtype, rows": (
        lambda out: nnk.softmax(X, out=out), lambda: np.zeros((3, 4), np.float16),
        DTypeError, "out has dtype float16", "float32",
    ),
    "dtype, matmul": (
        lambda out: nnk.matmul(INTS, INTS.T, out=out), lambda: np.zeros((3, 3), np.int32),
        DTypeError, "out has dtype int32", "int64",
    ),
    "dtype, promoted": (
        lambda out: nnk.swiglu(X, WIDE, out=out), lambda: np.zeros((3, 4), np.float32),
        DTypeError, "out has dtype float32", "float64",
    ),
    "byte order": (
        lambda out: nnk.relu(X, out=out), lambda: np.zeros((3, 4), ">f4"),
        DTypeError, "out has dtype >f4", "float32",
    ),
    "read-only": (
        lambda out: nnk.relu(X, out=out), lambda: fixed((3, 4)), DTypeError, "out is read-only",
    ),
    "read-only, second call": (
        lambda out: (nnk.relu(X, out=np.zeros_like(X)), nnk.relu(X, out=out)),
        lambda: fixed((3, 4)), DTypeError, "out is read-only",
    ),
    "read-only, rows": (
        lambda out: nnk.softmax(X, out=out), lambda: fixed((3, 4)), DTypeError, "out is read-only",
    ),
    "read-only, matmul": (
        lambda out: nnk.matmul(X, X.T, out=out), lambda: fixed((3, 3)), DTypeError, "read-only",
    ),
    "read-only, gradient": (
        lambda out: nnk.glu_backward(X[:, :2], X, out=out), lambda: fixed((3, 4)),
        DTypeError, "read-only",
    ),
    "broadcast": (
        lambda out: nnk.relu(X, out=out), lambda: as_strided(VECTOR.copy(), (3, 4), (0, 4)),
        ShapeError, "out has shape (3, 4) and strides (0, 4)", "share memory", "apart",
    ),
    "windows": (
        lambda out: nnk.relu(X, out=out), window, ShapeError, "strides (4, 4)", "share memory",
    ),
    "windows, matmul": (
        lambda out: nnk.matmul(X, np.eye(4, dtype=np.float32), out=out), window,
        ShapeError, "strides (4, 4)", "share memory",
    ),
    "half elements": (
        lambda out: nnk.relu(VECTOR, out=out),
        lambda: as_strided(np.zeros(4, np.float32), (4,), (2,)), ShapeError, "share memory",
    ),
    "interleaved and colliding": (
        lambda out: nnk.relu(X[:2, :3], out=out),
        lambda: as_strided(np.zeros(9, np.float32), (2, 3), (16, 8)), ShapeError, "share memory",
    ),
    "halves share memory": (
        lambda out: nnk.glu_backward(X[:1], X[:2], axis=0, out=out),
        lambda: as_strided(np.zeros(4, np.float32), (2, 4), (0, 4)), ShapeError, "share",
    ),
    "shape of a gradient": (
        lambda out: nnk.glu_backward(X[:, :2], X, out=out), lambda: np.zeros((3, 6), np.float32),
        ShapeError, "out", "(3, 3)", "(3, 2)",
    ),
}  # fmt: skip

# Every row: the call on memory of 16 numbers, counted from -7, and words.
OVERLAPS = {
    "shifted": (
        lambda m: nnk.relu(m[:12].reshape(3, 4), out=m[1:13].reshape(3, 4)),
        ShapeError, "out shares memory with x", "same shape and strides", "apart",
    ),
    "by one byte": (
        lambda m: nnk.relu(m[:4], out=m.view(np.uint8)[15:31].view(np.float32)),
        ShapeError, "out shares memory with x",
    ),
    "transposed": (
        lambda m: nnk.relu(m.reshape(4, 4), out=m.reshape(4, 4).T),
        ShapeError, "out shares memory with x",
    ),
    "reversed": (
        lambda m: nnk.softmax(m[:8], out=m[7::-1]), ShapeError, "out shares memory with x",
    ),
    "interleaved, touching": (
        lambda m: nnk.softmax(m[0:8:2], out=m[2:10:2]), ShapeError, "out shares memory with x",
    ),
    "second operand": (
        lambda m: nnk.swiglu(m[8:12], m[:4], out=m[2:6]), ShapeError, "shares memory with gate",
    ),
    "broadcast operand": (
        lambda m: nnk.swiglu(m[:12].reshape(3, 4), m[:4], out=m[:12].reshape(3, 4)),
        ShapeError, "shares memory with gate",
    ),
    "cotangent": (
        lambda m: nnk.softmax_backward(m[:4], m[4:8], out=m[1:5]), ShapeError, "memory with dy",
    ),
    "matmul in place": (
        lambda m: nnk.matmul(m.reshape(4, 4), m.reshape(4, 4), out=m.reshape(4, 4)),
        ShapeError, "out shares memory with x1", "apart", "shapes are (4, 4) and (4, 4)",
    ),
    "gemm over what it adds, shifted": (
        lambda m: nnk.gemm(
            np.ones((2, 2), "f4"), np.ones((2, 2), "f4"), m[:4].reshape(2, 2),
            out=m[1:5].reshape(2, 2),
        ),
        ShapeError, "out shares memory with c", "same shape and strides",
    ),
    "gemm over what it adds, broadcast": (
        lambda m: nnk.gemm(
            np.ones((2, 2), "f4"), np.ones((2, 2), "f4"), m[:2], out=m[:4].reshape(2, 2)
        ),
        ShapeError, "out shares memory with c",
    ),
    "gemv over its operand": (
        lambda m: nnk.gemv(m[:4].reshape(2, 2), m[4:6], out=m[4:6]),
        ShapeError, "out shares memory with x", "apart", "shapes are (2,) and (2,)",
    ),
    "linear over its weight": (
        lambda m: nnk.linear(m[4:8].reshape(2, 2), m[:4].reshape(2, 2), out=m[:4].reshape(2, 2)),
        ShapeError, "out shares memory with weight",
    ),
    "logsumexp in place": (
        lambda m: nnk.logsumexp(m.reshape(4, 4), out=m[:4]), ShapeError, "memory with x",
    ),
    "other type, same memory": (
        lambda m: nnk.swiglu(m[:4], m.view(np.float64)[4:8], out=m.view(np.float64)[:4]),
        ShapeError, "out shares memory with x",
    ),
}  # fmt: skip


TABLES = {
    "array": NOT_ARRAYS,
    "dtype": DTYPES,
    "axis": AXES,
    "shape": SHAPES,
    "norm": NORMS,
    "call": CALLS,
}
ALL_ROWS = [
    pytest.param(case, id=f"{table}: {what}")
    for table, rows in TABLES.items()
    for what, case in rows.items()
]


@pytest.fixture(params=["cpu", "reference"])
def machine(request):
    with nnk.use_backend(request.param):
        yield request.param


def check(call, error, says):
    """The call raises exactly this class, with all these words in its message."""
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error, f"{caught.type.__name__}: {caught.value}"
    message = str(caught.value)
    missing = [words for words in says if words not in message]
    assert not missing, f"{missing} not in: {message}"
    assert len(message) < 400, message


@pytest.mark.parametrize("case", ALL_ROWS)
def test_refused(case, machine):
    operands = (X, WIDE, INTS, VECTOR)
    before = [a.copy() for a in operands]
    check(case.call, case.error, case.says)
    for array, old in zip(operands, before, strict=True):
        assert np.array_equal(array, old)


@pytest.mark.parametrize("case", OUTS.values(), ids=OUTS)
def test_refused_out(case, machine):
    call, make, error, *says = case
    out = make()
    check(lambda: call(out), error, says)
    written = np.asarray(out[0] if isinstance(out, tuple) else out)
    assert np.array_equal(written, np.asarray(make()[0] if isinstance(out, tuple) else make()))


@pytest.mark.parametrize("case", OVERLAPS.values(), ids=OVERLAPS)
def test_refused_overlap(case, machine):
    call, error, *says = case
    memory = np.arange(-7, 9, dtype=np.float32)
    check(lambda: call(memory), error, says)
    assert np.array_equal(memory, np.arange(-7, 9, dtype=np.float32))


def test_overlap_that_is_too_hard_to_decide_is_refused(monkeypatch):
    # A system of Diophantine equations; NumPy gives up after so many steps.
    def give_up(a, b, max_work):
        raise np.exceptions.TooHardError

    monkeypatch.setattr(np, "shares_memory", give_up)
    memory = np.zeros(12, np.float32)
    with pytest.raises(ShapeError, match="out shares memory with x"):
        nnk.silu(memory[0:8:2], out=memory[1:9:2])


def test_there_are_enough_cases():
    names = [parameter.id for parameter in ALL_ROWS]
    assert len(set(names)) == len(names)
    assert len(names) + len(OUTS) + len(OVERLAPS) >= 90


def test_pullback_is_checked_whatever_the_gradient_does():
    checked = differentiation._checked(lambda dy: (dy,), nnk.relu(X), (True,))
    assert checked(X) == (X,)
    check(lambda: checked(VECTOR), ShapeError, ["dy has shape (4,)", "(3, 4)"])
    two = differentiation._checked(lambda a, b: (a, b), (X, VECTOR), (True, True))
    assert two(X, VECTOR) == (X, VECTOR)
    check(lambda: two(X, X), ShapeError, ["cotangent 1", "(3, 4)", "(4,)"])
    check(lambda: two(X), TypeError, ["2 in all", "got 1"])


# ---- options that are numbers --------------------------------------------------------------

NUMBERS = {
    ("leaky_relu", "negative_slope"), ("threshold_relu", "theta"), ("elu", "alpha"),
    ("celu", "alpha"), ("hard_sigmoid", "alpha"), ("hard_sigmoid", "beta"), ("softplus", "beta"),
    ("silu", "beta"), ("soft_shrink", "lambd"), ("hard_shrink", "lambd"), ("hard_tanh", "min"),
    ("hard_tanh", "max"),
}  # fmt: skip
BAD_NUMBERS = [
    (math.nan, ValueError),
    (np.float32(math.nan), ValueError),
    (True, TypeError),
    ("0.5", TypeError),
    (1j, TypeError),
    (None, TypeError),
    ([0.5], TypeError),
    (np.array([0.5]), TypeError),
]


@pytest.mark.parametrize(("op", "option"), sorted(NUMBERS))
def test_refused_number(op, option, machine):
    forward, backward = getattr(nnk, op), getattr(nnk, f"{op}_backward")
    infinite = [] if op == "hard_tanh" else [(math.inf, ValueError), (-math.inf, ValueError)]
    for value, error in BAD_NUMBERS + infinite:
        got = "NaN" if value != value else type(value).__name__
        says = (option, got) if error is TypeError or got == "NaN" else (option, "finite", "inf")
        check(lambda: forward(X, **{option: value}), error, says)  # noqa: B023
        check(lambda: backward(X, X, **{option: value}), error, says)  # noqa: B023


# ---- what looks bad and is not -------------------------------------------------------------


def test_good_layouts_of_out():
    """What the checks of memory must not refuse."""
    expected = nnk.relu(X)
    memory = np.zeros(64, np.float32)
    for out in (
        np.zeros((3, 4), np.float32, order="F"),
        memory[:24].reshape(3, 8)[:, ::2],
        memory[11::-1].reshape(3, 4),
        as_strided(memory, (3, 4), (12, 16))[::1],  # elements interleave, and lie apart
        packed((3, 4)),
        X.copy(),
    ):
        assert nnk.relu(X, out=out) is out
        assert np.array_equal(out, expected)
    inside = np.stack([X, X])  # operand and result interleave without a common byte
    nnk.relu(inside.transpose(1, 2, 0)[..., 0], out=inside.transpose(1, 2, 0)[..., 1])
    assert np.array_equal(inside, np.stack([X, expected]))


def test_in_place():
    expected = nnk.softmax(X), nnk.swiglu(X, X), nnk.relu(X)
    for call, wanted in zip(
        (
            lambda a: nnk.softmax(a, out=a),
            lambda a: nnk.swiglu(a, a, out=a),
            lambda a: nnk.relu(a, out=a[...]),
        ),
        expected,
        strict=True,
    ):
        array = X.copy()
        call(array)
        assert np.array_equal(array, wanted)


def test_elements_at_odd_addresses(machine):
    """A CPU reads them where they lie; a GPU cannot, and the simulator says so."""
    x = packed((3, 4))
    x[...] = X
    assert x.ctypes.data % 4
    for op in (nnk.relu, nnk.softmax, nnk.logsumexp):
        assert np.array_equal(op(x), op(X))
    assert np.array_equal(nnk.matmul(x, x.T), nnk.matmul(X, X.T))


def test_elements_at_odd_addresses_on_a_gpu():
    x = packed((3, 4))
    with nnk.use_backend("sim:sm_90"):
        for op in (nnk.relu, nnk.softmax, lambda x: nnk.matmul(x, X.T)):
            check(lambda: op(x), BackendError, ["elements of 4 bytes", "sim:sm_90", "a copy"])  # noqa: B023
        check(
            lambda: nnk.relu(X, out=x), BackendError, ["out has elements", "give an aligned array"]
        )
        # Aligned elements at addresses that are not those of the first call's.
        memory = np.linspace(-1, 1, 70, dtype=np.float32)
        for start in range(4):
            assert np.array_equal(
                nnk.relu(memory[start : start + 64]), memory[start : start + 64].clip(0)
            )


def test_same_words_on_both_machines():
    """A message must not depend on whether a kernel or the reference refuses the call."""
    for parameter in ALL_ROWS:
        messages = set()
        for name in ("cpu", "reference"):
            with nnk.use_backend(name), pytest.raises(Exception) as caught:  # noqa: PT011
                parameter.values[0].call()
            messages.add(str(caught.value).split(" at 0x")[0])
        assert len(messages) == 1, parameter.id


# ---- other libraries -----------------------------------------------------------------------


def torch_rows(torch):
    ones = torch.ones(3, 4)
    return {
        "with NumPy": row(
            lambda: nnk.swiglu(ones, X), DTypeError, "x is an array of torch", "gate one of numpy"
        ),
        "NumPy with": row(lambda: nnk.matmul(X, ones.T), DTypeError, "x1", "numpy", "torch"),
        "out of NumPy": row(
            lambda: nnk.relu(ones, out=X.copy()), DTypeError, "torch", "out one of numpy"
        ),
        "out of torch": row(lambda: nnk.relu(X, out=ones), DTypeError, "numpy", "out one of torch"),
        "no memory": row(
            lambda: nnk.relu(torch.empty(3, device="meta")), BackendError, "x is on", "meta"
        ),
        "no memory in out": row(
            lambda: nnk.relu(ones, out=torch.empty(3, 4, device="meta")),
            BackendError, "meta", "cpu", "out",
        ),
        "two devices": row(
            lambda: nnk.swiglu(ones, torch.empty(3, 4, device="meta")), BackendError, "gate", "meta"
        ),
        "grad": row(
            lambda: nnk.relu(torch.ones(3, requires_grad=True)), DTypeError, "x req", "detach()"
        ),
        "bfloat16 with grad": row(
            lambda: nnk.relu(torch.ones(3, dtype=torch.bfloat16, requires_grad=True)),
            DTypeError, "x requires grad", "detach()",
        ),
        "second with grad": row(
            lambda: nnk.matmul(ones, torch.nn.Parameter(ones.T)), DTypeError, "x2 requires grad"
        ),
        "conjugated": row(
            lambda: nnk.tanh(torch.ones(3, dtype=torch.complex64).conj()), DTypeError, "conjugate"
        ),
        "negated": row(
            lambda: nnk.relu(torch.ones(3, dtype=torch.complex64).conj().imag),
            DTypeError, "negated view", "resolve_neg()",
        ),
        "sparse": row(lambda: nnk.relu(ones.to_sparse()), DTypeError, "x is a torch", "layout"),
        "bool": row(lambda: nnk.relu(ones > 0), DTypeError, "x has dtype bool"),
        "integers": row(lambda: nnk.softmax(ones.int()), DTypeError, "x has dtype int32"),
        "axis": row(lambda: nnk.softmax(ones, axis=3), ShapeError, "axis 3", "rank 2"),
        "odd glu": row(lambda: nnk.glu(ones, axis=0), ShapeError, "(3, 4)", "even"),
        "shape of out": row(
            lambda: nnk.relu(ones, out=torch.ones(4, 3)), ShapeError, "out has shape (4, 3)"
        ),
        "dtype of out": row(
            lambda: nnk.relu(ones, out=torch.ones(3, 4, dtype=torch.float64)), DTypeError, "float64"
        ),
        "expanded out": row(
            lambda: nnk.relu(ones, out=torch.ones(4).expand(3, 4)), ShapeError, "share memory"
        ),
        "overlap": row(
            lambda: nnk.relu(ones.view(-1)[:8], out=ones.view(-1)[2:10]), ShapeError, "with x"
        ),
        "cotangent of NumPy": row(
            lambda: nnk.vjp(nnk.relu, ones)[1](X), DTypeError, "dy", "float32"
        ),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_refused_torch(machine):
    torch = pytest.importorskip("torch")
    rows = torch_rows(torch)
    for name, case in rows.items():
        try:
            check(case.call, case.error, case.says)
        except BaseException as error:
            raise AssertionError(name) from error


def test_refused_strict(machine):
    xp = pytest.importorskip("array_api_strict")
    x = xp.asarray(X.copy())
    elsewhere = xp.asarray(X, device=xp.Device("device1"))
    for call, error, *says in (
        (lambda: nnk.swiglu(x, X), DTypeError, "array_api_strict", "numpy"),
        (lambda: nnk.swiglu(X, x), DTypeError, "numpy", "gate", "array_api_strict"),
        (lambda: nnk.relu(X, out=x), DTypeError, "numpy", "array_api_strict"),
        (lambda: nnk.swiglu(x, elsewhere), BackendError, "CPU_DEVICE", "gate on", "device1"),
        (lambda: nnk.relu(x, out=elsewhere), BackendError, "out", "device1"),
        (lambda: nnk.relu(x > 0), DTypeError, "x has dtype bool"),
        (lambda: nnk.softmax(x, axis=2), ShapeError, "axis 2"),
    ):
        check(call, error, says)


# ---- the environment -----------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " ", "1e3"])
def test_refused_number_of_threads(monkeypatch, value):
    monkeypatch.setenv("NNKERNELS_NUM_THREADS", value)
    check(CpuMachine, BackendError, ["NNKERNELS_NUM_THREADS", repr(value), "at least 1"])


def test_refused_number_of_threads_in_a_call():
    script = "import numpy as np, nnkernels as nnk\nnnk.relu(np.ones(3))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "NNKERNELS_NUM_THREADS": "none"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "BackendError: NNKERNELS_NUM_THREADS is 'none'" in done.stderr.splitlines()[-1]
