"""Vector width, unrolling and tiles of the elementwise kernel."""

from __future__ import annotations

from dataclasses import dataclass

from nnkernels.config.device import Device
from nnkernels.dispatch.axes import Shape, Strides, index_kind, largest_power_of_two

ANY_STEP, UNIT_STEP, ZERO_STEP = 0, 1, 2

# A block of 256 threads fills a multiprocessor of every architecture evenly.
_GPU_THREADS = 256
# 64 bytes under way for each thread and operand hide the latency of memory (four 16-byte loads).
_GPU_UNROLL = 4
# Elements of a tile on a CPU: large enough to hide the cost of a block, small enough to share out.
_CPU_TILE = 16384
# Registers of a row on a CPU from which on several are taken at once: the rest of a row is then
# little of it.
_LONG_ROW = 64


@dataclass(frozen=True)
class ElementwiseProblem:
    """Merged axes of one call; operands are results first, then inputs.

    Attributes
    ----------
    shape, strides
        Merged; the last axis is the inner one. Strides in bytes.
    itemsizes : tuple of int
        Of every operand.
    compute_itemsize : int
        Of the type in which the functor computes; 0 if it has no SIMD form (complex).
    results : int
        How many of the operands are results.
    alignment : int
        A power of two that divides all addresses.
    chains : int
        On a CPU, how many registers of each operand are computed side by side where rows are long:
        each is a chain of operations that wait for each other.
    """

    shape: Shape
    strides: tuple[Strides, ...]
    itemsizes: tuple[int, ...]
    compute_itemsize: int
    results: int
    alignment: int
    chains: int = 1


@dataclass(frozen=True)
class ElementwiseConfig:
    """Template arguments of one instance, and the tile that goes with them."""

    threads: int
    vector: int
    unroll: int
    tile: int
    steps: tuple[int, ...]
    index: str
    streaming: bool


def configure(problem: ElementwiseProblem, device: Device) -> ElementwiseConfig:
    """The kernel for a problem on a device."""
    steps = tuple(_step(problem, operand) for operand in range(len(problem.itemsizes)))
    if not device.is_gpu:
        return _configure_cpu(problem, device, steps)
    vector = _gpu_vector(problem, device, steps)
    vectors = _vectors(problem.shape, vector)
    busy = vectors >= device.processors * _GPU_THREADS * _GPU_UNROLL
    unroll = _GPU_UNROLL if busy else 1
    tile = _GPU_THREADS * unroll
    index = index_kind(problem.shape, problem.strides, slack=tile)
    return ElementwiseConfig(_GPU_THREADS, vector, unroll, tile, steps, index, streaming=False)


def _configure_cpu(
    problem: ElementwiseProblem, device: Device, steps: tuple[int, ...]
) -> ElementwiseConfig:
    if problem.compute_itemsize:
        vector = device.vector_bytes // max(problem.compute_itemsize, *problem.itemsizes)
    else:
        vector = 1
    if problem.shape[-1] >= _LONG_ROW * vector:
        vector *= problem.chains
    results = range(problem.results)
    written = sum(_elements(problem.shape) * problem.itemsizes[r] for r in results)
    streaming = written >= device.cache_bytes and all(steps[r] == UNIT_STEP for r in results)
    index = index_kind(problem.shape, problem.strides, slack=_CPU_TILE)
    return ElementwiseConfig(1, vector, 1, max(_CPU_TILE // vector, 1), steps, index, streaming)


def _step(problem: ElementwiseProblem, operand: int) -> int:
    stride = problem.strides[operand][-1]
    if stride == problem.itemsizes[operand] or (
        problem.shape[-1] == 1 and operand < problem.results
    ):
        return UNIT_STEP
    return ZERO_STEP if stride == 0 else ANY_STEP


def _gpu_vector(problem: ElementwiseProblem, device: Device, steps: tuple[int, ...]) -> int:
    # With a scattered operand, neighbouring threads must take neighbouring elements.
    if ANY_STEP in steps:
        return 1
    adjacent = [o for o, step in enumerate(steps) if step == UNIT_STEP]
    widest = max((problem.itemsizes[o] for o in adjacent), default=device.vector_bytes)
    vector = max(device.vector_bytes // widest, 1)
    while vector > 1 and not all(_aligned(problem, o, vector) for o in adjacent):
        vector //= 2
    return vector


def _aligned(problem: ElementwiseProblem, operand: int, vector: int) -> bool:
    wanted = min(vector * problem.itemsizes[operand], 16)
    outer = problem.strides[operand][:-1]
    return largest_power_of_two(wanted, problem.alignment, *outer) == wanted


def _elements(shape: Shape) -> int:
    product = 1
    for n in shape:
        product *= n
    return product


def _vectors(shape: Shape, vector: int) -> int:
    return _elements(shape[:-1]) * -(-shape[-1] // vector)
