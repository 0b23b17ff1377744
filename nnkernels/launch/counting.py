"""Which kernels are started: for examples, tests and the curious, at no cost to other calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nnkernels.compile.instance import Instance


@dataclass(frozen=True)
class Start:
    """One launch of a kernel: the name of its template, and the size of its grid."""

    kernel: str
    blocks: int


class _CountingMachine:
    """A machine that writes down what it starts. Plans are its own, so that none escapes."""

    def __init__(self, machine: Any, starts: list[Start]) -> None:
        self._machine, self._starts = machine, starts
        self.plans: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def prepare(
        self, instance: Instance, blocks: int, shared_bytes: int, traffic: int
    ) -> Callable[[bytes], None]:
        """What the machine itself prepares, with a note before each start."""
        start = self._machine.prepare(instance, blocks, shared_bytes, traffic)
        record = Start(instance.kernel.partition("<")[0], blocks)

        def counted(args: bytes) -> None:
            self._starts.append(record)
            start(args)

        return counted


@contextmanager
def counted_launches() -> Iterator[list[Start]]:
    """Write down every kernel that is started inside a ``with`` block.

    Yields
    ------
    list of Start
        Which grows with each launch: by NumPy arrays on the selected machine and this thread, and
        by CuPy arrays on devices that have been used before (for which other threads are to wait).

    Examples
    --------
    >>> import numpy as np
    >>> import nnkernels as nnk
    >>> from nnkernels.launch.counting import counted_launches
    >>> with counted_launches() as starts:
    ...     _ = nnk.softmax(np.ones((2, 3)))
    >>> [start.kernel for start in starts]
    ['SoftmaxForward']
    """
    from nnkernels.dispatch import machines

    starts: list[Start] = []
    gpu = sys.modules.get("nnkernels.launch.gpu")
    known = dict(gpu._machines) if gpu is not None else {}
    if gpu is not None:
        gpu._machines.update({i: _CountingMachine(m, starts) for i, m in known.items()})
    try:
        with machines.use_machine(_CountingMachine(machines.for_numpy(), starts)):
            yield starts
    finally:
        if gpu is not None:
            gpu._machines.update(known)
