"""Gradients of layer, RMS, group and instance norm on every machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, wide
from hypothesis import given
from hypothesis import strategies as st
from norms import Call, laid_out, make_call
from strategies import examples, make_numbers, numbers
from test_norm import GROUPS, RMS_SHAPES, ROW_NORMS, SHAPES, THREADED, calls
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.config import norm_backward as config
from nnkernels.config import rows
from nnkernels.registry import FLOATING

# ---- any layout ----------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
def test_any_layout(name, backend):
    @st.composite
    def cases(draw):
        call, placed = draw(calls(name, backend))
        dy = draw(numbers(call.x.shape, call.x.dtype.name, kinds=("ordinary",)))
        placed.append(laid_out(draw, dy, backend))
        return call, placed

    @examples(0.4)
    @given(cases(), st.integers(0, 99))
    def right(case, seed):
        call, placed = case
        dy = placed[-1].view
        with backend.context(seed):
            found = call.run_backward(backend, dy)
        if backend.recording:
            return
        assert all(p.is_unchanged for p in placed)
        found = tuple(None if part is None else backend.numpy(part) for part in found)
        call.x = call.x.copy()
        call.assert_right_backward(found, dy.copy(), f" {call.shared}")

    backend.precompiled(right)


@pytest.mark.in_turn
def test_rows_of_every_length(backend):
    def body():
        generator = np.random.default_rng(80)
        for name, (shape, axis) in [*(("layer_norm", s) for s in SHAPES), *RMS_SHAPES]:
            call = make_call(name, generator, shape, axis=axis)
            dy = make_numbers(generator, shape, "float32")
            with backend.context(2):
                found = call.run_backward(backend, dy)
            if not backend.recording:
                call.assert_right_backward(backend.numpy(found), dy, f" of {shape}")

    backend.precompiled(body)


def test_a_very_long_row(cpu):
    generator = np.random.default_rng(81)
    call = make_call("layer_norm", generator, (1, 2**20 + 3))
    dy = make_numbers(generator, call.x.shape, "float32")
    call.assert_right_backward(call.run_backward(cpu, dy), dy)


@pytest.mark.in_turn
@pytest.mark.parametrize("dtype", [d for d in FLOATING if d != "float32"])
def test_every_dtype(dtype, backend):
    def body():
        generator = np.random.default_rng(82)
        found = [make_call(name, generator, (6, 70), dtype) for name in ROW_NORMS]
        found += [make_call("group_norm", generator, s, dtype, **o) for s, o in GROUPS[:1]]
        if dtype in ("float16", "bfloat16"):
            found += [make_call("layer_norm", generator, (6, 70), dtype, "float32")]
        for call in found:
            dy = make_numbers(generator, call.x.shape, dtype)
            with backend.context(3):
                gradients = call.run_backward(backend, dy)
            if not backend.recording:
                call.assert_right_backward(backend.numpy(gradients), dy, f" of {dtype}")

    backend.precompiled(body)


@pytest.mark.in_turn
def test_groups(backend):
    def body():
        generator = np.random.default_rng(83)
        cases = [("group_norm", *case) for case in GROUPS]
        for name, shape, options in [*cases, ("instance_norm", (3, 5, 41), {})]:
            call = make_call(name, generator, shape, **options)
            dy = make_numbers(generator, shape, "float32")
            last = np.moveaxis(np.ascontiguousarray(np.moveaxis(call.x, 1, -1)), -1, 1)
            for x in (call.x, last):
                call.x = x
                with backend.context(4):
                    found = call.run_backward(backend, dy)
                if not backend.recording:
                    call.assert_right_backward(backend.numpy(found), dy, f" of {shape}, {options}")

    backend.precompiled(body)


# ---- what is fused -------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm"])
def test_cotangent_of_the_sum_and_activation(name, backend):
    def body():
        generator = np.random.default_rng(85)
        for dtype, activation in (("float32", "silu"), ("float16", None)):
            shape, options = GROUPS[0] if name == "group_norm" else ((5, 130), {})
            call = make_call(name, generator, shape, dtype, activation=activation, **options)
            dy, dsum = (make_numbers(generator, shape, dtype) for _ in range(2))
            dsum = np.asfortranarray(dsum)
            with backend.context(8):
                found = call.run_backward(backend, dy, dresidual=dsum)
            if not backend.recording:
                what = f" of a sum, {dtype}"
                call.assert_right_backward(backend.numpy(found), dy, what, dresidual=dsum)

    backend.precompiled(body)


@pytest.mark.in_turn
def test_an_activation_of_a_narrow_type_is_not_rounded(backend):
    # Neither what goes into it nor its cotangent: rounded to float16, either is off by 2e-4.
    cases = (
        ("layer_norm", "bfloat16", (6, 70), {}),
        ("group_norm", "float16", *GROUPS[0]),
        ("batch_norm", "float16", (3, 4, 30), {"training": True}),
    )

    def body():
        generator = np.random.default_rng(92)
        for name, dtype, shape, options in cases:
            call = make_call(name, generator, shape, dtype, "float32", activation="tanh", **options)
            dy = make_numbers(generator, shape, dtype)
            with backend.context(11):
                found = call.run_backward(backend, dy)
            if backend.recording:
                continue
            parameters = [p.astype(np.float64) for p in call.parameters]
            exact = Call(name, wide(call.x), parameters, call.shared).expected_backward(wide(dy))
            for got, wanted in zip(backend.numpy(found)[1:], exact[1:], strict=True):
                error = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
                assert error < 2e-5, f"{name}, {dtype}"

    backend.precompiled(body)


@pytest.mark.in_turn
def test_pullback_of_a_sum(backend):
    # y = norm(x + r) and the sum itself: by central differences along one direction.
    def body():
        generator = np.random.default_rng(86)
        x, r, dy, dsum, along = (make_numbers(generator, (4, 33), "float64") for _ in range(5))
        weight = make_numbers(generator, (33,), "float64")
        step = 1e-5
        with backend.context(9):
            arrays = [backend.array(a) for a in (x, weight)]
            residual = backend.array(r)
            _, pullback = nnk.vjp(nnk.rms_norm, *arrays, residual=residual, offset=1.0)
            found = pullback(backend.array(dy), backend.array(dsum))
            (alone, *_) = pullback(backend.array(dy), None)
            sides = [
                nnk.rms_norm(
                    arrays[0], arrays[1], residual=backend.array(r + s * along), offset=1.0
                )
                for s in (step, -step)
            ]
        if backend.recording:
            return
        dx, dweight, dresidual = backend.numpy(found)
        assert_same_bits(dx, dresidual, "gradients of what is added")
        assert dweight.shape == (33,)
        (above, sum_above), (below, sum_below) = map(backend.numpy, sides)
        quotient = np.sum(dy * (above - below) + dsum * (sum_above - sum_below)) / (2 * step)
        assert abs(np.sum(dx * along) - quotient) < 1e-7 * np.sum(np.abs(dx))
        assert_close(backend.numpy(alone) + dsum, dx, 33, scale=20.0)

    backend.precompiled(body)


# ---- identities ----------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize(("shape", "axis"), [((7, 130), 1), ((130, 7), 0)], ids=str)
def test_gradients_are_tangent(shape, axis, backend):
    # A layer norm changes neither with a shift nor with the scale of its row (without eps), so
    # its gradient is orthogonal to ones and to x; that of an RMS norm to x.
    def body():
        generator = np.random.default_rng(87)
        x, dy = (make_numbers(generator, shape, "float32") for _ in range(2))
        with backend.context(10):
            layer, *nothing = nnk.layer_norm_backward(
                backend.array(dy), backend.array(x), axis=axis, eps=0.0
            )
            square, _ = nnk.rms_norm_backward(
                backend.array(dy), backend.array(x), axis=axis, eps=0.0
            )
        if backend.recording:
            return
        assert nothing == [None, None]
        zero = np.zeros(7)
        layer, square = wide(backend.numpy(layer)), wide(backend.numpy(square))
        for total in (layer.sum(axis), (layer * x).sum(axis), (square * x).sum(axis)):
            assert np.all(np.abs(total - zero) < 130 * 1e-5)

    backend.precompiled(body)


# ---- memory, determinism, threads ----------------------------------------------------------------


@pytest.mark.parametrize(("shape", "axis"), THREADED, ids=str)
def test_any_number_of_threads_gives_the_same_bits(shape, axis, cpu):
    generator = np.random.default_rng(88)
    call = make_call("layer_norm", generator, shape, axis=axis)
    dy = make_numbers(generator, shape, "float32")
    found = same_on_any_threads(lambda: call.run_backward(cpu, dy))
    call.assert_right_backward(found, dy)


def test_the_order_of_threads_does_not_matter(simulator):
    generator = np.random.default_rng(89)
    for shape, axis in (((3, 700), 1), ((90, 12), 0)):
        call = make_call("layer_norm", generator, shape, axis=axis)
        dy = make_numbers(generator, shape, "float32")
        found = []
        for seed in range(4):
            with simulator.context(seed):
                found.append(call.run_backward(simulator, dy))
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                assert_same_bits(a, b, "gradients in another order of threads")


def test_long_rows_take_the_sums_with_them(simulator, monkeypatch):
    # Rows that no chip of 8 KiB holds, in three parts, of which the last is short, and two ranges.
    machine, found = simulator.machine, []
    small = replace(machine.device, processors=4, shared_limit=8192, cache_bytes=0)
    configure = config.configure

    def recorded(problem, device):
        found.append(configure(problem, device))
        return found[-1]

    monkeypatch.setattr(machine, "device", small)
    monkeypatch.setattr(config, "configure", recorded)
    monkeypatch.setattr(config, "_GPU_PART", 2048)
    monkeypatch.setattr(rows, "_GPU_KEPT", 4)

    def body():
        machine.plans.clear()
        generator = np.random.default_rng(96)
        for name, length, dtype in (
            ("layer_norm", 4104, "float32"),
            ("rms_norm", 4099, "float32"),
            ("layer_norm", 4104, "float16"),
        ):
            call = make_call(name, generator, (23, length), dtype=dtype)
            dy = make_numbers(generator, call.x.shape, dtype)
            with simulator.context(3):
                gradients = call.run_backward(simulator, dy)
            if not simulator.recording:
                call.assert_right_backward(simulator.numpy(gradients), dy, f" of {name}, {length}")

    simulator.precompiled(body)
    machine.plans.clear()
    assert {(f.rows.parts, f.blocks, f.tiles_of_block) for f in found} == {(3, 2, 12)}
    assert {f.sums for f in found} == {config.WEIGHT_SUMS, config.PARAMETER_SUMS}


# ---- a second oracle -----------------------------------------------------------------------------


def test_pytorch_agrees(cpu):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    generator = np.random.default_rng(90)
    calls = [
        ("layer_norm", (6, 35), {}, lambda x, w, b: functional.layer_norm(x, (35,), w, b)),
        ("rms_norm", (6, 33), {}, lambda x, w: functional.rms_norm(x, (33,), w, 1e-6)),
        (
            "group_norm",
            (3, 8, 5, 4),
            {"num_groups": 4},
            lambda x, w, b: functional.group_norm(x, 4, w, b),
        ),
        (
            "instance_norm",
            (3, 5, 41),
            {},
            lambda x, w, b: functional.instance_norm(x, weight=w, bias=b),
        ),
    ]
    for name, shape, options, function in calls:
        call = make_call(name, generator, shape, "float64", activation="silu", **options)
        dy = make_numbers(generator, shape, "float64")
        leaves = [torch.from_numpy(a).requires_grad_() for a in (call.x, *call.parameters)]
        functional.silu(function(*leaves)).backward(torch.from_numpy(dy))
        for got, leaf in zip(call.run_backward(cpu, dy), leaves, strict=True):
            assert_close(got, leaf.grad.numpy(), 100, scale=20.0, what=f"gradient of {name}")
