"""How long the first call of a problem takes where nothing is compiled yet.

Every number is from a process of its own, with a cache directory of its own: from the call, with
nnkernels imported and the operands at hand, to its result.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fresh_process import description, empty_caches, output_of

_BENCH = Path(__file__).resolve().parent


def cold_seconds(problem: Any, backend: str, threads: int) -> float:
    """Seconds of the first call.

    Raises
    ------
    RuntimeError
        With the message of a process that failed.
    """
    request = json.dumps(description(problem))
    with tempfile.TemporaryDirectory(prefix="nnkernels-bench-") as cache:
        arguments = [str(Path(__file__).resolve()), request, backend, str(threads)]
        return float(output_of(arguments, "times a first call", empty_caches(cache)))


def add(row: dict[str, Any], problem: Any, backend: str, threads: int) -> None:
    """Add to a row what our first call takes, if it works at all."""
    (ours, *_) = row["timings"].values()
    if ours["status"] == "ok":
        ours["cold_s"] = cold_seconds(problem, backend, threads)


# ---- in the process ------------------------------------------------------------------------


def _first_call(request: str, backend: str, threads: int) -> float:
    import numpy as np
    import session
    from problems import Problem, laid_out, operand_shapes, random_operands

    fields = json.loads(request)
    problem = Problem(**fields | {"shape": tuple(fields["shape"])})
    session.set_threads(threads)
    op = problem.record
    shapes = dict(zip(op.arrays, operand_shapes(problem), strict=True))

    def result_of_forward(name: str, x: np.ndarray) -> np.ndarray:
        # Any numbers do, and none that a kernel would have to be compiled for.
        return np.ones(shapes["y"], x.dtype)

    operands = random_operands(problem, result_of_forward)
    with session.arrays(backend, ()) as (xp, _):
        arrays = [laid_out(xp, xp.asarray(x), problem.layout) for x in operands]
        positional, options = op.arguments(arrays, problem.options)
        _finish(xp)
        start = time.perf_counter()
        op.function(*positional, **options)
        _finish(xp)
        return time.perf_counter() - start


def _finish(xp: Any) -> None:
    """Wait for a GPU."""
    if hasattr(xp, "cuda"):
        xp.cuda.get_current_stream().synchronize()


def main(arguments: Sequence[str]) -> None:
    request, backend, threads = arguments
    print(_first_call(request, backend, int(threads)))


if __name__ == "__main__":
    main(sys.argv[1:])
