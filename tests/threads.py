"""Calls on several numbers of CPU threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from comparing import assert_same_bits

import nnkernels as nnk
from nnkernels.dispatch.machines import cpu_machine


@contextmanager
def number_of_threads(count: int) -> Iterator[None]:
    """So many threads for a while, and then as many as before."""
    before = cpu_machine().num_threads
    nnk.set_num_threads(count)
    try:
        yield
    finally:
        nnk.set_num_threads(before)


def same_on_any_threads(call: Callable[[], Any]) -> Any:
    """What a function returns, an array or a tuple of them: the same bits on 1, 2 or 3 threads."""
    found = []
    for count in (1, 2, 3, 2):
        with number_of_threads(count):
            result = call()
        found.append(result if isinstance(result, tuple) else (result,))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_same_bits(a, b, "another number of threads")
    return found[0] if len(found[0]) > 1 else found[0][0]
