#!/usr/bin/env python3
"""One call of every op on a GPU: for a sanitizer to watch, or recorded in a graph and replayed.

    python bench/gpu_calls.py calls
    python bench/gpu_calls.py graphs --op softmax,conv --json graphs.json

Each op is announced by a line "op: NAME DTYPE", so that what a sanitizer prints can be told apart.
exit status: 0, or 1 if a call or a graph failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# From a checkout without installation.
if importlib.util.find_spec("nnkernels") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from nnkernels import registry
from nnkernels.cli.selftest import Case, cases
from nnkernels.registry import Example

# Beside an op's first dtype of these, those whose kernels are other ones: matrix instructions.
_DTYPES = ("float32", "int32")
_ALSO = {"matmul": ("float16", "int8"), "conv": ("float16",)}
# Results of 64 rows and columns or more, which warpgroups make, and edges of their tiles.
_IMAGES, _WEIGHTS = (2, 64, 14, 14), (72, 64, 3, 3)
_RESULTS = (2, 72, 14, 14)
_LARGE = {
    "matmul": (("float16", "int8"), Example(((200, 136), (136, 264)))),
    "linear": (("float16",), Example(((200, 130), (72, 130), (72,)))),
    "conv": (("float16",), Example((_IMAGES, _WEIGHTS, (72,)), {"padding": 1})),
    "conv_backward_data": (
        ("float16",), Example((_RESULTS, _WEIGHTS), {"x_shape": _IMAGES, "padding": 1}),
    ),
    "conv_backward_weight": (
        ("float16",), Example((_RESULTS, _IMAGES), {"weight_shape": _WEIGHTS, "padding": 1}),
    ),
}  # fmt: skip
ANNOUNCEMENT = "op: "


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("calls", "graphs"))
    parser.add_argument("--op", help="comma-separated names (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="what became of each")
    arguments = parser.parse_args()
    import cupy

    if arguments.what == "calls":
        # Every array in memory of its own: what lies next to one in a pool hides an overrun.
        cupy.cuda.set_allocator(None)
    run = _call if arguments.what == "calls" else _graph
    found = []
    for case in chosen(arguments.op):
        print(f"{ANNOUNCEMENT}{case.op.name} {case.dtype}", flush=True)
        try:
            message = run(cupy, case)
        except Exception as reason:  # the next op may work
            message = f"{type(reason).__name__}: {reason}"
        found.append({"op": case.op.name, "dtype": case.dtype, "message": message})
        if message:
            print(f"failed: {message}", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if any(one["message"] for one in found) else 0


def chosen(names: str | None) -> Iterator[Case]:
    """The first example of each op, in one or two element types; of products a larger one."""
    for op in registry.all_ops().values():
        if names is not None and op.name not in names.split(","):
            continue
        first = next((dtype for dtype in _DTYPES if dtype in op.dtypes), op.dtypes[0])
        for dtype in dict.fromkeys((first, *_ALSO.get(op.family, ()))):
            if dtype in op.dtypes:
                yield next(cases([op], [dtype], quick=True))
        if op.name in _LARGE:
            large, example = _LARGE[op.name]
            for dtype in large:
                yield next(cases([replace(op, examples=(example,))], [dtype], quick=True))


def _arguments(cupy: Any, case: Case, seed: int) -> tuple[list[Any], dict[str, Any]]:
    return case.arguments([cupy.asarray(base) for base in case.bases(seed)])


def _call(cupy: Any, case: Case) -> str:
    positional, options = _arguments(cupy, case, 0)
    case.op.function(*positional, **options)
    cupy.cuda.Device().synchronize()
    return ""


def _graph(cupy: Any, case: Case) -> str:
    """Record a call, replay it on other numbers, and compare with a call on these."""
    positional, options = _arguments(cupy, case, 0)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        # Kernels are compiled, and memory is in the pool: neither can be had while recording.
        case.op.function(*positional, **options)
        stream.synchronize()
        stream.begin_capture()
        try:
            recorded = case.op.function(*positional, **options)
        finally:
            graph = stream.end_capture()
        others, _ = _arguments(cupy, case, 1)
        for array, other in zip(positional, others, strict=True):
            # Those of indices stay: others would index other results.
            if isinstance(array, cupy.ndarray) and array.dtype.kind not in "iu":
                array[...] = other
        stream.synchronize()
        graph.launch()
        stream.synchronize()
        expected = case.op.function(*positional, **options)
        stream.synchronize()
    return _difference(_arrays(recorded), _arrays(expected))


def _arrays(result: Any) -> list[Any]:
    """The arrays of a result, some of which may stand in tuples and lists, or be None."""
    if isinstance(result, tuple | list):
        return [array for part in result for array in _arrays(part)]
    return [result]


def _difference(found: list[Any], expected: list[Any]) -> str:
    """Nothing, if both are the same bit for bit."""
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one is None and other is None:
            continue
        left, right = (np.ascontiguousarray(x.get()) for x in (one, other))
        if left.tobytes() != right.tobytes():
            return f"result {number} of the graph is not that of a call"
    return ""


if __name__ == "__main__":
    sys.exit(main())
