"""What no fused function can do: errors that name the operation and the line."""

from __future__ import annotations

import functools
import math
import operator
import re

import numpy as np
import pytest

import nnkernels as nnk

BIAS = np.ones(3)


def branch(x):
    if x > 0:
        return x
    return -x


def add_bias(x):
    y = x * 2
    return y + BIAS


CASES = [
    (branch, 2, "truth of a value"),
    (add_bias, 3, r"add: an array \(ndarray of shape \(3,\)\)"),
    (lambda x: math.exp(x), 1, r"float\(\)"),
    (lambda x: x * int(x), 1, r"int\(\)"),
    (lambda x: next(iter(x)), 1, "iteration"),
    (lambda x: x[0], 1, "indexing"),
    (lambda x: x.reshape(3, 1), 1, r"\.reshape"),
    (lambda x: x.sum(), 1, r"\.sum"),
    (lambda x: x + x.T, 1, r"\.T"),
    (lambda x: np.sum(x), 1, "sum in a fused function"),
    (lambda x: np.add.reduce(x), 1, "add.reduce"),
    (lambda x: np.gamma(x) if hasattr(np, "gamma") else np.arctan(x), 1, "arctan"),
    (lambda x: len(x) * x, 1, r"len\(\)"),
    (lambda x: x @ x, 1, "@ in a fused function"),
    (lambda x: nnk.softmax(x), 1, "softmax in a fused function"),
    (lambda x: nnk.matmul(x, x), 1, "matmul in a fused function"),
    (lambda x: nnk.glu(x), 1, "glu|split_halves"),
    (lambda x: x + "one", 1, "operand of type str"),
    (lambda x: x & x, 1, "logical_and of float64"),
    (lambda x: (x > 0) + (x > 1), 1, "add of bool"),
    (lambda x: np.where(x, 1.0, x), 1, "condition of float64"),
    (lambda x: x.astype("int32") * 0.5, 1, "Python float with int32"),
    (lambda x: x.astype("int32") + x, 1, "do not promote"),
    (lambda x: np.exp(x.astype("int32")), 1, "exp of int32"),
    (lambda x: x.astype("int8") + 1000, 1, "1000 does not fit int8"),
    (lambda x: x.astype("complex64"), 1, "complex64"),
    (lambda x: np.exp(x, dtype="float32"), 1, "exp with dtype="),
    (lambda x: operator.setitem(x, 0, 1.0), 1, "assignment"),
    (lambda x: None, 1, "returns NoneType"),
    (lambda x: (), 1, "empty tuple"),
    (lambda x: sorted([x, x + 1])[0], 1, "truth of a value"),
    (lambda x: np.asarray(x) + 1, 1, "made an array"),
    (lambda x: nnk.relu(x, out=BIAS), 1, "out= of Relu"),
]


@pytest.mark.parametrize(("function", "line", "message"), CASES, ids=[c[2] for c in CASES])
def test_error(function, line, message):
    with pytest.raises(nnk.TraceError, match=message) as caught:
        nnk.fuse(function)(np.ones(3))
    wanted = function.__code__.co_firstlineno + line - 1
    assert re.match(rf"{re.escape(__file__)}:{wanted}: ", str(caught.value)), caught.value


def test_an_error_in_a_helper_names_its_line():
    def helper(x):
        return float(x)

    with pytest.raises(nnk.TraceError, match=rf":{helper.__code__.co_firstlineno + 1}: float"):
        nnk.fuse(lambda x: helper(x))(np.ones(3))


def test_a_value_kept_from_another_tracing():
    kept = []

    def keep(x):
        kept.append(x)
        return x * 2

    nnk.fuse(keep)(np.ones(3))
    with pytest.raises(nnk.TraceError, match="another fused function"):
        nnk.fuse(lambda x: x + kept[0])(np.ones(3))


def test_arguments():
    fused = nnk.fuse(lambda x, y: x + y)
    with pytest.raises(nnk.DTypeError, match="must be an array"):
        fused(1.0, 2.0)
    with pytest.raises(nnk.DTypeError, match="y must be an array"):
        fused(np.ones(3), [1.0])
    with pytest.raises(nnk.ShapeError, match=r"x of shape \(3,\) and y of shape \(2,\)"):
        fused(np.ones(3), np.ones(2))
    with pytest.raises(TypeError, match="missing 1 required"):
        fused(np.ones(3))
    with pytest.raises(TypeError, match="must be callable"):
        nnk.fuse(3)


def test_static_arguments_choose_the_function():
    fused = nnk.fuse(lambda x, flip, name: -x if flip else np.exp(x) if name == "exp" else x)
    x = np.ones(2)
    assert fused(x, True, None).tolist() == [-1.0] * 2
    assert fused(x, False, None).tolist() == [1.0] * 2
    assert np.allclose(fused(x, False, "exp"), np.e)


def test_other_callables():
    assert nnk.fuse(functools.partial(pow, 2.0))(np.ones(2)).tolist() == [2.0] * 2
    assert nnk.fuse(np.negative)(np.ones(2)).tolist() == [-1.0] * 2
    assert nnk.fuse(nnk.fuse(abs))(-np.ones(2)).tolist() == [1.0] * 2
