"""One row of the table: operands, a check of every provider, the times, and what they mean."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import convolutions
import numpy as np
from bandwidth import Bandwidth
from peers import OURS, Functions, Library, OwnLibrary, as_tuple
from problems import (
    LARGEST_INTEGER,
    Problem,
    footprint,
    known_ops,
    laid_out,
    operand_shapes,
    random_operands,
)
from results_files import LARGEST_NUMBER
from timing import Arguments, EventClock, HostClock, Provider, Settings, interleave, paired_ratio

from nnkernels.dispatch.dtypes import ELEMENTS

# More sets would only cost time to make.
_MOST_SETS = 64
# Elements of an elementwise op that are compared with the reference, which takes some
# microseconds an element.
_CHECKED_ELEMENTS = 1 << 16
# The same of rows, of ops whose results in a row follow from that row alone.
_ROWWISE = (
    *("softmax", "log_softmax", "softmax_backward", "log_softmax_backward"),
    *("layer_norm", "rms_norm"),
)
_ALL_ROWS, _CHECKED_ROWS = 1 << 22, 256
# Those of which a row of the result is made of one row of the first operand.
_OF_ROWS = ("matmul", "linear", "fused_linear", "mlp")
# Of a window, or windows of an element: more than any that is timed has.
_POOL_TAPS = 256


@dataclass(frozen=True)
class Bench:
    """What stays the same from row to row.

    Attributes
    ----------
    xp
        NumPy, or CuPy on a GPU.
    warm_bytes
        What a call may touch and still be timed with warm caches, on purpose.
    cache_bytes
        The last-level cache, which the sets of larger calls must exceed.
    copy, read
        What the rate of a row is compared with; ``read`` where one operand is nearly all of it.
    out
        Whether results are written into arrays made beforehand, where a provider can.
    """

    xp: Any
    backend: str
    peers: list[Library]
    clock: HostClock | EventClock
    settings: Settings
    warm_bytes: int
    cache_bytes: int
    memory_bytes: Callable[[], int]
    copy: Bandwidth | None
    read: Bandwidth | None
    out: bool


def measure(problem: Problem, bench: Bench) -> dict[str, Any]:
    """Time a problem, and return its row for the result file."""
    operands = random_operands(problem, lambda name, x: _forward(problem, bench, name, x))
    sets, results, traffic = _buffers(problem, bench, operands)
    row = _described(problem, bench, traffic, len(sets), footprint(problem, _bytes(results[0])))
    expected = _expected(problem, operands)
    providers = []
    for library in (OwnLibrary(), *_taking_part(problem, bench)):
        entry: dict[str, Any] = {}
        row["timings"][library.name] = entry
        functions = library.functions(problem)
        if functions is None:
            entry.update(status="missing", message=f"{library.name} has no such function")
            continue
        try:
            provider, entry["out"] = _provider(library, functions, bench.out, sets, results)
            if functions.compiles:
                provider.call(*provider.sets[0])
            start = time.perf_counter()
            got = provider.call(*provider.sets[0])
            provider = replace(provider, checked_seconds=time.perf_counter() - start)
            error = _error(expected, [library.export(part) for part in as_tuple(got)], problem)
        except Exception as reason:  # whatever a peer raises, the rest goes on
            entry.update(status="failed", message=f"{type(reason).__name__}: {reason}")
            continue
        # Written so that NaN, which compares as false, is wrong too. JSON has no infinity.
        entry["status"] = "ok" if error <= 1 else "wrong"
        entry["error_of_tolerance"] = error if error <= LARGEST_NUMBER else None
        if entry["status"] == "ok":
            providers.append(provider)
    if providers:
        if problem.min_time is not None:
            bench = replace(bench, settings=replace(bench.settings, min_time=problem.min_time))
        _time(row, providers, bench)
    return row


def _taking_part(problem: Problem, bench: Bench) -> list[Library]:
    """The peers of a row: all, or those that its suite names."""
    names = problem.peers
    return [peer for peer in bench.peers if names is None or peer.name in names]


def prepared(problem: Problem, bench: Bench) -> Provider:
    """Our own function on as many sets of buffers as the caches ask for; nothing is checked."""
    operands = random_operands(problem, lambda name, x: _forward(problem, bench, name, x))
    sets, results, _ = _buffers(problem, bench, operands)
    library = OwnLibrary()
    functions = library.functions(problem)
    assert functions is not None
    return _provider(library, functions, bench.out, sets, results)[0]


def failed_row(problem: Problem, bench: Bench, reason: Exception) -> dict[str, Any]:
    """The row of a problem that could not be set up."""
    row = _described(problem, bench, 0, 0, 0)
    row["timings"][OURS] = {"status": "failed", "message": f"{type(reason).__name__}: {reason}"}
    return row


def _forward(problem: Problem, bench: Bench, name: str, x: np.ndarray) -> np.ndarray:
    op = known_ops()[name]
    positional, options = op.arguments([bench.xp.asarray(x)], problem.options)
    return OwnLibrary().export(op.function(*positional, **options))


# ---- buffers -------------------------------------------------------------------------------


def _buffers(
    problem: Problem, bench: Bench, operands: list[np.ndarray]
) -> tuple[list[Arguments], list[Arguments], int]:
    """Sets of operands in different memory, results to match, and the bytes that a call moves."""
    op = problem.record
    first = _set(problem, bench, operands)
    positional, options = op.arguments(first, problem.options)
    result = as_tuple(op.function(*positional, **options))
    touched = footprint(problem, _bytes(result))
    count = 1
    if touched > bench.warm_bytes:
        count = min(_MOST_SETS, 1 + math.ceil(2 * bench.cache_bytes / touched))
    count = max(1, min(count, bench.memory_bytes() // 2 // touched))
    sets = [first, *(_set(problem, bench, operands) for _ in range(count - 1))]
    results = [result, *(tuple(map(bench.xp.empty_like, result)) for _ in range(count - 1))]
    for arrays in results:
        for array in arrays:
            array[...] = 0  # so that the memory is really there
    traffic = sum(a.nbytes for a in first + result)
    if op.traffic is not None:
        traffic = op.traffic(first, result)
    return sets, results, traffic


def _set(problem: Problem, bench: Bench, operands: list[np.ndarray]) -> Arguments:
    return tuple(laid_out(bench.xp, bench.xp.asarray(x), problem.layout) for x in operands)


def _bytes(arrays: Arguments) -> int:
    return sum(array.nbytes for array in arrays)


def _provider(
    library: Library,
    functions: Functions,
    out: bool,
    sets: list[Arguments],
    results: list[Arguments],
) -> tuple[Provider, bool]:
    """A provider on its views of the buffers, and whether it writes into given results."""
    adopted = [tuple(map(library.adopt, arguments)) for arguments in sets]
    if not out or functions.call_out is None:
        return Provider(library.name, functions.call, tuple(adopted)), False
    call_out = functions.call_out
    adopted = [
        (library.adopt(result), *arguments)
        for arguments, (result,) in zip(adopted, results, strict=True)
    ]
    return (
        Provider(library.name, lambda y, *xs: call_out(*xs, out=y), tuple(adopted)),
        True,
    )


# ---- the check -----------------------------------------------------------------------------


def _expected(problem: Problem, operands: list[np.ndarray]) -> tuple[Any, tuple[np.ndarray, ...]]:
    """The reference's results, and the index at which they stand in a result (or ...)."""
    op = problem.record
    if op.family == "conv":
        part, operands, chosen = convolutions.sample(problem.op, operands, problem.options)
        positional, options = op.arguments(operands, chosen)
        return part, as_tuple(op.reference(*positional, **options))
    rows: Any = ...
    if problem.op in _OF_ROWS and operands[0].ndim == 2 and len(operands[0]) > 2 * _CHECKED_ROWS:
        rows = _sampled_rows(len(operands[0]))
        operands = [operands[0][rows], *operands[1:]]
    if op.family == "matmul" and _fits_float64(problem):
        positional, options = op.arguments(
            [x.astype(np.float64) for x in operands],
            {name: value for name, value in problem.options.items() if name != "out_dtype"},
        )
        return rows, as_tuple(op.reference(*positional, **options))
    size = math.prod(problem.shape)
    if problem.op in _ROWWISE and size > _ALL_ROWS and (problem.axis or 0) % len(problem.shape):
        rows = _sampled_rows(problem.shape[0])
        sampled = [x[rows] if x.shape == problem.shape else x for x in operands]
        positional, options = op.arguments(sampled, problem.options)
        return rows, as_tuple(op.reference(*positional, **options))
    large = size > 4 * _CHECKED_ELEMENTS
    alike = len({x.shape for x in operands}) == 1 and problem.axis is None
    if not (op.family == "elementwise" and large and alike):
        positional, options = op.arguments(operands, problem.options)
        return rows, as_tuple(op.reference(*positional, **options))
    # The two ends, where a kernel handles what is left of a vector, and a sample between.
    sample = np.random.default_rng(2).integers(0, size, _CHECKED_ELEMENTS)
    flat = np.concatenate([np.arange(1024), sample, np.arange(size - 1024, size)])
    index = np.unravel_index(flat, problem.shape)
    return index, as_tuple(op.reference(*(x[index] for x in operands)))


def _sampled_rows(count: int) -> np.ndarray:
    """The first row, the last one, and some between."""
    rows = np.random.default_rng(2).integers(0, count, _CHECKED_ROWS)
    return np.concatenate([[0], rows, [count - 1]])


def _fits_float64(problem: Problem) -> bool:
    """Whether no sum of a product of integers overflows: then BLAS computes it, without rounding.

    NumPy takes a minute for 2048x2048x2048 where that takes a second.
    """
    if ELEMENTS[problem.dtype].kind not in "iu":
        return False
    result = np.iinfo(problem.options.get("out_dtype", problem.dtype))
    largest = LARGEST_INTEGER**2 * max(problem.shape) + LARGEST_INTEGER
    return largest < min(result.max, 2**53)


def _error(expected: Any, results: list[np.ndarray], problem: Problem) -> float:
    """The largest error, as a multiple of what is tolerated; infinite where nothing is."""
    index, references = expected
    if len(results) != len(references):
        return math.inf
    worst = 0.0
    for got, reference in zip(results, references, strict=True):
        if got[index].shape != reference.shape:
            return math.inf
        wide = np.complex128 if reference.dtype.kind == "c" else np.float64
        right = reference.astype(wide)
        error = np.abs(got[index].astype(wide) - right)
        size = np.abs(right)
        tolerated = tolerance(problem) * (size + size.max(initial=0.0))
        with np.errstate(divide="ignore", over="ignore"):
            errors = np.divide(error, tolerated, out=np.zeros_like(error), where=error > 0)
        worst = max(worst, float(errors.max(initial=0.0)))
        if np.isnan(error).any():
            return math.nan
    return worst


def tolerance(problem: Problem) -> float:
    """Rounding of the element type, and of sums in the type in which they are made.

    Relative to an element plus the largest one. Expressions of NumPy and CuPy round after every
    step, hence eight units in the last place.
    """
    record = ELEMENTS[problem.dtype]
    if record.kind in "iu":
        return 0.0
    length = max(math.prod(shape) for shape in operand_shapes(problem))
    if problem.record.family == "rows":
        length = problem.shape[problem.axis or 0]
    elif problem.record.family == "norm":
        side = problem.shape[problem.axis or 0]
        # Of a row or of a column; of all but the channels.
        length = max(side, length // side)
    elif problem.record.family == "pool":
        length = _POOL_TAPS
    elif problem.record.family == "conv":
        length = convolutions.terms(problem.op, problem.shape, problem.case)
    elif problem.record.family == "elementwise" and not problem.op.startswith("prelu"):
        length = 1
    single = record.compute_name in ("float32", "complex64")
    computed = np.finfo(np.float32 if single else np.float64).eps
    stored = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(problem.dtype, computed)
    return float(8 * stored + 4 * math.sqrt(length) * computed)


# ---- the numbers ---------------------------------------------------------------------------


def _described(
    problem: Problem, bench: Bench, traffic: int, sets: int, touched: int
) -> dict[str, Any]:
    op = problem.record
    flops = op.flops(operand_shapes(problem), problem.options) if op.flops else None
    return {
        "op": problem.name,
        "family": op.family,
        "shape": list(problem.shape),
        "dtype": problem.dtype,
        "axis": problem.axis,
        "layout": problem.layout,
        "backend": bench.backend,
        "out": bench.out,
        "bytes": traffic,
        "flops": flops,
        "sets": sets,
        "sets_bytes": sets * touched,
        "caches": _caches(bench, sets * touched),
        "timings": {},
        "ratios": {},
        "best_peer": None,
        "ratio": None,
        "paired_ratio": None,
        "bytes_per_s": None,
        "copy_share": None,
        "read_share": None,
        "flops_per_s": None,
        "target": None,
        "mean": None,
    }


def _caches(bench: Bench, sets_bytes: int) -> str:
    """Whether the buffers in turn exceed the last-level cache."""
    return "exceeded" if sets_bytes > bench.cache_bytes else "warm"


def _time(row: dict[str, Any], providers: list[Provider], bench: Bench) -> None:
    timings = interleave(providers, bench.clock, bench.settings)
    for name, timing in timings.items():
        row["timings"][name].update(timing.summary())
    ours = timings.pop(OURS, None)
    if ours is None:
        return
    row["bytes_per_s"] = row["bytes"] / ours.median
    if row["flops"]:
        row["flops_per_s"] = row["flops"] / ours.median
    if bench.copy is not None and row["caches"] == "exceeded":
        row["copy_share"] = row["bytes_per_s"] / bench.copy.bytes_per_s
    if bench.read is not None and row["caches"] == "exceeded" and mostly_reads(row["op"]):
        row["read_share"] = row["bytes_per_s"] / bench.read.bytes_per_s
    row["ratios"] = {name: timing.median / ours.median for name, timing in timings.items()}
    if timings:
        best = min(timings, key=lambda name: timings[name].median)
        row["best_peer"] = best
        row["ratio"] = row["ratios"][best]
        row["paired_ratio"] = paired_ratio(timings[best], ours)


def mostly_reads(op: str) -> bool:
    """Whether an op reads far more than it writes."""
    return op == "gemv"


def judge(row: dict[str, Any], problem: Problem, earlier: Sequence[dict[str, Any]] = ()) -> None:
    """Add to a row what was asked of it, and whether it is met (None: could not be told).

    Parameters
    ----------
    earlier
        The rows before it.
    """
    if problem.mean is not None:
        row["mean"] = {"name": problem.mean.name, **vars(problem.mean.target)}
    target = problem.target
    if target is None:
        return
    if target.kind == "seconds":
        measured = row["timings"][OURS].get("median_s")
        met = None if measured is None else measured <= target.limit
    else:
        peer = target.kind.removeprefix("times ")
        if peer == "contiguous":
            measured = _times_contiguous(row, earlier)
        else:
            measured = row["ratio"] if peer == "best" else row["ratios"].get(peer)
        met = None if measured is None else measured >= target.limit
    row["target"] = {
        "kind": target.kind,
        "limit": target.limit,
        "measured": measured,
        "met": met,
    }


def _times_contiguous(row: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> float | None:
    """How many times as fast we are as on contiguous arrays."""
    alike = ("op", "shape", "dtype", "axis", "out")
    for other in earlier:
        if other["layout"] == "contiguous" and all(other[key] == row[key] for key in alike):
            ours, contiguous = (r["timings"][OURS].get("median_s") for r in (row, other))
            return None if ours is None or contiguous is None else contiguous / ours
    return None


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The geometric mean of the ratios of each group of rows that has a target for it."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["mean"] is not None:
            key = (*row["mean"].values(), row["dtype"], row["layout"])
            groups.setdefault(key, []).append(row)
    found = []
    for (name, kind, limit, dtype, layout), members in groups.items():
        peer = kind.removeprefix("times ")
        ratios = [row["ratio"] if peer == "best" else row["ratios"].get(peer) for row in members]
        known = [ratio for ratio in ratios if ratio is not None]
        mean = math.exp(sum(map(math.log, known)) / len(known)) if known else None
        found.append(
            {
                "name": name,
                "dtype": dtype,
                "layout": layout,
                "kind": kind,
                "limit": limit,
                "rows": len(members),
                "measured_rows": len(known),
                "measured": mean,
                "least": min(known, default=None),
                # Of all of them, or of none.
                "met": None if mean is None or len(known) < len(members) else mean >= limit,
            }
        )
    return found
