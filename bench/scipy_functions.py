"""The ops in SciPy: `scipy.special`, convolutions by `scipy.signal`, images by `scipy.ndimage`.

As one would write them, with NumPy for what is left. Types of 16 bits, which most of these
functions do not have, are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[..., Any]
Pair = tuple[Call, Call | None]

_DTYPES = ("float32", "float64")
_ORDERS = {"nearest": 0, "linear": 1}


def table(
    scipy: Any,
    shape: tuple[int, ...],
    axis: int | None,
    options: dict[str, Any],
    dtype: str,
) -> dict[str, Pair]:
    """A call and one with ``out=`` (or None) for each op with these options."""
    if dtype not in _DTYPES:
        return {}
    functions = _special(scipy.special) | _rows(scipy.special, axis)
    functions |= _images(scipy.ndimage, shape, options)
    if options.get("stride") == 1 and options.get("groups") == 1:
        functions["conv"] = _convolution(scipy.signal, options["padding"]), None
    return functions


def _special(special: Any) -> dict[str, Pair]:
    """Activations by the functions of `scipy.special`, all of them ufuncs."""

    def both(call: Call) -> Pair:
        return call, call

    def softplus(x: Any, out: Any = None) -> Any:
        return np.negative(special.log_expit(-x), out=out)

    def silu(x: Any, out: Any = None) -> Any:
        return np.multiply(x, special.expit(x), out=out)

    def sigmoid_backward(dy: Any, y: Any, out: Any = None) -> Any:
        return np.multiply(dy, y * (1 - y), out=out)

    return {
        "sigmoid": both(lambda x, out=None: special.expit(x, out=out)),
        "log_sigmoid": both(lambda x, out=None: special.log_expit(x, out=out)),
        "softplus": both(softplus),
        "silu": both(silu),
        "silu_backward": both(lambda dy, x, out=None: _silu_backward(special, dy, x, out)),
        "gelu": both(lambda x, out=None: np.multiply(x, special.ndtr(x), out=out)),
        "gelu_backward": both(lambda dy, x, out=None: _gelu_backward(special, dy, x, out)),
        "swiglu": both(lambda x, gate, out=None: np.multiply(x, silu(gate), out=out)),
        "geglu": both(lambda x, gate, out=None: np.multiply(x, gate * special.ndtr(gate), out=out)),
        "sigmoid_backward": both(sigmoid_backward),
    }


def _silu_backward(special: Any, dy: Any, x: Any, out: Any) -> Any:
    s = special.expit(x)
    return np.multiply(dy, s * (1 + x * (1 - s)), out=out)


def _gelu_backward(special: Any, dy: Any, x: Any, out: Any) -> Any:
    density = np.exp(-0.5 * x * x) * (1 / np.sqrt(2 * np.pi)).astype(x.dtype)
    return np.multiply(dy, special.ndtr(x) + x * density, out=out)


def _rows(special: Any, axis: int | None) -> dict[str, Pair]:
    return {
        "softmax": (lambda x: special.softmax(x, axis), None),
        "log_softmax": (lambda x: special.log_softmax(x, axis), None),
        "logsumexp": (lambda x: special.logsumexp(x, axis), None),
    }


def _convolution(signal: Any, padding: Any) -> Call:
    """Sums over channels and windows: `correlate` takes one image and one filter."""

    def conv(x: Any, weight: Any, *bias: Any) -> Any:
        spatial = weight.ndim - 2
        sides = [padding] * spatial if isinstance(padding, int) else list(padding)
        padded = np.pad(x, [(0, 0), (0, 0), *((side, side) for side in sides)])
        maps = [[signal.correlate(image, taps, "valid")[0] for taps in weight] for image in padded]
        y = np.array(maps)
        for array in bias:
            y += array.reshape(-1, *(1,) * spatial)
        return y

    return conv


def _images(ndimage: Any, shape: tuple[int, ...], options: dict[str, Any]) -> dict[str, Pair]:
    """Resampling by `zoom`, and maxima by `maximum_filter` at every place, of which some stay."""
    rank = len(shape)
    found: dict[str, Pair] = {}
    if options.get("mode") in _ORDERS and "size" in options:
        order = _ORDERS[options["mode"]]
        factors = [1, 1, *(m / n for m, n in zip(options["size"], shape[2:], strict=True))]

        def interpolate(x: Any) -> Any:
            return ndimage.zoom(x, factors, order=order, mode="nearest", grid_mode=True)

        found["interpolate"] = interpolate, None
    if options.get("kernel_size") == 3 and options.get("padding") == 1 and "stride" in options:
        steps = (..., *(slice(None, None, options["stride"]) for _ in range(rank - 2)))

        def max_pool(x: Any) -> Any:
            maxima = ndimage.maximum_filter(
                x, (1, 1, *(3,) * (rank - 2)), mode="constant", cval=-np.inf
            )
            return maxima[steps]

        found["max_pool"] = max_pool, None
    return found
