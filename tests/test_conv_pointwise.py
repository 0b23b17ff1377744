"""Convolutions that are products of matrices as they are."""

from __future__ import annotations

import numpy as np
import pytest
from convolving import BY_DATA, BY_WEIGHT, FORWARD, assert_right
from strategies import make_numbers

import nnkernels as nnk
from nnkernels.compile.instance import Instance
from nnkernels.inspection.problems import channels_last

# Image, outputs, channels last, options, and which of the convolution and its gradients by the
# image and by the weights need no windows.
CALLS = {
    "images": ((3, 6, 5, 7), 9, False, {}, (True, True, False)),
    "one image": ((1, 6, 5, 7), 9, False, {}, (True, True, True)),
    "channels last": ((3, 6, 5, 7), 9, True, {}, (True, True, True)),
    "groups": ((2, 6, 5, 4), 8, False, {"groups": 2}, (True, True, False)),
    # The other ones of its gradient are zeros: on a CPU a product without terms.
    "every second of a line": ((2, 6, 9), 9, False, {"stride": 2}, (True, False, False)),
    "one pixel": ((7, 6, 1, 1), 9, False, {}, (True, True, True)),
    "one output": ((2, 6, 5, 7), 1, True, {}, (True, True, True)),
    "padding": ((2, 6, 5, 7), 9, False, {"padding": ((0, 0), (0, 1))}, (False, False, False)),
    "every second of a plane": ((2, 6, 5, 7), 9, False, {"stride": 2}, (False, False, False)),
}


@pytest.fixture
def texts(monkeypatch, backend):
    """The C++ types of the kernels that calls ask for."""
    made = []
    original = Instance.__post_init__

    def note(self):
        original(self)
        made.append(self.kernel)

    monkeypatch.setattr(Instance, "__post_init__", note)
    backend.machine.plans.clear()
    return made


@pytest.mark.in_turn
def test_one_tap_is_a_product_of_matrices(backend, texts):
    def body():
        generator = np.random.default_rng(99)
        for name, (x_shape, outputs, last, options, plain) in CALLS.items():
            w_shape = (outputs, x_shape[1] // options.get("groups", 1), *(1 for _ in x_shape[2:]))
            y_shape = (x_shape[0], outputs, *output_sides(x_shape, options))
            x, dy = (laid(generator, shape, last) for shape in (x_shape, y_shape))
            w, bias = (make_numbers(generator, s, "float32") for s in (w_shape, (outputs,)))
            bias = bias if name != "groups" else None
            own = [None if a is None else backend.array(a) for a in (x, w, bias, dy)]
            windows = []
            with backend.context(3):
                texts.clear()
                y = nnk.conv(*own[:3], **options)
                windows.append(sees_windows(texts))
                dx = nnk.conv_backward_data(own[3], own[1], x_shape, **options)
                windows.append(sees_windows(texts))
                dw = nnk.conv_backward_weight(own[3], own[0], w_shape, **options)
                windows.append(sees_windows(texts))
            if backend.recording:
                if name == "every second of a line" and not backend.is_cpu:
                    plain = (True, True, False)
                assert windows == [not p for p in plain], name
                continue
            y, dx, dw = (backend.numpy(a) for a in (y, dx, dw))
            assert_right(FORWARD, [x, w, bias], options, y, x_shape[1], name)
            assert_right(BY_DATA, [dy, w], options | {"x_shape": x_shape}, dx, outputs, name)
            by_weight = options | {"weight_shape": w_shape}
            assert_right(BY_WEIGHT, [dy, x], by_weight, dw, dy.size // outputs, name)

    backend.precompiled(body)


@pytest.mark.in_turn
def test_images_of_few_pixels_share_packed_weights(backend, texts):
    """On a CPU, a gradient by images whose weights are packed is one product of their pixels."""

    def body():
        generator = np.random.default_rng(98)
        for images, outputs, joined in ((3, 256, True), (1, 256, False), (3, 20, False)):
            w_shape = (outputs, 260, 1, 1)
            x_shape, y_shape = (images, 260, 3, 7), (images, outputs, 3, 7)
            dy, w = (make_numbers(generator, s, "float32") for s in (y_shape, w_shape))
            with backend.context(3):
                texts.clear()
                own = backend.array(dy), backend.array(w)
                dx = nnk.conv_backward_data(*own, x_shape)
            if backend.recording:
                assert sees_windows(texts) == (joined and backend.is_cpu)
                continue
            options = {"x_shape": x_shape}
            assert_right(BY_DATA, [dy, w], options, backend.numpy(dx), outputs, f"{images} images")

    backend.precompiled(body)


def sees_windows(texts):
    """Whether one of the kernels does; they are forgotten then."""
    found = any("Conv" in text for text in texts)
    texts.clear()
    return found


def laid(generator, shape, last):
    values = make_numbers(generator, shape, "float32")
    if not last:
        return values
    view = channels_last(shape, values.dtype)
    view[...] = values
    return view


def output_sides(shape, options):
    stride, padding = options.get("stride", 1), options.get("padding", ((0, 0),) * 3)
    return tuple(
        (n + sum(pads) - 1) // stride + 1 for n, pads in zip(shape[2:], padding, strict=False)
    )
