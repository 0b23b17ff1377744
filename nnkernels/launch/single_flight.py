"""A dictionary whose missing values are made once, however many threads ask for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakSet

K = TypeVar("K")
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Values by key, made on demand; a second thread that wants one waits for the first."""

    def __init__(self, make: Callable[[K], V]) -> None:
        self._make = make
        self._values: dict[K, V] = {}
        self._locks: dict[K, threading.Lock] = {}
        self._guard = threading.Lock()
        _all.add(self)

    def get(self, key: K) -> V:
        """The value of a key. What ``make`` raises reaches the caller, and the next may try."""
        value = self._values.get(key)
        if value is None:
            with self._guard:
                lock = self._locks.setdefault(key, threading.Lock())
            with lock:
                value = self._values.get(key)
                if value is None:
                    value = self._values[key] = self._make(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Give a key its value."""
        self._values[key] = value

    def __len__(self) -> int:
        return len(self._values)

    def renew_locks(self) -> None:
        """Replace the locks; those that other threads held would never be released."""
        self._guard = threading.Lock()
        self._locks = {}


_all: WeakSet[SingleFlight] = WeakSet()


def _after_fork_in_child() -> None:
    # Only the thread that forked lives on. Another that was compiling held a lock.
    for flight in list(_all):
        flight.renew_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
