"""Pooling in PyTorch, and the operators that autograd calls for its gradients.

That of a maximum takes the indices that the forward pass has saved. They are computed in the
untimed first call on each set of operands, and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch_norms import saved

Call = Callable[..., Any]
Pair = tuple[Call, Call | None]


def table(torch: Any, rank: int, options: dict[str, Any]) -> dict[str, Pair]:
    """A call for each op on images of two axes, which have an operator for every gradient."""
    if rank != 4:
        return {}
    calls = _adaptive(torch, options) if "output_size" in options else _windows(torch, options)
    return {name: (call, None) for name, call in calls.items()}


def _windows(torch: Any, options: dict[str, Any]) -> dict[str, Call]:
    functional, aten = torch.nn.functional, torch.ops.aten
    if "kernel_size" not in options:
        return {}
    kernel = options["kernel_size"]
    stride, padding = options.get("stride", kernel), options.get("padding", 0)
    sides = [kernel] * 2, [stride] * 2, [padding] * 2

    def indices(x: Any) -> Any:
        return aten.max_pool2d_with_indices(x, *sides, [1, 1], False)[1]

    def to_maxima(found: Any, dy: Any, x: Any) -> Any:
        backward = aten.max_pool2d_with_indices_backward
        return backward(dy, x, *sides, [1, 1], False, found)

    images: dict[bool, Any] = {}  # of x, the operator wants shape and layout alone

    def avg_backward(dy: Any) -> Any:
        last = not dy.is_contiguous()
        if last not in images:
            kind = torch.channels_last if last else torch.contiguous_format
            images[last] = dy.new_empty(options["x_shape"]).to(memory_format=kind)
        return aten.avg_pool2d_backward(dy, images[last], *sides, False, True, None)

    return {
        "max_pool": lambda x: functional.max_pool2d(x, kernel, stride, padding),
        "max_pool_backward": saved(indices, to_maxima),
        "avg_pool": lambda x: functional.avg_pool2d(x, kernel, stride, padding),
        "avg_pool_backward": avg_backward,
        "lp_pool": lambda x: functional.lp_pool2d(x, 2.0, kernel, stride),
    }


def _adaptive(torch: Any, options: dict[str, Any]) -> dict[str, Call]:
    functional, size = torch.nn.functional, options["output_size"]
    return {
        "adaptive_max_pool": lambda x: functional.adaptive_max_pool2d(x, size),
        "adaptive_avg_pool": lambda x: functional.adaptive_avg_pool2d(x, size),
    }
