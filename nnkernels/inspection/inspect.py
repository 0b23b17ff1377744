"""Compile what an op may choose, and report what the compilers made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnkernels.config.device import PROFILES, Device
from nnkernels.errors import BackendError
from nnkernels.inspection.batches import Compilers, compiler_for, resources_of
from nnkernels.inspection.kinds import kind_of
from nnkernels.inspection.occupancy import blocks_per_processor
from nnkernels.inspection.problems import Problem, problems
from nnkernels.inspection.record import Launch, call
from nnkernels.inspection.result import Beginning, Rejected, Report, Resources, Unavailable
from nnkernels.inspection.roofline import Cost, cost_of
from nnkernels.registry import Op


@dataclass(frozen=True)
class Choice:
    """An instance, and the first problem that chose it."""

    op: Op
    dtype: str
    problem: Problem
    launch: Launch
    cost: Cost


def choices(
    op: Op,
    dtypes: Sequence[str],
    arch: str,
    wanted: Callable[[str, Problem], bool] = lambda dtype, problem: True,
) -> list[Choice]:
    """The instances of an op for some dtypes on an architecture, each of them once.

    Parameters
    ----------
    wanted : callable
        Which of the problems to look at.

    Raises
    ------
    BackendError
        If nothing is known about the architecture.
    """
    device = device_of(arch)
    found: dict[str, Choice] = {}
    for dtype in dtypes:
        for problem in problems(op):
            if not wanted(dtype, problem):
                continue
            arguments, options = problem.arguments(op, dtype)
            launches, results = call(op.function, arguments, options, device)
            arrays, more = (
                [a for a in given if isinstance(a, np.ndarray)]
                for given in (arguments, options.values())
            )
            cost = cost_of(op, problem.options, arrays, more, results)
            for launch in launches:
                # Shared memory grows with the row: report the most.
                add(found, Choice(op, dtype, problem, launch, cost))
    return list(found.values())


def device_of(arch: str) -> Device:
    """The properties that stand for an architecture.

    Raises
    ------
    BackendError
        If there are none.
    """
    if arch not in PROFILES:
        raise BackendError(f"nothing is known about {arch!r}; known: {', '.join(PROFILES)}")
    return PROFILES[arch]


def compile_all(chosen: Sequence[Choice], arch: str) -> dict[str, Resources]:
    """Compile instances as one translation unit, here and now; their resources by symbol.

    Raises
    ------
    BackendError
        If there is no compiler for the architecture.
    CompileError
        If it rejects one of them.
    """
    device_of(arch)
    return resources_of([choice.launch.instance for choice in chosen], arch)


def report(choice: Choice, arch: str, resources: Resources) -> Report:
    """One row of the table."""
    launch = choice.launch
    threads = launch.instance.threads
    shared = resources.static_shared + launch.shared_bytes
    return Report(
        op=choice.op.name,
        dtype=choice.dtype,
        arch=arch,
        problem=choice.problem.label,
        kind=kind_of(launch.instance, device_of(arch).warp),
        aligned=choice.problem.aligned,
        symbol=launch.instance.symbol,
        kernel=launch.instance.kernel,
        threads=threads,
        dynamic_shared=launch.shared_bytes,
        blocks_per_processor=blocks_per_processor(arch, threads, resources.registers, shared),
        resources=resources,
        cost=choice.cost,
    )


def inspect(
    ops: Sequence[Op], dtypes: Sequence[str] | None, archs: Sequence[str], compilers: Compilers
) -> Iterator[Beginning | Report | Unavailable | Rejected]:
    """Every instance of some ops that the configurations choose, on some architectures.

    Parameters
    ----------
    ops : sequence of Op
        Of the registry. An instance that several choose is reported for the first of them.
    dtypes : sequence of str, optional
        Those that an op does not have are passed over. Default: all of each op.
    archs : sequence of str
        ``"sm_90"``, ``"gfx90a"``, ...

    Yields
    ------
    Beginning, Report, Unavailable or Rejected
        In order, each as soon as it is known. An architecture that cannot be compiled for here is
        one row that says why.
    """
    for arch in archs:
        try:
            compiler_for(arch)
            chosen = choices_of(ops, dtypes, arch)
            yield Beginning(arch, len(chosen))
            yield from reports(chosen, arch, compilers)
        except BackendError as error:
            yield Unavailable(arch, str(error))


def choices_of(ops: Sequence[Op], dtypes: Sequence[str] | None, arch: str) -> list[Choice]:
    """The instances of several ops, each of them once, for the first op that chooses it."""
    found: dict[str, Choice] = {}
    for op in ops:
        of_op = op.dtypes if dtypes is None else [name for name in dtypes if name in op.dtypes]
        for choice in choices(op, of_op, arch):
            add(found, choice)
    return list(found.values())


def add(found: dict[str, Choice], choice: Choice) -> None:
    """Add an instance to those that are known by symbol; the most shared memory counts."""
    symbol = choice.launch.instance.symbol
    known = found.setdefault(symbol, choice)
    if choice.launch.shared_bytes > known.launch.shared_bytes:
        found[symbol] = replace(known, launch=choice.launch)


def reports(
    chosen: Sequence[Choice], arch: str, compilers: Compilers, *, fresh: bool = False
) -> Iterator[Report | Rejected]:
    """Compile instances, and report each of them, in order, as soon as it is known.

    Raises
    ------
    BackendError
        If there is no compiler for the architecture.
    """
    instances = [choice.launch.instance for choice in chosen]
    for choice, found in zip(chosen, compilers.compile(instances, arch, fresh=fresh), strict=True):
        if isinstance(found, str):
            yield Rejected(choice.op.name, choice.dtype, arch, choice.problem.label, found)
        else:
            yield report(choice, arch, found)
