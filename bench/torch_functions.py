"""The ops in PyTorch: eager functions, and for gradients the operators that autograd calls.

Calling ``aten::softmax_backward_data`` and its like times PyTorch's own kernel, without the
bookkeeping of autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Call = Callable[..., Any]
Pair = tuple[Call, Call | None]

SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717


def table(torch: Any, axis: int | None) -> dict[str, Pair]:
    """A call and a call with ``out=`` (or None) for each op, arguments in nnkernels' order."""
    functions = _rows(torch, axis) | _activations(torch) | _gradients(torch) | _gated(torch, axis)
    functions |= _products(torch)
    functions |= _perceptrons(torch)
    if axis == 1:  # the only one that PyTorch has
        functions["prelu"] = torch.nn.functional.prelu, None
    return functions


def _aten(torch: Any, name: str, *options: Any) -> Pair:
    """An operator with its array arguments first and these options after them."""
    packet = getattr(torch.ops.aten, name)
    plain, with_out = packet.default, None
    for overload in map(packet.__getattr__, packet.overloads()):
        outputs = [argument.name for argument in overload._schema.arguments if argument.is_out]
        if len(outputs) == 1:
            with_out = _writing(overload, outputs[0], options)
    if not options:
        return plain, with_out
    return lambda *arrays: plain(*arrays, *options), with_out


def _writing(overload: Call, argument: str, options: tuple[Any, ...]) -> Call:
    return lambda *arrays, out: overload(*arrays, *options, **{argument: out})


def _perceptrons(torch: Any) -> dict[str, Pair]:
    linear = torch.nn.functional.linear

    def mlp(x: Any, *layers: Any, activation: Call = torch.relu) -> Any:
        count = len(layers) // 2
        pairs = list(zip(layers[:count], layers[count:], strict=True))
        for weight, bias in pairs[:-1]:
            x = activation(linear(x, weight, bias))
        return linear(x, *pairs[-1])

    def mlp_backward(dy: Any, *arrays: Any) -> Any:
        leaves = [array.detach().requires_grad_() for array in arrays]
        return torch.autograd.grad(mlp(*leaves, activation=torch.nn.functional.silu), leaves, dy)

    return {"mlp": (mlp, None), "mlp_backward": (mlp_backward, None)}


def _products(torch: Any) -> dict[str, Pair]:
    def matmul(a: Any, b: Any, **out: Any) -> Any:
        if a.dtype in (torch.int8, torch.uint8):  # the product with sums of 32 bits
            return torch.ops.aten._int_mm(a, b, **out)
        return torch.matmul(a, b, **out)

    def gemv(a: Any, x: Any, y: Any) -> Any:
        return torch.addmv(y, a, x) if a.dim() == 2 else (a @ x[..., None])[..., 0] + y

    linear = torch.nn.functional.linear
    return {
        "matmul": (matmul, matmul),
        "matmul_backward": (lambda dy, a, b: (dy @ b.mH, a.mH @ dy), None),
        "gemm": (lambda a, b, c: torch.addmm(c, a, b) if a.dim() == 2 else a @ b + c, None),
        "gemv": (gemv, None),
        "linear": (linear, torch.ops.aten.linear.out),
        "linear_backward": (_linear_backward, None),
    }


def _linear_backward(dy: Any, x: Any, weight: Any, bias: Any) -> Any:
    rows = dy.reshape(-1, dy.shape[-1])
    return dy @ weight, rows.mT @ x.reshape(-1, x.shape[-1]), rows.sum(0)


def _rows(torch: Any, axis: int | None) -> dict[str, Pair]:
    functional, aten = torch.nn.functional, torch.ops.aten

    def backward(name: str, argument: str) -> Pair:
        packet = getattr(aten, name)
        plain, writing = packet.default, packet.out
        return (
            lambda dy, y: plain(dy, y, axis, dy.dtype),
            lambda dy, y, out: writing(dy, y, axis, dy.dtype, **{argument: out}),
        )

    return {
        "softmax": (
            lambda x: functional.softmax(x, axis),
            lambda x, out: torch.softmax(x, axis, out=out),
        ),
        "log_softmax": (
            lambda x: functional.log_softmax(x, axis),
            lambda x, out: torch.log_softmax(x, axis, out=out),
        ),
        "logsumexp": (
            lambda x: torch.logsumexp(x, axis),
            lambda x, out: torch.logsumexp(x, axis, out=out),
        ),
        "softmax_backward": backward("_softmax_backward_data", "grad_input"),
        "log_softmax_backward": backward("_log_softmax_backward_data", "out"),
        # What autograd does; there is no operator for it.
        "logsumexp_backward": (
            lambda dy, x, y: dy.unsqueeze(axis) * (x - y.unsqueeze(axis)).exp(),
            None,
        ),
    }


def _activations(torch: Any) -> dict[str, Pair]:
    functional = torch.nn.functional

    def out_of(name: str, *options: Any) -> Call | None:
        return _aten(torch, name, *options)[1]

    return {
        "relu": (functional.relu, out_of("relu")),
        "relu6": (functional.relu6, out_of("hardtanh", 0, 6)),
        "hard_tanh": (functional.hardtanh, out_of("hardtanh", -1, 1)),
        "leaky_relu": (functional.leaky_relu, out_of("leaky_relu")),
        "threshold_relu": (
            lambda x: functional.threshold(x, 1.0, 0.0),
            out_of("threshold", 1.0, 0.0),
        ),
        "elu": (functional.elu, out_of("elu")),
        "celu": (functional.celu, out_of("celu")),
        "selu": (functional.selu, out_of("selu")),
        "sigmoid": (torch.sigmoid, torch.sigmoid),
        "log_sigmoid": (functional.logsigmoid, out_of("log_sigmoid")),
        "hard_sigmoid": (functional.hardsigmoid, out_of("hardsigmoid")),
        "softplus": (functional.softplus, out_of("softplus")),
        "tanh": (torch.tanh, torch.tanh),
        "tanh_shrink": (functional.tanhshrink, None),
        "lisht": (lambda x: x * torch.tanh(x), None),
        "softsign": (functional.softsign, None),
        "silu": (functional.silu, out_of("silu")),
        "gelu": (functional.gelu, out_of("gelu")),
        "mish": (functional.mish, out_of("mish")),
        "hard_swish": (functional.hardswish, out_of("hardswish")),
        "soft_shrink": (functional.softshrink, out_of("softshrink")),
        "hard_shrink": (functional.hardshrink, out_of("hardshrink")),
    }


def _gradients(torch: Any) -> dict[str, Pair]:
    elu = torch.ops.aten.elu_backward

    def elu_backward(alpha: float, scale: float) -> Pair:
        return (
            lambda dy, x: elu.default(dy, alpha, scale, 1.0, False, x),
            lambda dy, x, out: elu.grad_input(dy, alpha, scale, 1.0, False, x, grad_input=out),
        )

    return {
        "relu_backward": _aten(torch, "threshold_backward", 0),
        "relu6_backward": _aten(torch, "hardtanh_backward", 0, 6),
        "hard_tanh_backward": _aten(torch, "hardtanh_backward", -1, 1),
        "leaky_relu_backward": _aten(torch, "leaky_relu_backward", 0.01, False),
        "threshold_relu_backward": _aten(torch, "threshold_backward", 1.0),
        "elu_backward": elu_backward(1.0, 1.0),
        "celu_backward": elu_backward(1.0, 1.0),
        "selu_backward": elu_backward(SELU_ALPHA, SELU_SCALE),
        "sigmoid_backward": _aten(torch, "sigmoid_backward"),
        "hard_sigmoid_backward": _aten(torch, "hardsigmoid_backward"),
        "softplus_backward": _aten(torch, "softplus_backward", 1.0, 20.0),
        "tanh_backward": _aten(torch, "tanh_backward"),
        "silu_backward": _aten(torch, "silu_backward"),
        "gelu_backward": _aten(torch, "gelu_backward"),
        "mish_backward": _aten(torch, "mish_backward"),
        "hard_swish_backward": _aten(torch, "hardswish_backward"),
        "soft_shrink_backward": _aten(torch, "softshrink_backward", 0.5),
        "hard_shrink_backward": _aten(torch, "hardshrink_backward", 0.5),
    }


def _gated(torch: Any, axis: int | None) -> dict[str, Pair]:
    functional = torch.nn.functional
    return {
        "glu": (
            lambda x: functional.glu(x, axis),
            lambda x, out: torch.ops.aten.glu.out(x, axis, out=out),
        ),
        "glu_backward": _aten(torch, "glu_backward", axis),
        "swiglu": (lambda x, gate: x * functional.silu(gate), None),
        "geglu": (lambda x, gate: x * functional.gelu(gate), None),
    }
