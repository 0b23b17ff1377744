"""Which template instances a call would compile and launch on an architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.compile.instance import Instance
from nnkernels.config.device import Device
from nnkernels.dispatch.machines import use_machine


@dataclass(frozen=True)
class Launch:
    """One kernel of a call: what is compiled, and with what it is launched."""

    instance: Instance
    blocks: int
    shared_bytes: int


class Recorder:
    """A machine that has a device's properties, and writes down launches instead of doing them."""

    name = "recorder"

    def __init__(self, device: Device) -> None:
        self.device = device
        self.plans: dict[Any, Any] = {}
        self.launches: list[Launch] = []

    def prepare(
        self, instance: Instance, blocks: int, shared_bytes: int, traffic: int
    ) -> Callable[[bytes], None]:
        """Write a launch down."""
        self.launches.append(Launch(instance, blocks, shared_bytes))
        return lambda args: None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A new array. Nothing writes to it, so that a large one takes no memory."""
        return np.empty(shape, dtype)


def launches(
    function: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    options: dict[str, Any],
    device: Device,
) -> list[Launch]:
    """The launches of one call of a public function on a device, in order.

    The call goes the way of every call, through the checks, the plan and the configuration; only
    the machine at its end is another.
    """
    return call(function, arrays, options, device)[0]


def call(
    function: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    options: dict[str, Any],
    device: Device,
) -> tuple[list[Launch], Any]:
    """The launches of one call, and what it returns, which holds nothing."""
    recorder = Recorder(device)
    with use_machine(recorder):
        results = function(*arrays, **options)
    return recorder.launches, results
