"""``python -m nnkernels selftest``: every op against its reference, on any machine."""

from __future__ import annotations

import argparse
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels import registry
from nnkernels.cli.table import table
from nnkernels.compile.cxx import find_compiler
from nnkernels.compile.instance import Instance
from nnkernels.dispatch import machines
from nnkernels.dispatch.dtypes import ELEMENTS, numpy_dtype
from nnkernels.errors import BackendError
from nnkernels.inspection.record import launches
from nnkernels.reference.tolerance import compare
from nnkernels.registry import Example, Op

# Kernels of one translation unit. Reading the headers takes as long as three small kernels, and
# more units keep more processors busy.
_BATCH = 12


def add_parser(commands: Any) -> None:
    """Describe the command to argparse."""
    parser = commands.add_parser(
        "selftest",
        help="every op against its NumPy reference, on random data",
        description="Run every op at its examples and dtypes, on dense, transposed and strided "
        "arrays of random numbers, and compare with its NumPy reference.",
        epilog="error: the largest, in units of what the dtype and the length of the sums allow; "
        "at most 1 is right. exit status: 0 all right, 1 something is wrong, 2 bad arguments.",
    )
    parser.add_argument(
        "--backend",
        default="cpu",
        help="cpu, sim, sim:ARCH, reference or cupy (default: %(default)s)",
    )
    parser.add_argument("--dtype", help="comma-separated (default: all of each op)")
    parser.add_argument("--op", help="comma-separated names (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="float32, one example of each op, dense arrays"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the numbers (default: 0)")
    parser.set_defaults(run=run)


# ---- what is run --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How an argument lies in memory: the shape of a dense array, and a view of it."""

    name: str
    base: Callable[[tuple[int, ...]], tuple[int, ...]]
    view: Callable[[Any], Any]


def _swapped(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if len(shape) > 1 else shape


def _doubled(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-1], 2 * shape[-1]) if shape else shape


LAYOUTS = (
    Layout("dense", lambda shape: shape, lambda x: x),
    Layout("transposed", _swapped, lambda x: x.swapaxes(-1, -2) if x.ndim > 1 else x),
    Layout("strided", _doubled, lambda x: x[..., ::2] if x.ndim else x),
)


@dataclass(frozen=True)
class Case:
    """One call."""

    op: Op
    dtype: str
    example: int
    layout: Layout

    def __str__(self) -> str:
        return f"{self.dtype}, example {self.example + 1}, {self.layout.name}"

    def bases(self, seed: int) -> list[np.ndarray]:
        """Dense arrays of random numbers, whose views are the arguments."""
        # Not hash(): it differs from process to process.
        text = f"{self.op.name} {self}"
        generator = np.random.default_rng((seed, zlib.crc32(text.encode())))
        shapes = self.op.examples[self.example].shapes
        drawn = [
            self._special(name, generator)
            if name in self.op.special
            else _random(generator, self.layout.base(shape), self.dtype)
            for name, shape in zip(self.op.arrays, shapes, strict=False)
        ]
        named = list(zip(self.op.arrays, shapes, drawn, strict=False))
        for name, shape, array in named:
            if name in self.op.scaled:
                array *= array.dtype.type(self.op.scaled[name](shape))
        return [abs(array) if name in self.op.positive else array for name, _, array in named]

    def _special(self, name: str, generator: np.random.Generator) -> np.ndarray:
        """The base of an array whose numbers are not arbitrary."""
        example = self.op.examples[self.example]
        values = self.op.special[name](generator, example.shapes, example.options)
        base = np.zeros(self.layout.base(values.shape), values.dtype)
        self.layout.view(base)[...] = values
        return base

    def arguments(self, bases: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments, arrays as views of dense ones of any library."""
        views = [self.layout.view(base) for base in bases]
        return self.op.arguments(views, self.op.examples[self.example].options)


def _random(generator: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    kind = ELEMENTS[name].kind
    if kind in "iu":
        return np.asarray(generator.integers(-9 if kind == "i" else 0, 10, shape)).astype(name)
    numbers = generator.standard_normal(shape)
    if kind == "c":
        numbers = numbers + 1j * generator.standard_normal(shape)
    return np.asarray(numbers).astype(numpy_dtype(name))


def cases(ops: Sequence[Op], dtypes: Sequence[str] | None, quick: bool) -> Iterator[Case]:
    """Every call of a selftest."""
    for op in ops:
        for dtype in op.dtypes:
            if dtype in dtypes if dtypes is not None else not quick or dtype == "float32":
                for number in range(1 if quick else len(op.examples)):
                    for layout in LAYOUTS[:1] if quick else LAYOUTS:
                        yield Case(op, dtype, number, layout)


def reduction_length(op: Op, example: Example) -> int:
    """How many numbers are added up for one element of a result, at most."""
    sizes = [math.prod(shape) for shape in example.shapes]
    if op.family == "elementwise":  # the gradient of a broadcast operand is a sum
        return max(sizes) // max(min(sizes), 1)
    if op.family == "rows":
        shape = max(example.shapes, key=len)
        axis = example.options.get("axis", -1)
        axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
        return math.prod(shape[a] for a in axes)
    if op.family == "matmul":
        return max(max(shape, default=1) for shape in example.shapes)
    return max(sizes)


# ---- machines -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """Where the calls run."""

    context: Callable[[], AbstractContextManager[Any]]
    machine: Any
    to_device: Callable[[np.ndarray], Any]
    to_numpy: Callable[[Any], np.ndarray]


def _target(backend: str, seed: int) -> _Target:
    if backend == "cupy":
        return _cupy_target()
    machine = machines.machine_named(backend)
    if backend == "cpu" and find_compiler() is None:
        raise BackendError("there is no C++ compiler for the cpu backend")

    def context() -> AbstractContextManager[Any]:
        return machines.use_backend(backend, seed=seed)

    return _Target(context, machine, lambda x: x, np.asarray)


def _cupy_target() -> _Target:
    try:
        import cupy
    except ImportError as error:
        raise BackendError(f"CuPy is not installed: {error}") from error
    from nnkernels.launch.gpu import machine_of

    try:
        machine = machine_of(cupy.cuda.runtime.getDevice())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"CuPy finds no GPU: {error}") from error
    return _Target(nullcontext, machine, cupy.asarray, cupy.asnumpy)


class _Compiler:
    """Compiles kernels that are about to be needed, several in a translation unit."""

    def __init__(self, target: _Target, pool: ThreadPoolExecutor) -> None:
        self._target, self._pool = target, pool

    def start(self, todo: Sequence[Case]) -> list[Future[None] | None]:
        """Begin; for each case what it must wait for."""
        waits: list[Future[None] | None] = [None] * len(todo)
        if not hasattr(self._target.machine, "precompile"):
            return waits
        seen: set[Instance] = set()
        batch: list[Instance] = []
        waiting: list[int] = []
        for number, case in enumerate(todo):
            new = [i for i in self._instances(case) if i not in seen]
            seen.update(new)
            batch += new
            waiting.append(number)
            if batch and (len(batch) >= _BATCH or number == len(todo) - 1):
                future = self._pool.submit(self._compile, tuple(batch))
                for n in waiting:
                    waits[n] = future
                batch, waiting = [], []
        return waits

    def _instances(self, case: Case) -> list[Instance]:
        device = self._target.machine.device
        try:
            found = launches(case.op.function, *case.arguments(case.bases(0)), device)
        except Exception:  # the call itself will say what is wrong
            return []
        return [launch.instance for launch in found]

    def _compile(self, batch: tuple[Instance, ...]) -> None:
        with suppress(BackendError):  # the call of the kernel that does not compile says so
            self._target.machine.precompile(batch)


# ---- the command --------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What is known of one op."""

    calls: int = 0
    error: float = 0.0
    where: str = ""
    failure: str = ""

    def add(self, case: Case, error: float) -> None:
        self.calls += 1
        if error > self.error or not self.where:
            self.error, self.where = error, str(case)

    @property
    def is_right(self) -> bool:
        return self.error <= 1 and not self.failure


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command; its exit status."""
    try:
        ops = _ops(arguments.op)
        dtypes = _dtypes(arguments.dtype)
        todo = list(cases(ops, dtypes, arguments.quick))
        if not todo:
            raise ValueError(f"none of these ops has dtype {arguments.dtype}")
        if arguments.seed < 0:
            raise ValueError(f"the seed must not be negative; got {arguments.seed}")
        target = _target(arguments.backend, arguments.seed)
    except (KeyError, ValueError, BackendError) as error:
        print(f"nnkernels selftest: {error.args[0]}", file=sys.stderr)
        return 2
    tallies = _run_all(todo, target, arguments.seed)
    _print(tallies)
    wrong = [name for name, tally in tallies.items() if not tally.is_right]
    calls = sum(tally.calls for tally in tallies.values())
    print(f"\n{len(tallies) - len(wrong)} of {len(tallies)} ops are right; {calls} calls")
    return 1 if wrong else 0


def _ops(names: str | None) -> list[Op]:
    if names is None:
        return list(registry.all_ops().values())
    return [registry.find(name.strip()) for name in names.split(",")]


def _dtypes(names: str | None) -> list[str] | None:
    if names is None:
        return None
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in ELEMENTS:
            raise ValueError(f"no dtype is called {name!r}; there are {', '.join(ELEMENTS)}")
    return wanted


def _run_all(todo: Sequence[Case], target: _Target, seed: int) -> dict[str, _Tally]:
    from tqdm import tqdm

    tallies = {case.op.name: _Tally() for case in todo}
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    with ThreadPoolExecutor(workers) as pool, target.context():
        waits = _Compiler(target, pool).start(todo)
        bar = tqdm(list(zip(todo, waits, strict=True)), unit="call", file=sys.stderr)
        for case, wait in bar:
            bar.set_postfix_str(case.op.name, refresh=False)
            if wait is not None:
                wait.result()
            tally = tallies[case.op.name]
            try:
                tally.add(case, _error(case, target, seed))
            except Exception as error:
                tally.add(case, math.inf)
                tally.failure = tally.failure or f"{case}: {type(error).__name__}: {error}"
    return tallies


def _error(case: Case, target: _Target, seed: int) -> float:
    bases = case.bases(seed)
    arguments, options = case.arguments([target.to_device(base) for base in bases])
    results = case.op.function(*arguments, **options)
    arguments, options = case.arguments(bases)
    expected = case.op.reference(*arguments, **options)
    length = reduction_length(case.op, case.op.examples[case.example])
    return max(
        compare(target.to_numpy(actual), wanted, length, roundings=case.op.roundings)
        for actual, wanted in zip(registry.flat(results), registry.flat(expected), strict=True)
        if actual is not None or wanted is not None
    )


def _print(tallies: dict[str, _Tally]) -> None:
    rows = [
        (name, tally.calls, tally.error, "ok" if tally.is_right else "WRONG", tally.where)
        for name, tally in tallies.items()
    ]
    print(table(("op", "calls", "error", "", "largest at"), rows))
    for name, tally in tallies.items():
        if tally.failure:
            print(f"\n{name}: {tally.failure}")
