"""The normalisations in PyTorch, and the operators that autograd calls for their gradients.

These take the statistics that the forward pass has saved. They are computed in the untimed first
call on each set of operands, and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Call = Callable[..., Any]
Pair = tuple[Call, Call | None]

EPS, RMS_EPS, MOMENTUM = 1e-5, 1e-6, 0.1
ALL = [True, True, True]


def table(torch: Any, axis: int | None, groups: int | None) -> dict[str, Pair]:
    """A call for each op at the axis that PyTorch has; none takes ``out=``."""
    calls: dict[str, Call] = {}
    if axis == -1:
        calls |= _of_rows(torch)
    elif axis == 1:
        calls |= _of_channels(torch) | _of_groups(torch, groups)
    return {name: (call, None) for name, call in calls.items()}


def saved(compute: Call, backward: Call) -> Call:
    """A gradient, with what the forward pass keeps of the operands at the same addresses."""
    found: dict[int, Any] = {}

    def call(dy: Any, x: Any, *parameters: Any) -> Any:
        at = x.data_ptr()
        if at not in found:
            found[at] = compute(x, *parameters)
        return backward(found[at], dy, x, *parameters)

    return call


def _by_autograd(torch: Any, function: Call) -> Call:
    """The gradient of a function that is no operator of its own: autograd itself."""

    def compute(*operands: Any) -> Any:
        leaves = [operand.detach().requires_grad_() for operand in operands]
        return leaves, function(*leaves)

    def backward(saved: Any, dy: Any, *operands: Any) -> Any:
        leaves, y = saved
        return torch.autograd.grad(y, leaves, dy, retain_graph=True)

    return saved(compute, backward)


def _of_rows(torch: Any) -> dict[str, Call]:
    functional, aten = torch.nn.functional, torch.ops.aten

    def rms_norm(x: Any, weight: Any) -> Any:
        return functional.rms_norm(x, x.shape[-1:], weight, RMS_EPS)

    def statistics(x: Any, weight: Any, bias: Any) -> Any:
        return aten.native_layer_norm(x, x.shape[-1:], weight, bias, EPS)[1:]

    def gradients(saved: Any, dy: Any, x: Any, weight: Any, bias: Any) -> Any:
        return aten.native_layer_norm_backward(dy, x, x.shape[-1:], *saved, weight, bias, ALL)

    return {
        "layer_norm": lambda x, w, b: functional.layer_norm(x, x.shape[-1:], w, b, EPS),
        "layer_norm_backward": saved(statistics, gradients),
        "rms_norm": rms_norm,
        "rms_norm_backward": _by_autograd(torch, rms_norm),
    }


def _of_channels(torch: Any) -> dict[str, Call]:
    functional, aten = torch.nn.functional, torch.ops.aten

    def batch_norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
        y = functional.batch_norm(x, mean, var, weight, bias, True, MOMENTUM, EPS)
        return y, mean, var  # the running statistics are updated in place

    def statistics(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
        return aten.native_batch_norm(x, weight, bias, None, None, True, MOMENTUM, EPS)[1:]

    def gradients(saved: Any, dy: Any, x: Any, w: Any, bias: Any, mean: Any, var: Any) -> Any:
        return aten.native_batch_norm_backward(dy, x, w, mean, var, *saved, True, EPS, ALL)

    return {"batch_norm": batch_norm, "batch_norm_backward": saved(statistics, gradients)}


def _of_groups(torch: Any, groups: int | None) -> dict[str, Call]:
    functional = torch.nn.functional

    def instance_norm(x: Any, weight: Any, bias: Any) -> Any:
        return functional.instance_norm(x, None, None, weight, bias, True, MOMENTUM, EPS)

    def group_norm(x: Any, weight: Any, bias: Any) -> Any:
        return functional.group_norm(x, groups, weight, bias, EPS)

    return {
        "group_norm": group_norm,
        "group_norm_backward": _by_autograd(torch, group_norm),
        "instance_norm": instance_norm,
        "instance_norm_backward": _by_autograd(torch, instance_norm),
    }
