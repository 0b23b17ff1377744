"""Kernel arguments as bytes: the layout that C++ compilers on every machine give the struct."""

from __future__ import annotations

import struct
from collections.abc import Iterable

_SIZES = {"i": 4, "I": 4, "q": 8, "f": 4, "d": 8}


class Packer:
    """Appends fields with the alignment that C++ gives them.

    The pointers stand first in every argument struct and change with every call: ``pointers``
    of them are left out here, and only count for the alignment.
    """

    def __init__(self, pointers: int, index: str) -> None:
        self._start = 8 * pointers
        self._bytes = bytearray()
        self._alignment = 8
        self.index = index  # "i" or "q"

    def align(self, alignment: int) -> None:
        """Begin a struct of some alignment."""
        self._alignment = max(self._alignment, alignment)
        position = self._start + len(self._bytes)
        self._bytes += bytes(-position % alignment)

    def add(self, kind: str, *values: float) -> None:
        """Numbers of one kind: ``i`` int32, ``I`` uint32, ``q`` int64, ``f``, ``d``."""
        self.align(_SIZES[kind])
        self._bytes += struct.pack(f"={len(values)}{kind}", *values)

    def add_index(self, *values: int) -> None:
        """Numbers of the kernel's Index type."""
        self.add(self.index, *values)

    def add_divisor(self, divisor: int, index: str = "") -> None:
        """A ``Divisor`` of the kernel's Index type or another: see ``cuda_src/nnk/view.cuh``."""
        if (index or self.index) == "q":
            self.add("q", divisor, 0)
            return
        shift = (divisor - 1).bit_length()
        magic = ((1 << 32) * ((1 << shift) - divisor)) // divisor + 1
        self.add("i", divisor)
        self.add("I", magic)
        self.add("i", shift, 0)

    def add_divisors(self, divisors: Iterable[int]) -> None:
        """An array of ``Divisor<Index>``."""
        for divisor in divisors:
            self.add_divisor(divisor)

    def add_scalars(self, dtype_name: str, values: Iterable[complex]) -> None:
        """Numbers of a computing type: float32, float64, an integer or a complex type."""
        if dtype_name in ("complex64", "complex128"):
            kind, size = ("f", 8) if dtype_name == "complex64" else ("d", 16)
            for value in values:
                self.align(size)
                self.add(kind, value.real, value.imag)
        elif dtype_name in ("float32", "float64"):
            self.add({"float32": "f", "float64": "d"}[dtype_name], *map(_finite_double, values))
        else:
            self._add_integers(dtype_name, values)

    def _add_integers(self, dtype_name: str, values: Iterable[complex]) -> None:
        size = int(dtype_name.lstrip("uint")) // 8
        signed = not dtype_name.startswith("u")
        low, high = (
            (-(1 << 8 * size - 1), (1 << 8 * size - 1) - 1) if signed else (0, (1 << 8 * size) - 1)
        )
        for value in values:
            self.align(size)
            clipped = min(max(int(value.real), low), high)
            self._bytes += clipped.to_bytes(size, "little", signed=signed)

    def finish(self) -> bytes:
        """All fields, padded to the alignment of the struct."""
        self.align(self._alignment)
        return bytes(self._bytes)


def _finite_double(value: complex) -> float:
    return float(value.real)


def pointer_struct(count: int) -> struct.Struct:
    """Packs the pointers of one call."""
    return struct.Struct(f"={count}Q")
