"""Memory of large CPU results, kept for the next one when an array is no longer used.

A new array of 32 MiB or more is memory that the kernel of the operating system first has to clear,
page by page, which can take longer than the computation (a 64 MiB relu: 9.0 ms instead of 2.6). A
program that calls an op in a loop gets its last result's memory back instead. CuPy does the same
for its arrays.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any

import numpy as np

from nnkernels.errors import BackendError
from nnkernels.launch.addresses import numpy_address

# Below this size, malloc itself keeps memory for the next call.
SMALLEST_BYTES = 1 << 20
_DEFAULT_BYTES = 256 << 20
CACHE_LINE = 64
# A block may be larger than what is asked for by this share of it.
_SLACK = 8


def pool_bytes() -> int:
    """How many bytes may wait for their next use: ``$NNKERNELS_POOL_BYTES``, or 256 MiB.

    Raises
    ------
    BackendError
        If the variable is set, and not to a whole number of bytes.
    """
    text = os.environ.get("NNKERNELS_POOL_BYTES", "")
    if not text:
        return _DEFAULT_BYTES
    if not text.isdecimal():
        raise BackendError(
            f"NNKERNELS_POOL_BYTES is {text!r}; it must be a whole number of bytes (0: keep none)"
        )
    return int(text)


class _Block:
    __slots__ = ("memory",)

    def __init__(self, size: int) -> None:
        self.memory = np.empty(size + CACHE_LINE, np.uint8)


class ResultPool:
    """Blocks of memory that no array uses any more, up to a number of bytes.

    There is no lock: lists and dictionaries change in one step, an array may be freed in the midst
    of any statement, and a lock that another thread held at a fork would stay locked.

    Parameters
    ----------
    limit : int
        Bytes that may wait for their next use; beyond them the block that waited longest goes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free: list[_Block] = []
        self._used: dict[int, tuple[Any, _Block]] = {}

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are kept, and not in use."""
        return sum(block.memory.nbytes for block in tuple(self._free))

    def empty(self, shape: tuple[int, ...], dtype: Any, size: int) -> np.ndarray:
        """A new array of `size` bytes that begins at a multiple of 64."""
        block = self._take(size) or self._new(size)
        memory: Any = block.memory
        offset = -numpy_address(memory) % CACHE_LINE
        # What the array and all its views hold on to; with its end the block is free.
        owner: Any = (ctypes.c_char * size).from_buffer(memory, offset)
        reference = weakref.ref(owner, self._give)
        self._used[id(reference)] = (reference, block)
        return np.ndarray(shape, dtype, owner)

    def _take(self, size: int) -> _Block | None:
        most = size + size // _SLACK + CACHE_LINE
        # The last one freed first: it may still be in a cache.
        for block in reversed(tuple(self._free)):
            if size + CACHE_LINE <= block.memory.nbytes <= most:
                try:
                    self._free.remove(block)
                except ValueError:  # another thread was quicker
                    continue
                return block
        return None

    def _new(self, size: int) -> _Block:
        try:
            return _Block(size)
        except MemoryError:
            self._free.clear()
            return _Block(size)

    def _give(self, reference: Any) -> None:
        self._free.append(self._used.pop(id(reference))[1])
        while self.waiting_bytes > self.limit:
            try:
                self._free.pop(0)
            except IndexError:  # another thread did it
                return
