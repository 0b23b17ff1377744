"""Checks of options that are numbers: what came in, as a Python float, or an error that names it.

The public functions call these only for a value that is not plainly good, such as a Python
float in range, because a call on a small array has a few microseconds in all.
"""

from __future__ import annotations

from functools import lru_cache
from math import isfinite, isnan
from numbers import Complex, Integral, Real

import numpy as np


def number(name: str, value: object) -> float:
    """Any real number but NaN; infinities are fine."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a real number, such as 1 or 0.5, not {type(value).__name__}"
            f" ({value!r:.60})"
        )
    try:
        result = float(value)
    except OverflowError:
        raise ValueError(
            f"{name} does not fit a float: it is an integer of too many digits"
        ) from None
    if isnan(result):
        raise ValueError(f"{name} must not be NaN")
    return result


def scalar(name: str, value: object) -> complex:
    """Any number but NaN, also a complex one; a whole number stays an integer."""
    if type(value) is int:
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Real) or not isinstance(value, Complex):
        return number(name, value)
    result = complex(value)
    if isnan(result.real) or isnan(result.imag):
        raise ValueError(f"{name} must not be NaN")
    return result


def precision(name: str, value: object) -> str | None:
    """None, or "tf32"."""
    if value is None:
        return None
    if not isinstance(value, str):
        kind = type(value).__name__
        raise TypeError(f'{name} must be None or "tf32", not {kind} ({value!r:.60})')
    if value != "tf32":
        raise ValueError(f'{name} must be None or "tf32"; got {value!r:.60}')
    return "tf32"


def algorithm(name: str, value: object) -> str | None:
    """None, or how a convolution is to be made."""
    if value is None:
        return None
    known = 'None, "direct" or "winograd"'
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {known}, not {type(value).__name__} ({value!r:.60})")
    if value not in ("direct", "winograd"):
        raise ValueError(f"{name} must be {known}; got {value!r:.60}")
    return value


def flag(name: str, value: object) -> bool:
    """True or False, and nothing that is merely like one."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, not {type(value).__name__} ({value!r:.60})")


def indices(name: str, value: object) -> str:
    """Which places of maxima are returned: "indices" for True, "taps", or "" for False."""
    if isinstance(value, (bool, np.bool_)):
        return "indices" if value else ""
    known = 'True, False or "taps"'
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {known}, not {type(value).__name__} ({value!r:.60})")
    if value != "taps":
        raise ValueError(f"{name} must be {known}; got {value!r:.60}")
    return value


def wanted(wrt: object, count: int) -> tuple[bool, ...]:
    """Which of some gradients are to be made: ``wrt`` has the positions of their operands."""
    if wrt is None:
        return (True,) * count
    positions = wrt if isinstance(wrt, (tuple, list)) else (wrt,)
    for position in positions:
        if isinstance(position, bool) or not isinstance(position, (int, np.integer)):
            raise TypeError(
                "wrt must be None, the position of an array argument or a tuple of such; got "
                f"{wrt!r:.60}"
            )
    return _chosen(tuple(positions), count)


@lru_cache(maxsize=1024)
def _chosen(positions: tuple[int, ...], count: int) -> tuple[bool, ...]:
    for position in positions:
        if not -count <= position < count:
            raise ValueError(f"wrt has position {position}, and there are {count} array arguments")
    chosen = {int(position) % count for position in positions}
    return tuple(i in chosen for i in range(count))


def finite(name: str, value: object) -> float:
    """Any finite number."""
    result = number(name, value)
    if not isfinite(result):
        raise ValueError(f"{name} must be a finite number, not {result}")
    return result


def positive(name: str, value: object) -> float:
    """A finite number above 0."""
    result = finite(name, value)
    if not result > 0:
        raise ValueError(f"{name} must be above 0, not {result}")
    return result


def not_negative(name: str, value: object) -> float:
    """A finite number that is 0 or more."""
    result = finite(name, value)
    if not result >= 0:
        raise ValueError(f"{name} must be 0 or more, not {result}")
    return result


def not_zero(name: str, value: object) -> float:
    """A finite number that is not 0."""
    result = finite(name, value)
    if result == 0:
        raise ValueError(f"{name} must not be 0")
    return result
