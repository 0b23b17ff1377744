"""Padding, windows and resampling in PyTorch, and the operators that autograd calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Call = Callable[..., Any]
Pair = tuple[Call, Call | None]

_MODES = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
_PADS = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
_NUMBERS = {"nearest": 1, "linear": 0, "cubic": 2}  # of grid_sampler_2d


def table(
    torch: Any, shape: tuple[int, ...], options: dict[str, Any], dtype: str
) -> dict[str, Pair]:
    """A call for each op with these options; none takes ``out=``."""
    functional, aten = torch.nn.functional, torch.ops.aten
    mode = options.get("mode", "")
    calls: dict[str, Call] = {
        "unfold": lambda x: functional.unfold(x, 3, padding=1),
        "fold": lambda cols: functional.fold(cols, shape[2:], 3, padding=1),
        "pixel_shuffle": lambda x: functional.pixel_shuffle(x, 2),
        "pixel_unshuffle": lambda x: functional.pixel_unshuffle(x, 2),
    }
    if mode in _PADS:
        calls |= _padding(torch, shape, mode)
    if mode in _MODES:
        calls |= _resampling(functional, aten, mode, options)
        calls |= _sampling(functional, aten, mode)
    if dtype in ("float16", "bfloat16"):  # it adds up in that type
        calls.pop("grid_sample_backward", None)
    return {name: (call, None) for name, call in calls.items()}


def _padding(torch: Any, shape: tuple[int, ...], mode: str) -> dict[str, Call]:
    sides = (1, 1, 1, 1)
    calls = {"pad": lambda x: torch.nn.functional.pad(x, sides, mode=_PADS[mode])}
    names = {"reflect": "reflection_pad2d_backward", "edge": "replication_pad2d_backward"}
    if mode in names:
        backward = getattr(torch.ops.aten, names[mode])
        # Of x it takes the shape alone.
        calls["pad_backward"] = lambda dy: backward(dy, dy.new_empty(shape), sides)
    return calls


def _resampling(functional: Any, aten: Any, mode: str, options: dict[str, Any]) -> dict[str, Call]:
    aligned = () if mode == "nearest" else (False,)
    backward = getattr(aten, f"upsample_{_MODES[mode]}2d_backward")
    more = {} if mode == "nearest" else {"align_corners": False}
    return {
        "interpolate": lambda x: functional.interpolate(
            x, options["size"], mode=_MODES[mode], **more
        ),
        "interpolate_backward": lambda dy: backward(dy, dy.shape[2:], options["x_shape"], *aligned),
    }


def _sampling(functional: Any, aten: Any, mode: str) -> dict[str, Call]:
    def backward(dy: Any, x: Any, grid: Any) -> Any:
        return aten.grid_sampler_2d_backward(dy, x, grid, _NUMBERS[mode], 0, False, [True, True])

    return {
        "grid_sample": lambda x, grid: functional.grid_sample(
            x, grid, _MODES[mode], "zeros", align_corners=False
        ),
        "grid_sample_backward": backward,
    }
