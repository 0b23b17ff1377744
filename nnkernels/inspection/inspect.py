"""Compile what an op may choose, and report what the compilers made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nnkernels.compile.instance import source_text
from nnkernels.config.device import PROFILES, Device
from nnkernels.errors import BackendError
from nnkernels.inspection import amd, nvidia
from nnkernels.inspection.kinds import kind_of
from nnkernels.inspection.occupancy import blocks_per_processor
from nnkernels.inspection.problems import Problem, problems
from nnkernels.inspection.record import Launch, launches
from nnkernels.inspection.result import Report, Resources, Unavailable
from nnkernels.registry import Op


@dataclass(frozen=True)
class Choice:
    """An instance, and the first problem that chose it."""

    op: Op
    dtype: str
    problem: Problem
    launch: Launch


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
            for launch in launches(op.function, *problem.arguments(op, dtype), device):
                symbol = launch.instance.symbol
                known = found.get(symbol)
                # Shared memory grows with the row: report the most.
                if known is None or launch.shared_bytes > known.launch.shared_bytes:
                    first = problem if known is None else known.problem
                    found[symbol] = Choice(op, dtype, first, launch)
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
    """Compile instances as one translation unit; their resources by symbol.

    Raises
    ------
    BackendError
        If there is no compiler for the architecture.
    CompileError
        If it rejects one of them.
    """
    machine = device_of(arch).machine
    instances = {choice.launch.instance.symbol: choice.launch.instance for choice in chosen}
    text = source_text(tuple(instances.values()), machine)
    return (nvidia if machine == "cuda" else amd).resources(text, arch)


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
    )


def inspect(op: Op, dtypes: Sequence[str], archs: Sequence[str]) -> Iterator[Report | Unavailable]:
    """Every instance of an op that the configurations choose, on some architectures.

    Parameters
    ----------
    op : Op
        Of the registry.
    dtypes : sequence of str
        Among those of the op.
    archs : sequence of str
        ``"sm_90"``, ``"gfx90a"``, ...

    Yields
    ------
    Report or Unavailable
        An architecture that cannot be compiled for here is one row that says why.
    """
    for arch in archs:
        try:
            chosen = choices(op, dtypes, arch)
            compiled = compile_all(chosen, arch)
        except BackendError as error:
            yield Unavailable(arch, str(error))
            continue
        for choice in chosen:
            yield report(choice, arch, compiled[choice.launch.instance.symbol])
