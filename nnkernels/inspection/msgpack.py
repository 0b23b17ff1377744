"""The part of MessagePack that metadata of AMD's code objects is written in.

https://github.com/msgpack/msgpack/blob/master/spec.md: maps, arrays, strings, integers, booleans
and nil.
"""

from __future__ import annotations

import struct
from typing import Any

_INTEGERS = {
    0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_LENGTHS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"}


def unpack(data: bytes) -> Any:
    """The value that some bytes stand for.

    >>> unpack(bytes([0x82, 0xA1, 0x61, 0x07, 0xA1, 0x62, 0x92, 0xC3, 0xCD, 0x01, 0x00]))
    {'a': 7, 'b': [True, 256]}
    """
    value, _ = _value(data, 0)
    return value


def _value(data: bytes, at: int) -> tuple[Any, int]:
    kind = data[at]
    at += 1
    if kind < 0x80:
        return kind, at
    if kind >= 0xE0:
        return kind - 256, at
    if kind < 0x90:
        return _map(data, at, kind & 15)
    if kind < 0xA0:
        return _array(data, at, kind & 15)
    if kind < 0xC0:
        return _string(data, at, kind & 31)
    if kind in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[kind], at
    if kind in _INTEGERS:
        form = _INTEGERS[kind]
        return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    if kind in _LENGTHS:
        form = _LENGTHS[kind]
        (length,) = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
        read = _string if kind <= 0xDB else _array if kind <= 0xDD else _map
        return read(data, at, length)
    raise ValueError(f"MessagePack type {kind:#x} is not expected in metadata")


def _map(data: bytes, at: int, length: int) -> tuple[dict[Any, Any], int]:
    result = {}
    for _ in range(length):
        key, at = _value(data, at)
        result[key], at = _value(data, at)
    return result, at


def _array(data: bytes, at: int, length: int) -> tuple[list[Any], int]:
    result = []
    for _ in range(length):
        value, at = _value(data, at)
        result.append(value)
    return result, at


def _string(data: bytes, at: int, length: int) -> tuple[str, int]:
    return data[at : at + length].decode(errors="replace"), at + length
