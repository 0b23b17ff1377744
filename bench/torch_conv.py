"""Convolutions in PyTorch, and the operator that autograd calls for their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Call = Callable[..., Any]
Pair = tuple[Call, Call | None]

_UNKNOWN = ("uint16", "uint32", "uint64")  # to its convolutions
_NARROW = ("int8", "int16", "uint8")  # in whose own type it would sum


def table(
    torch: Any, shape: tuple[int, ...], options: dict[str, Any], dtype: str
) -> dict[str, Pair]:
    """A call for each op with these options; none takes ``out=``."""
    if dtype in _UNKNOWN:
        return {}
    rank = len(shape) - 2
    stride, padding, groups = [options["stride"]] * rank, options["padding"], options["groups"]
    functional = torch.nn.functional
    conv = getattr(functional, f"conv{rank}d")
    transpose = getattr(functional, f"conv_transpose{rank}d")
    zeros = [0] * rank

    def forward(*arrays: Any) -> Any:
        return conv(*arrays, stride, padding, 1, groups)

    def forward_of_narrow(*arrays: Any) -> Any:
        return conv(*(x.to(torch.int32) for x in arrays), stride, padding, 1, groups)

    def transposed(*arrays: Any) -> Any:
        return transpose(*arrays, stride, padding, 0, groups)

    def gradients(
        dy: Any, x: Any, weight: Any, mask: list[bool], bias: Any = None, transposed: bool = False
    ) -> Any:
        sizes = None if bias is None else list(bias.shape)
        return torch.ops.aten.convolution_backward(
            dy, x, weight, sizes, stride, padding, [1] * rank, transposed, zeros, groups, mask
        )

    def of_all(dy: Any, x: Any, weight: Any, bias: Any) -> Any:
        return gradients(dy, x, weight, [True] * 3, bias)

    def of_all_transposed(dy: Any, x: Any, weight: Any, bias: Any) -> Any:
        return gradients(dy, x, weight, [True] * 3, bias, True)

    like = _shaped(torch, rank)

    def of_data(dy: Any, weight: Any) -> Any:
        x = like(dy, options["x_shape"])
        return gradients(dy, x, weight, [True, False, False])[0]

    def of_weight(dy: Any, x: Any) -> Any:
        weight = like(x, options["weight_shape"])
        return gradients(dy, x, weight, [False, True, False])[1]

    calls: dict[str, Call] = {"conv": forward_of_narrow if dtype in _NARROW else forward}
    if "int" not in dtype:
        calls["conv_transpose"] = transposed
    if not dtype.startswith(("int", "uint", "complex")):  # it has no others
        calls |= {"conv_backward_data": of_data, "conv_backward_weight": of_weight}
        calls |= {"conv_backward": of_all, "conv_transpose_backward": of_all_transposed}
    return {name: (call, None) for name, call in calls.items()}


def _shaped(torch: Any, rank: int) -> Call:
    """What the operator asks of an array whose gradient it makes: its shape, and its layout."""
    channels_last = {2: torch.channels_last, 3: torch.channels_last_3d}.get(rank)
    made: dict[Any, Any] = {}

    def like(array: Any, shape: tuple[int, ...]) -> Any:
        key = array.stride(), shape
        if key not in made:
            last = (
                channels_last is not None
                and array.is_contiguous(memory_format=channels_last)
                and not array.is_contiguous()
            )
            kind = channels_last if last else torch.contiguous_format
            made[key] = torch.zeros(shape, dtype=array.dtype, device=array.device).to(
                memory_format=kind
            )
        return made[key]

    return like
