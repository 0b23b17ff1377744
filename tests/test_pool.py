"""Pooling and its gradients on every machine."""

from __future__ import annotations

import importlib.util
import tracemalloc
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, assert_same_numbers, wide
from hypothesis import given
from hypothesis import strategies as st
from layouts import channels_last, is_dense, keeps_order, place
from pools import OPS, expected, image
from strategies import examples, layouts, make_numbers, numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.dispatch import pool, unpool
from nnkernels.registry import INTEGERS

# ---- random windows --------------------------------------------------------------------------


@st.composite
def windows(draw, most=700):
    """The shape of an image and the options of windows that fit into it."""
    rank = draw(st.integers(1, 3))
    planes = draw(st.sampled_from([(1, 1), (2, 3), (1, 5), (3, 1), (1, 70), (0, 2)]))
    side = max(int((most / max(prod(planes), 1)) ** (1 / rank)), 2)
    sizes = tuple(draw(st.integers(1, side)) for _ in range(rank))
    if rank == 2 and draw(st.booleans()):  # rows of several vectors
        sizes = (2, draw(st.integers(30, 60)))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride, dilation = each(1, 4), each(1, 4), each(1, 3)
    options = {"stride": stride, "dilation": dilation, "ceil_mode": draw(st.booleans())}
    if draw(st.booleans()):
        options["padding"] = draw(st.sampled_from(["same", "same_lower"]))
        return (*planes, *sizes), kernel, options
    padding = []
    for size, k, d in zip(sizes, kernel, dilation, strict=True):
        low, high = draw(st.integers(0, 5)), draw(st.integers(0, 5))
        padding.append((low, high + max((k - 1) * d + 1 - size - low - high, 0)))
    return (*planes, *sizes), kernel, options | {"padding": tuple(padding)}


MODES = ("max", "avg", "avg", "lp")


@st.composite
def calls(draw, backend):
    """A pooling of an image of any layout, and a cotangent of any layout."""
    shape, kernel, options = draw(windows())
    mode = draw(st.sampled_from(MODES))
    if mode == "avg":
        options["count_include_pad"] = draw(st.booleans())
    kinds = ("ordinary", "special") if mode == "max" else ("ordinary",)
    if draw(st.booleans()):
        x = image(np.random.default_rng(draw(st.integers(0, 99))), shape, ties=True)
    else:
        x = draw(numbers(shape, "float32", kinds=kinds))
    placed = place(x, draw(layouts(shape, 4, backend.is_cpu)))
    y = expected(f"{mode}_pool", x, kernel, **options)
    dy = draw(numbers(y.shape, "float32", kinds=("ordinary",)))
    cotangent = place(dy, draw(layouts(y.shape, 4, backend.is_cpu)))
    return mode, placed, cotangent, kernel, options


@pytest.mark.in_turn
def test_any_windows_of_any_layout(backend):
    @given(calls(backend), st.integers(0, 99))
    def right(call, seed):
        mode, placed, cotangent, kernel, options = call
        name, x, dy = f"{mode}_pool", placed.view, cotangent.view
        more = {"return_indices": True} if mode == "max" else {}
        arrays = backend.array(x), backend.array(dy)
        with backend.context(seed):
            result = getattr(nnk, name)(arrays[0], kernel, **options, **more)
            y = result[0] if more else result
            backward = getattr(nnk, f"{name}_backward")
            first = {"max": (arrays[0],), "avg": (x.shape,), "lp": (arrays[0], y)}[mode]
            dx = backward(arrays[1], *first, kernel, **options)
            if mode == "max":
                same, taps = nnk.max_pool(arrays[0], kernel, return_indices="taps", **options)
                if seed % 2 and not backend.recording:  # in another order of the axes
                    taps = backend.array(np.ascontiguousarray(backend.numpy(taps)))
                by_taps = nnk.max_pool_backward(*arrays[::-1], kernel, taps=taps, **options)
        if backend.recording:
            return
        if mode == "max":
            right = expected(name, x.copy(), kernel, **options, return_indices="taps")[1]
            assert_same_numbers(backend.numpy(taps), right, f"taps {kernel} {options}")
            assert_same_bits(backend.numpy(same), backend.numpy(y), "maxima")
            assert_same_bits(backend.numpy(by_taps), backend.numpy(dx), "gradient by taps")
        assert placed.is_unchanged
        assert cotangent.is_unchanged
        assert is_dense(y)
        assert keeps_order(y, x)
        taps = 4 ** (x.ndim - 2)
        x, y, dx = x.copy(), backend.numpy(y), backend.numpy(dx)
        wanted = expected(name, x, kernel, **options, **more)
        if more:
            assert_same_numbers(y, wanted[0], f"{name} {kernel} {options}")
            assert_same_numbers(backend.numpy(result[1]), wanted[1], "indices")
        else:
            assert_close(y, wanted, taps, what=f"{name} {kernel} {options}")
        first = {"max": (x,), "avg": (x.shape,), "lp": (x, y)}[mode]
        wanted = expected(f"{name}_backward", dy, *first, kernel, **options)
        scale = 4.0 * taps if mode == "lp" else None
        assert_close(dx, wanted, taps, scale, what=f"{name}_backward {kernel} {options}")

    backend.precompiled(right)


@pytest.mark.in_turn
def test_dilated_windows(backend):
    """Whose taps skip elements that lie between them."""

    def body():
        generator = np.random.default_rng(30)
        flat, deep = (1, 6, 9, 23), (1, 5, 5, 6, 9)
        cases = ((flat, (2, 3), 1), (flat, (1, 2), (2, 3)), (flat, (3, 2), (1, 2)))
        for shape, dilation, stride in (*cases, (deep, (1, 2, 1), 1), (deep, (2, 1, 2), 2)):
            options = {"stride": stride, "padding": 2, "dilation": dilation}
            x = image(generator, shape, ties=True)
            for layout in (x, channels_last(x)):
                with backend.context(31):
                    y = nnk.max_pool(backend.array(layout), 3, **options)
                    dy = image(generator, y.shape)
                    cotangent = backend.array(dy)
                    dx = nnk.max_pool_backward(cotangent, backend.array(layout), 3, **options)
                    dmean = nnk.avg_pool_backward(cotangent, x.shape, 3, **options)
                if backend.recording:
                    continue
                right = expected("max_pool_backward", dy, x, 3, **options)
                assert_close(backend.numpy(dx), right, 9, what=f"maxima {options}")
                right = expected("avg_pool_backward", dy, x.shape, 3, **options)
                assert_close(backend.numpy(dmean), right, 9, what=f"averages {options}")

    backend.precompiled(body)


@st.composite
def divisions(draw):
    rank = draw(st.integers(1, 3))
    planes = draw(st.sampled_from([(2, 3), (1, 1), (1, 70)]))
    sides = {1: 40, 2: 12, 3: 6}[rank]
    sizes = tuple(draw(st.integers(1, sides)) for _ in range(rank))
    return (*planes, *sizes), tuple(draw(st.integers(1, sides)) for _ in range(rank))


@pytest.mark.in_turn
def test_any_division(backend):
    @given(divisions(), st.data())
    def right(case, data):
        shape, out = case
        values = data.draw(numbers(shape, "float32", kinds=("ordinary",)))
        x = place(values, data.draw(layouts(shape, 4, backend.is_cpu))).view
        dy = make_numbers(np.random.default_rng(3), (*shape[:2], *out), "float32")
        given_x, given_dy = backend.array(x), backend.array(dy)
        with backend.context(4):
            y, indices = nnk.adaptive_max_pool(given_x, out, return_indices=True)
            dx = nnk.adaptive_max_pool_backward(given_dy, given_x)
            _, taps = nnk.adaptive_max_pool(given_x, out, return_indices="taps")
            by_taps = nnk.adaptive_max_pool_backward(given_dy, given_x, taps=taps)
            mean = nnk.adaptive_avg_pool(given_x, out)
            dmean = nnk.adaptive_avg_pool_backward(given_dy, shape)
        if backend.recording:
            return
        x = x.copy()
        wanted, labels = expected("adaptive_max_pool", x, out, return_indices=True)
        assert_same_numbers(backend.numpy(y), wanted, f"maxima of {shape} in {out}")
        assert_same_numbers(backend.numpy(indices), labels, f"indices of {shape} in {out}")
        labels = expected("adaptive_max_pool", x, out, return_indices="taps")[1]
        assert_same_numbers(backend.numpy(taps), labels, f"taps of {shape} in {out}")
        assert_same_bits(backend.numpy(by_taps), backend.numpy(dx), f"by taps, {shape} in {out}")
        found = zip(
            (dx, mean, dmean),
            (
                expected("adaptive_max_pool_backward", dy, x),
                expected("adaptive_avg_pool", x, out),
                expected("adaptive_avg_pool_backward", dy, shape),
            ),
            strict=True,
        )
        for got, right in found:
            assert_close(backend.numpy(got), right, prod(shape[2:]), what=f"{shape} in {out}")

    backend.precompiled(right)


# ---- dtypes ----------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_every_dtype(last, backend):
    options = {"stride": 2, "padding": ((1, 0), (0, 2)), "ceil_mode": True}

    def body():
        generator = np.random.default_rng(5)
        # Some in one order of the axes, the others in the other one.
        for dtype in ("float16", "bfloat16", "float64", *INTEGERS)[last::2]:
            x = image(generator, (2, 20, 5, 21), dtype)
            if np.issubdtype(x.dtype, np.integer):  # with the ends of the range
                x.flat[:2] = np.iinfo(dtype).min, np.iinfo(dtype).max
            x = channels_last(x) if last else x
            with backend.context(6):
                y, indices = nnk.max_pool(backend.array(x), 3, return_indices=True, **options)
            if backend.recording:
                continue
            wanted, labels = expected("max_pool", x, 3, return_indices=True, **options)
            assert_same_numbers(backend.numpy(y), wanted, f"maxima of {dtype}")
            assert_same_numbers(backend.numpy(indices), labels, f"indices of {dtype}")
        for dtype in ("float64",) if last else ("float16",):
            x = image(generator, (2, 20, 5, 21), dtype)
            x = channels_last(x) if last else x
            with backend.context(7):
                y = nnk.avg_pool(backend.array(x), 3, **options)
                dy = backend.array(make_numbers(generator, y.shape, dtype))
                dx = nnk.avg_pool_backward(dy, x.shape, 3, **options)
                dmax = nnk.max_pool_backward(dy, backend.array(x), 3, **options)
            if backend.recording:
                continue
            dy = backend.numpy(dy)
            assert_close(backend.numpy(y), expected("avg_pool", x, 3, **options), 9)
            right = expected("avg_pool_backward", dy, x.shape, 3, **options)
            assert_close(backend.numpy(dx), right, 9)
            assert_close(backend.numpy(dmax), expected("max_pool_backward", dy, x, 3, **options), 9)

    backend.precompiled(body)


# ---- norms -----------------------------------------------------------------------------------


@pytest.mark.in_turn
def test_powers(backend):
    def body():
        generator = np.random.default_rng(8)
        for dtype, p in (("float32", 3.0), ("float32", 1.5), ("float32", 1), ("bfloat16", 0.5)):
            x = image(generator, (2, 3, 4, 9), dtype)
            x.flat[::7] = 0
            with backend.context(9):
                y = nnk.lp_pool(backend.array(x), 2, padding=1, p=p)
                dy = backend.array(make_numbers(generator, y.shape, dtype))
                dx = nnk.lp_pool_backward(dy, backend.array(x), y, 2, padding=1, p=p)
            if backend.recording:
                continue
            y, dy = backend.numpy(y), backend.numpy(dy)
            assert_close(y, expected("lp_pool", x, 2, padding=1, p=p), 4, what=f"p = {p}")
            right = expected("lp_pool_backward", dy, x, y, 2, padding=1, p=p)
            assert_close(backend.numpy(dx), right, 4, what=f"gradient, p = {p}")

    backend.precompiled(body)


# ---- unpooling -------------------------------------------------------------------------------


@pytest.mark.in_turn
def test_unpooling(backend):
    def body():
        generator = np.random.default_rng(10)
        for shape, pooled in (
            ((2, 3, 7, 10), (4, 5)),
            ((1, 2, 300), (200,)),
            ((2, 2, 3, 4, 5), (2, 3, 2)),
        ):
            x = image(generator, (*shape[:2], *pooled))
            # Some of them repeat, and some are outside.
            indices = generator.integers(-2, prod(shape[2:]) + 2, x.shape)
            dy = image(generator, shape)
            for views in ((x, indices, dy), tuple(map(channels_last, (x, indices, dy)))):
                given_x, given_indices, given_dy = map(backend.array, views)
                with backend.context(11):
                    y = nnk.max_unpool(given_x, given_indices, shape)
                    dx = nnk.max_unpool_backward(given_dy, given_indices)
                if backend.recording:
                    continue
                assert keeps_order(y, views[0])
                assert_same_numbers(
                    backend.numpy(y), expected("max_unpool", x, indices, shape), "y"
                )
                right = expected("max_unpool_backward", dy, indices)
                assert_same_numbers(backend.numpy(dx), right, "dx")

    backend.precompiled(body)


@pytest.mark.parametrize(("images", "group"), [(1, 32), (2, 48), (9, 80)])
def test_unpooling_all_channels_of_an_image(images, group, cpu, monkeypatch):
    """Where there are as many images as leave two for each thread, else vectors of channels."""
    groups = []

    def planes_of_a_unit(count, lanes, vector, device, original=unpool._planes_of_a_unit):
        groups.append(original(count, lanes, 16, replace(device, processors=2)))
        return -(-groups[-1] // vector) * vector

    monkeypatch.setattr(unpool, "_planes_of_a_unit", planes_of_a_unit)
    cpu.machine.plans.clear()
    generator = np.random.default_rng(45)
    x = channels_last(image(generator, (images, 70, 3, 4)))
    indices = channels_last(generator.integers(-2, 82, x.shape))
    y = nnk.max_unpool(x, indices, (8, 10))
    assert_same_numbers(y, expected("max_unpool", x, indices, (8, 10)), f"{images} images")
    assert groups == [group]
    cpu.machine.plans.clear()


def test_unpooling_undoes_pooling(cpu):
    x = np.abs(image(np.random.default_rng(12), (2, 3, 8, 8))) + 1
    y, indices = nnk.max_pool(x, 2, return_indices=True)
    back = nnk.max_unpool(y, indices, x.shape)
    assert_same_bits(nnk.max_pool(back, 2), y, "pooled again")
    assert np.count_nonzero(back) == y.size
    assert np.array_equal(back[back != 0], x[back != 0])


# ---- what maxima are -------------------------------------------------------------------------


def test_ties_nan_and_windows_of_padding_alone(backend):
    nan, inf = np.nan, np.inf
    x = np.array([[[1, 1, 0, nan, nan, 2, -inf, -inf, 5, 5]]], np.float32)
    far = {"stride": 3, "padding": ((4, 7),)}

    def body():
        with backend.context(13):
            given = backend.array(x)
            y, i = nnk.max_pool(given, 2, stride=1, return_indices=True)
            z, j = nnk.max_pool(given, 3, return_indices=True, **far)
            ones = backend.array(np.ones((1, 1, 7), np.float32))
            dx = nnk.max_pool_backward(ones, given, 3, **far)
            mean = nnk.avg_pool(given, 3, count_include_pad=False, **far)
            low, _ = nnk.max_pool(
                backend.array(np.zeros((1, 1, 10), np.int8)), 3, return_indices=True, **far
            )
        if backend.recording:
            return
        assert backend.numpy(i).ravel().tolist() == [0, 1, 3, 4, 4, 5, 6, 8, 8]
        assert np.flatnonzero(np.isnan(backend.numpy(y))).tolist() == [2, 3, 4]
        assert backend.numpy(j).ravel().tolist() == [-1, 0, 4, 5, 8, -1, -1]
        assert backend.numpy(z).ravel()[[0, 5, 6]].tolist() == [-inf] * 3
        assert backend.numpy(low).ravel()[[0, 1, 6]].tolist() == [-128, 0, -128]
        assert backend.numpy(dx).ravel().tolist() == [1, 0, 0, 0, 1, 1, 0, 0, 1, 0]
        assert backend.numpy(mean).ravel()[[0, 5, 6]].tolist() == [0, 0, 0]

    backend.precompiled(body)


# ---- identities ------------------------------------------------------------------------------


def inner(a, b):
    return float(np.sum(wide(a) * wide(b)))


def test_gradients_are_adjoint(cpu):
    generator = np.random.default_rng(14)
    shape, options = (2, 3, 9, 23), {"stride": (2, 1), "padding": "same", "dilation": (1, 2)}
    x, v = image(generator, shape, "float64"), image(generator, shape, "float64")
    y, indices = nnk.max_pool(x, 3, return_indices=True, **options)
    dy = image(generator, y.shape, "float64")
    flat = v.reshape(*shape[:2], -1)
    chosen = np.take_along_axis(flat, indices.reshape(*shape[:2], -1), 2).reshape(y.shape)
    found = [
        (chosen, nnk.max_pool_backward(dy, x, 3, **options)),
        (nnk.avg_pool(v, 3, **options), nnk.avg_pool_backward(dy, shape, 3, **options)),
        (nnk.adaptive_avg_pool(v, y.shape[2:]), nnk.adaptive_avg_pool_backward(dy, shape)),
    ]
    for forward, backward in found:
        assert abs(inner(forward, dy) - inner(v, backward)) < 1e-10 * np.abs(dy).sum()
    places = OPS["max_unpool"].special["indices"](
        generator, (y.shape, y.shape), {"output_shape": shape}
    )
    unpooled = nnk.max_unpool(dy, places, shape)
    assert abs(inner(unpooled, v) - inner(dy, nnk.max_unpool_backward(v, places))) < 1e-10


def test_pullbacks_of_windows_by_keyword(cpu):
    x = image(np.random.default_rng(41), (1, 3, 6, 20), ties=True)
    y, pullback = nnk.vjp(nnk.max_pool, x, kernel_size=2)
    assert_same_numbers(y, expected("max_pool", x, 2), "y")
    dy = image(np.random.default_rng(42), y.shape)
    assert_close(pullback(dy)[0], expected("max_pool_backward", dy, x, 2), 4)


def test_maxima_are_searched_once(cpu, monkeypatch):
    """What differentiates a call keeps the taps, which the call does not return."""
    given, original = [], pool.backward_of_max

    def backward_of_max(pooling, dy, x, taps, out=None):
        given.append(taps is not None)
        return original(pooling, dy, x, taps, out)

    monkeypatch.setattr(pool, "backward_of_max", backward_of_max)
    x = image(np.random.default_rng(43), (1, 3, 6, 20), ties=True)
    dy = image(np.random.default_rng(44), (1, 3, 3, 10))
    right = expected("max_pool_backward", dy, x, 2)
    for found in gradients_of_everything(x, dy):
        assert_close(np.asarray(found), right, 4)
    assert given == [True] * len(given)
    assert given
    # Asked for, indices are a result, and nothing else is kept.
    given.clear()
    (_, indices), pullback = nnk.vjp(nnk.max_pool, x, 2, return_indices=True)
    assert indices.dtype == np.int64
    assert_close(pullback(dy, None)[0], right, 4)
    assert given == [False]
    (_, taps), pullback = nnk.vjp(nnk.max_pool, x, 2, return_indices="taps")
    assert taps.dtype == np.uint8
    assert_close(pullback(dy, None)[0], right, 4)
    assert given == [False, True]


def gradients_of_everything(x, dy):
    """The gradient of a maximum by each tool for differentiation that is there."""
    for options in ({}, {"return_indices": False}):
        y, pullback = nnk.vjp(nnk.max_pool, x, 2, **options)
        assert_same_bits(y, nnk.max_pool(x, 2), "y")
        yield pullback(dy)[0]
    if importlib.util.find_spec("torch") is not None:
        import torch

        from nnkernels.interop import torch as nnt

        leaf, cotangent = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

        def product(x):
            return (nnt.max_pool(x, 2) * cotangent).sum()

        yield torch.autograd.grad(product(leaf), leaf)[0]
        yield torch.func.grad(product)(leaf.detach())
        compiled = torch.compile(product, backend="aot_eager", fullgraph=True)
        yield torch.autograd.grad(compiled(leaf), leaf)[0]
    if importlib.util.find_spec("autograd") is not None:
        yield nnk.value_and_grad(lambda x: (nnk.max_pool(x, 2) * dy).sum())(x)[1]
    if importlib.util.find_spec("jax") is not None:
        import jax

        from nnkernels.interop import jax as nnj

        for transform in (lambda f: f, jax.jit):
            yield transform(jax.grad(lambda x: (nnj.max_pool(x, 2) * dy).sum()))(x)


def test_pullbacks_take_indices_without_a_gradient(cpu):
    x = image(np.random.default_rng(15), (1, 2, 6, 6))
    (y, indices), pullback = nnk.vjp(nnk.max_pool, x, 2, return_indices=True)
    assert_same_bits(pullback(y, None)[0], nnk.max_pool_backward(y, x, 2), "dx")
    with pytest.raises(TypeError, match="indices are not differentiated"):
        pullback(y, indices)
    places, pullback = nnk.vjp(nnk.max_unpool, y, indices, x.shape)
    assert pullback(places)[1] is None


# ---- memory, determinism, threads ------------------------------------------------------------

LAYOUTS = {
    "dense": lambda x: x,
    "channels last": channels_last,
    "every second": lambda x: np.repeat(x, 2, -1)[..., ::2],
    "reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
    "transposed": lambda x: x.swapaxes(-1, -2).copy().swapaxes(-1, -2),
}


@pytest.mark.in_turn
def test_a_view_is_its_copy(backend):
    options = {"stride": 2, "padding": ((1, 2), (2, 0)), "dilation": (1, 2)}

    def body():
        generator = np.random.default_rng(16)
        x = image(generator, (2, 4, 7, 40))
        found = []
        for layout in LAYOUTS.values():
            with backend.context(17):
                given = backend.array(layout(x))
                y, indices = nnk.max_pool(given, 3, return_indices=True, **options)
                mean, norm = nnk.avg_pool(given, 3, **options), nnk.lp_pool(given, 3, **options)
                dx = nnk.max_pool_backward(mean, given, 3, **options)
                dmean = nnk.avg_pool_backward(norm, x.shape, 3, **options)
            results = (y, indices, mean, norm, dx, dmean)
            found.append([np.ascontiguousarray(backend.numpy(r)) for r in results])
        if not backend.recording:
            for name, other in zip(LAYOUTS, found, strict=True):
                for a, b in zip(found[0], other, strict=True):
                    assert_same_bits(a, b, name)

    backend.precompiled(body)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_any_number_of_threads_gives_the_same_bits(last, cpu):
    generator = np.random.default_rng(18)
    x = image(generator, (4, 16, 40, 41))
    x = channels_last(x) if last else x
    dy = image(generator, (4, 16, 20, 21))

    def results():
        y, indices = nnk.max_pool(x, 3, stride=2, padding="same", return_indices=True)
        return (
            y,
            indices,
            nnk.max_pool_backward(dy, x, 3, stride=2, padding="same"),
            nnk.avg_pool(x, 2),
            nnk.avg_pool_backward(dy, x.shape, 3, stride=2, padding="same"),
            nnk.max_unpool(y, indices, x.shape),
            nnk.max_unpool_backward(x, indices),
        )

    found = same_on_any_threads(results)
    right = expected("max_pool_backward", dy, x, 3, stride=2, padding="same")
    assert_close(found[2], right, 9)


def test_the_order_of_threads_does_not_matter(simulator):
    generator = np.random.default_rng(19)
    x = image(generator, (2, 3, 9, 10), ties=True)
    indices = generator.integers(0, 90, x.shape)
    found = []
    for seed in range(3):
        with simulator.context(seed):
            dx = nnk.max_pool_backward(x, x, 3, stride=1, padding=1)
            found.append((dx, nnk.max_unpool(x, indices, (90, 1))))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_same_bits(a, b, "in another order of threads")


@pytest.mark.parametrize(("channels", "width", "place"), [(20, 600, 1), (600, 20, 4)])
def test_no_operand_is_copied(channels, width, place, cpu):
    """Places of maxima are numbers of taps, one byte each, or of elements where rows are short."""
    x = np.ones((4, 2 * channels, 16, 2 * width), np.float32)[:, ::-2, :, ::2]
    out = np.empty((4, channels, 8, width // 2), np.float32)
    dx = np.empty(x.shape, np.float32)
    dy = np.ones(out.shape[::-1], np.float32).T

    def call():
        nnk.max_pool(x, 2, out=out)
        nnk.avg_pool(x, 2, out=out)
        nnk.avg_pool_backward(dy, x.shape, 2, out=dx)
        nnk.max_pool_backward(dy, x, 2, out=dx)

    call()
    tracemalloc.start()
    try:
        call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < place * out.size + 24_000


def test_out_of_any_layout(backend):
    @examples(0.5)
    @given(st.data())
    def right(data):
        x = image(np.random.default_rng(20), (2, 3, 5, 12))
        wanted = expected("max_pool", x, 3, stride=2)
        layout = data.draw(layouts(wanted.shape, 4, byte_shifts=backend.is_cpu, writable=True))
        target = place(np.zeros(wanted.shape, np.float32), layout)
        out = backend.array(target.view)
        with backend.context():
            result = nnk.max_pool(backend.array(x), 3, stride=2, out=out)
        if not backend.recording:
            assert result is out
            assert_same_numbers(backend.numpy(out), wanted, "out")
            assert target.is_unchanged_outside

    backend.precompiled(right)
