"""What a user waits for at the start: the import, and the first call of a kernel.

Each measurement is a process of its own, with the clock inside it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fresh_process import empty_caches, output_of

IMPORT_SECONDS = 0.15
COLD_SECONDS = {"cpu": 2.0, "cupy": 0.4}
WARM_SECONDS = 0.010
FIRST_CALLS = ("relu", "gelu", "softmax", "matmul")

_IMPORT = """
import time
start = time.perf_counter()
import numpy
numpy_done = time.perf_counter()
import nnkernels
end = time.perf_counter()
import json, sys
assert "cupy" not in sys.modules, "importing nnkernels imported CuPy"
print(json.dumps([end - start, end - numpy_done]))
"""

_FIRST_CALL = """
import json, time
import {xp} as xp
import nnkernels
x = xp.ones((64, 64), xp.float32)
arguments = (x, x) if {op!r} == "matmul" else (x,)
start = time.perf_counter()
nnkernels.{op}(*arguments)
print(json.dumps([time.perf_counter() - start]))
"""

Progress = Callable[[str], None]


def measure(backend: str, repeat: int | None, progress: Progress) -> list[dict[str, Any]]:
    """Import time, and for some ops the first call from a cold and from a warm cache."""
    with tempfile.TemporaryDirectory(prefix="nnkernels-bench-") as scratch:
        checks = _imports(repeat or 11, Path(scratch), progress)
        for op in FIRST_CALLS:
            checks += _first_calls(op, backend, repeat or 5, Path(scratch), progress)
    return checks


def _imports(repeat: int, scratch: Path, progress: Progress) -> list[dict[str, Any]]:
    progress("import nnkernels")
    _timed(_IMPORT, scratch)  # the first one also writes bytecode
    runs = [_timed(_IMPORT, scratch) for _ in range(repeat)]
    return [
        _check("import nnkernels, NumPy included", [r[0] for r in runs], IMPORT_SECONDS),
        _check("import nnkernels after NumPy", [r[1] for r in runs], None),
    ]


def _first_calls(
    op: str, backend: str, repeat: int, scratch: Path, progress: Progress
) -> list[dict[str, Any]]:
    progress(f"first call of {op}")
    script = _FIRST_CALL.format(op=op, xp="cupy" if backend == "cupy" else "numpy")
    cold = [_timed(script, scratch / f"{op}-{i}")[0] for i in range(repeat)]
    warm = [_timed(script, scratch / f"{op}-0")[0] for _ in range(repeat)]
    return [
        _check(f"first {op}, cold cache", cold, COLD_SECONDS[backend]),
        _check(f"first {op}, warm cache", warm, WARM_SECONDS),
    ]


def _timed(script: str, cache: Path) -> list[float]:
    return json.loads(output_of(["-c", script], "is timed", empty_caches(cache)))


def _check(name: str, seconds: list[float], limit: float | None) -> dict[str, Any]:
    median = statistics.median(seconds)
    first, third = min(seconds), max(seconds)
    if len(seconds) > 1:
        first, _, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return {
        "name": name,
        "median_s": median,
        "p25_s": first,
        "p75_s": third,
        "runs": len(seconds),
        "limit_s": limit,
        "met": None if limit is None else median <= limit,
    }
