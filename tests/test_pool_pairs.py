"""Pooling of pairs of neighbours on a CPU: the bits of other kernels, and which calls it takes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from layouts import channels_last
from pools import expected, image
from strategies import make_numbers

import nnkernels as nnk
from nnkernels.config import pool as config
from nnkernels.config import pool_pairs
from nnkernels.config.device import PROFILES
from nnkernels.dispatch.machines import cpu_machine
from nnkernels.dispatch.pool_plan import five_strides, three_axes
from nnkernels.dispatch.windows import Windows


@pytest.fixture
def plans():
    """No plans of other tests before, and none of this one afterwards."""
    cpu_machine().plans.clear()
    yield cpu_machine().plans
    cpu_machine().plans.clear()


def roomy(x):
    """The same array whose axes but the last lie apart, rows and channels backwards."""
    whole = np.zeros((*(2 * n for n in x.shape[:-1]), x.shape[-1] + 3), x.dtype)
    steps = [2, -2, *([-2] if x.ndim > 3 else []), *([2] * (x.ndim - 4))][: x.ndim - 1]
    view = whole[(*(slice(None, None, s) for s in steps), slice(1, 1 + x.shape[-1]))]
    view[...] = x
    return view


LAYOUTS = (np.ascontiguousarray, roomy)
# Of planes, the axes but the last, and windows of a row: less than a vector, one, some.
ROWS = (1, 3, 4, 7, 8, 12, 16, 17, 40)


@st.composite
def pairs(draw):
    """The shape of an image, and a kernel whose windows lie beside each other in it."""
    rank = draw(st.integers(1, 3))
    kernel = (*(draw(st.integers(1, 3)) for _ in range(rank - 1)), 2)
    counts = (*(draw(st.integers(1, 3)) for _ in range(rank - 1)), draw(st.sampled_from(ROWS)))
    sizes = tuple(n * k + draw(st.integers(0, k - 1)) for n, k in zip(counts, kernel, strict=True))
    planes = draw(st.sampled_from([(1, 1), (2, 3), (5, 1)]))
    return (*planes, *sizes), kernel


# Of `results`.
CALLS = 9


def numbers(generator, kind, shape, dtype="float32"):
    if kind == "ties":
        return image(generator, shape, dtype, ties=True)
    return make_numbers(generator, shape, dtype, kind)


def results(x, dy, kernel):
    """Of all that there is of pairs, by name."""
    y, taps = nnk.max_pool(x, kernel, return_indices="taps")
    indexed, indices = nnk.max_pool(x, kernel, return_indices=True)
    yield "max", nnk.max_pool(x, kernel)
    yield "max with taps", y
    yield "max with indices", indexed
    yield "taps", taps
    yield "indices", indices
    yield "avg", nnk.avg_pool(x, kernel)
    yield "l2", nnk.lp_pool(x, kernel, p=2)
    yield "l3", nnk.lp_pool(x, kernel, p=3)
    yield "avg'", nnk.avg_pool_backward(dy, x.shape, kernel)
    yield "max'", nnk.max_pool_backward(dy, x, kernel)
    yield "max' by taps", nnk.max_pool_backward(dy, x, kernel, taps=taps)


def same_but_for_nan(a, b, what):
    """Which of two NaN a sum of both has is up to the compiler."""
    if a.dtype.kind == "f":
        a, b = (np.where(np.isnan(x), np.float32(np.nan), x) for x in (a, b))
    assert_same_bits(a, b, what)


def both_ways(monkeypatch, plans, function, calls):
    """Results of pairs, which must have been chosen, and of the other kernels."""
    chosen = []
    configure = pool_pairs.configure
    with monkeypatch.context() as patch:
        patch.setattr(
            pool_pairs, "configure", lambda *a: chosen.append(configure(*a)) or chosen[-1]
        )
        plans.clear()
        ours = dict(function())
        assert len(chosen) == calls
        assert None not in chosen
        patch.setattr(pool_pairs, "configure", lambda *_: None)
        plans.clear()
        return ours, dict(function())


def test_the_bits_of_the_other_kernels(cpu, plans, monkeypatch):
    @given(
        pairs(),
        st.sampled_from(["ordinary", "special", "ties"]),
        st.sampled_from(LAYOUTS),
        st.sampled_from(LAYOUTS),
        st.integers(0, 99),
    )
    def check(windows, kind, layout, other, seed):
        shape, kernel = windows
        generator = np.random.default_rng(seed)
        x = layout(numbers(generator, kind, shape))
        out = expected("avg_pool", np.zeros(shape, np.float32), kernel).shape
        dy = other(numbers(generator, kind, out))
        with np.errstate(all="ignore"):
            ours, others = both_ways(monkeypatch, plans, lambda: results(x, dy, kernel), CALLS)
        if cpu.recording:
            return
        for name, result in ours.items():
            same_but_for_nan(result, others[name], f"{name} of {shape} by {kernel}")
        if kind != "special":
            right = expected("max_pool_backward", dy, x, kernel)
            assert_close(ours["max'"], right, what=f"{shape} by {kernel}")

    cpu.precompiled(check)


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float64", "int8", "uint8", "int32", "uint64"]
)
def test_every_dtype(cpu, plans, monkeypatch, dtype):
    generator = np.random.default_rng(3)
    kernel = (3, 2)

    def results(x, dy):
        yield "max", nnk.max_pool(x, kernel)
        if dy is not None:
            yield "avg", nnk.avg_pool(x, kernel)
            yield "avg'", nnk.avg_pool_backward(dy, x.shape, kernel)
            yield "max'", nnk.max_pool_backward(dy, x, kernel)

    def body():
        for width in (9, 67):
            x = image(generator, (2, 3, 7, width), dtype, ties=dtype != "float64")
            dy = None if "int" in dtype else image(generator, (2, 3, 2, width // 2), dtype)
            calls = 1 if dy is None else 4
            ours, others = both_ways(monkeypatch, plans, partial(results, x, dy), calls)
            if cpu.recording:
                continue
            for name, result in ours.items():
                assert_same_bits(result, others[name], f"{name} of {x.shape}")
            assert_close(ours["max"], expected("max_pool", x, kernel))

    cpu.precompiled(body)


@pytest.mark.parametrize(
    ("width", "streamed"), [(128, 9), (112, 3), (130, 0)], ids=["all", "gradients", "none"]
)
def test_large_images(cpu, plans, monkeypatch, width, streamed):
    """Which are fetched ahead; results of whole lines are written past the caches."""
    generator = np.random.default_rng(4)
    x = image(generator, (2, 3, 8, width))
    dy = image(generator, (2, 3, 4, width // 2))
    small = dict(results(x, dy, 2))
    monkeypatch.setattr(config, "_NEAR_BYTES", 0)
    monkeypatch.setattr(cpu.machine, "device", replace(cpu.machine.device, cache_bytes=1))
    chosen = []
    configure = pool_pairs.configure
    monkeypatch.setattr(
        pool_pairs, "configure", lambda *a: chosen.append(configure(*a)) or chosen[-1]
    )
    plans.clear()
    for name, result in results(x, dy, 2):
        assert_same_bits(result, small[name], name)
    assert len(chosen) == CALLS
    assert all(c.fetches for c in chosen)
    assert sum(c.streaming for c in chosen) == streamed


def test_gradients_stay_within_dx(cpu, plans):
    """What lies behind the last windows is made zero, and what lies around dx is left."""
    generator = np.random.default_rng(5)
    x = image(generator, (2, 3, 5, 5, 37))
    dy = image(generator, (2, 3, 2, 1, 18))
    kernel = (2, 3, 2)
    for name in ("avg_pool_backward", "max_pool_backward"):
        around = np.full((2, 3, 7, 7, 40), 7, np.float32)
        dx = around[:, :, 1:6, 1:6, 2:39]
        if name == "avg_pool_backward":
            nnk.avg_pool_backward(dy, x.shape, kernel, out=dx)
            right = expected(name, dy, x.shape, kernel)
        else:
            nnk.max_pool_backward(dy, x, kernel, out=dx)
            right = expected(name, dy, x, kernel)
        assert_close(dx, right)
        outside = np.ones(around.shape, bool)
        outside[:, :, 1:6, 1:6, 2:39] = False
        assert np.all(around[outside] == 7)
        assert not np.any(dx[:, :, 4:])
        assert not np.any(dx[:, :, :, 3:])
        assert not np.any(dx[..., 36:])


def windows(kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    stride = kernel if stride is None else stride
    return Windows.checked(2, kernel, stride, padding, dilation, ceil_mode)


def test_a_gradient_whose_cotangent_has_gaps(cpu, plans, monkeypatch):
    """Its maxima are searched as pairs, and the labels alone are written."""
    generator = np.random.default_rng(6)
    x = image(generator, (2, 3, 6, 21), ties=True)
    dy = image(generator, (2, 3, 3, 10))
    chosen = []
    configure = pool_pairs.configure
    monkeypatch.setattr(
        pool_pairs, "configure", lambda *a: chosen.append(configure(*a)) or chosen[-1]
    )
    dx = nnk.max_pool_backward(np.repeat(dy, 2, axis=-1)[..., ::2], x, 2)
    assert [c is not None for c in chosen] == [False, True, False]
    assert_same_bits(dx, nnk.max_pool_backward(dy, x, 2), "with gaps")


def problem(windows, layout=np.ascontiguousarray, sizes=(9, 40), **changes):
    """What a forward pooling of float32 is configured for."""
    axes = windows.axes(sizes)
    x = layout(np.empty((2, 3, *sizes), np.float32))
    y = layout(np.empty((2, 3, *(axis.out for axis in axes)), np.float32))
    known = {
        "axes": three_axes(axes), "adaptive": False, "backward": False, "planes": (2, 3),
        "strides": (five_strides(x.strides), five_strides(y.strides)), "images": (True, False),
        "itemsizes": (4, 4), "compute_itemsize": 4, "result": 1, "alignment": 64, "index": "i",
    }  # fmt: skip
    return config.PoolProblem(**(known | changes))


def test_which_calls_are_for_pairs():
    cpu, gpu = cpu_machine().device, PROFILES["sm_90"]

    def chosen(kernel, stride=None, *options, device=cpu, **changes):
        found = windows(kernel, stride, *options)
        return pool_pairs.configure(problem(found, **changes), device) is not None

    assert chosen(2)
    assert chosen((3, 2))
    assert chosen((3, 2), (3, 2))
    assert chosen((9, 2), (1, 2))  # one row of windows, whatever its stride
    assert not chosen((2, 3))
    assert not chosen((2, 2), (1, 2))
    assert not chosen((2, 2), (2, 1))
    assert not chosen((2, 2), (3, 2))  # rows that no window sees
    assert not chosen(2, 2, (1, 0))
    assert not chosen(2, 2, (0, 1))
    assert not chosen(2, 2, 0, (1, 2))
    assert not chosen(2, 2, 0, 1, True)  # a window of one row, at the end
    assert chosen(2, 2, 0, 1, True, sizes=(8, 40))
    assert not chosen(2, layout=channels_last)
    assert not chosen(2, adaptive=True)
    assert not chosen(2, device=gpu)


def test_vectors_are_no_longer_than_rows():
    cpu = replace(cpu_machine().device, vector_bytes=64)
    for count, vector in ((1, 4), (4, 4), (5, 8), (8, 8), (9, 16), (40, 16)):
        found = problem(windows(2), sizes=(9, 2 * count))
        assert pool_pairs.configure(found, cpu).vector == vector
        narrow = replace(cpu, vector_bytes=16)
        assert pool_pairs.configure(found, narrow).vector == 4
