"""Where the elements of a NumPy array lie, faster than NumPy says it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

# A NumPy array object begins with the object header and then the data pointer (PyArrayObject_fields
# in NumPy's C API, the same since 1.7). Reading it there takes 0.2 us; __array_interface__ takes 2.
_DATA_OFFSET = object.__basicsize__
_read_pointer = ctypes.c_size_t.from_address


def _address_in_object(array: np.ndarray) -> int:
    return _read_pointer(id(array) + _DATA_OFFSET).value


def _address_by_interface(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _fastest_address() -> Any:
    probe = np.zeros(3, np.float32)
    for array in (probe, probe[1:]):
        if _address_in_object(array) != _address_by_interface(array):
            return _address_by_interface
    return _address_in_object


numpy_address = _fastest_address()
