"""The least time that a call can take on a GPU: by its operations, and by the bytes that it moves.

Williams, Waterman, Patterson: "Roofline: an insightful visual performance model for multicore
architectures", Communications of the ACM 52 (4), 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.inspection.kinds import template_arguments
from nnkernels.registry.record import Op, Shape, flat


@dataclass(frozen=True)
class Gpu:
    """What a data sheet says.

    Attributes
    ----------
    bandwidth : float
        Of memory, bytes per second.
    rates : dict
        Operations per second by what makes them; a multiply-add is two. Matrix cores without
        sparsity.
    """

    name: str
    arch: str
    bandwidth: float
    rates: dict[str, float]


def _tera(**rates: float) -> dict[str, float]:
    return {name.replace("_", " "): rate * 1e12 for name, rate in rates.items()}


# "NVIDIA A100 Tensor Core GPU" data sheet (80 GB SXM); "NVIDIA H100 Tensor Core GPU" data sheet
# (SXM; halved where it counts sparsity); "AMD Instinct MI210" and "MI300X" data sheets (float32 as
# v_pk_fma_f32 makes it, two at once); product page of "AMD Radeon RX 7900 XTX" (matrix
# instructions at the rate of packed float16).
_H100 = _tera(
    float64=34, float32=67, matrix_float64=67, matrix_float32=494.5, matrix_float16=989.5,
    matrix_int8=1979,
)  # fmt: skip
GPUS = (
    Gpu("A100", "sm_80", 2.039e12, _tera(
        float64=9.7, float32=19.5, matrix_float64=19.5, matrix_float32=156, matrix_float16=312,
        matrix_int8=624,
    )),
    Gpu("H100", "sm_90", 3.35e12, _H100),
    Gpu("H100", "sm_90a", 3.35e12, _H100),
    Gpu("MI210", "gfx90a", 1.6e12, _tera(
        float64=22.6, float32=45.3, matrix_float64=45.3, matrix_float32=45.3, matrix_float16=181,
        matrix_int8=181,
    )),
    Gpu("MI300X", "gfx942", 5.3e12, _tera(
        float64=81.7, float32=163.4, matrix_float64=163.4, matrix_float32=163.4,
        matrix_float16=1307.4, matrix_int8=2614.9,
    )),
    Gpu("RX 7900 XTX", "gfx1100", 0.96e12, _tera(
        float64=1.92, float32=61.4, matrix_float16=122.8, matrix_int8=122.8,
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What a call has to do, whatever kernels do it.

    Attributes
    ----------
    operations : float
        By the model of the registry.
    traffic : int
        Bytes that are read and written at least.
    """

    operations: float
    traffic: int


@dataclass(frozen=True)
class Estimate:
    """A roofline for a call on a GPU.

    Attributes
    ----------
    unit : str
        What makes the operations: ``"float32"``, ``"matrix float16"``, ...
    intensity : float
        Operations for each byte.
    bound : {"memory", "compute"}
        What takes longer.
    seconds : float
        How long that takes.
    """

    gpu: str
    unit: str
    intensity: float
    bound: str
    seconds: float


def cost_of(
    op: Op, options: dict[str, Any], arrays: Sequence[Any], more: Sequence[Any], results: Any
) -> Cost:
    """The models of the registry for a call; `more` are arrays among its options."""
    arrays = flat(tuple(arrays))  # those in lists too
    written = [r for r in flat(results) if r is not None]
    if op.traffic is not None:
        traffic = op.traffic(tuple(arrays), tuple(written))
    else:
        traffic = sum(array.nbytes for array in (*arrays, *more, *written))
    shapes: tuple[Shape, ...] = tuple(array.shape for array in arrays)
    operations = prod(shapes[0]) if op.flops is None else op.flops(shapes, options)
    return Cost(float(operations), int(traffic))


def unit_of(kernel: str, dtype: str) -> str:
    """What multiplies in a kernel: matrix cores, or the units of the type that sums have.

    >>> unit_of("MatmulTensor<MmaSm80<half>, ...>", "bfloat16"), unit_of("Elementwise<>", "float16")
    ('matrix float16', 'float32')
    """
    element = ELEMENTS[dtype]
    real = element.itemsize // (2 if element.kind == "c" else 1)
    if template_arguments(kernel)[0] == "MatmulTensor" or "MlpTensor<" in kernel:
        return f"matrix {'int8' if real == 1 else f'float{8 * real}'}"
    return "float64" if element.kind in "fc" and real == 8 else "float32"


def estimates(arch: str, kernel: str, dtype: str, cost: Cost) -> list[Estimate]:
    """A roofline for each GPU of an architecture.

    Data sheets say nothing of whole numbers on ordinary units: their rate is taken as that of
    float32, which none exceeds.
    """
    found = []
    for gpu in GPUS:
        if gpu.arch != arch:
            continue
        unit = unit_of(kernel, dtype)
        rate = gpu.rates.get(unit, gpu.rates["float32"])
        moving, computing = cost.traffic / gpu.bandwidth, cost.operations / rate
        bound = "compute" if computing > moving else "memory"
        intensity = cost.operations / max(cost.traffic, 1)
        found.append(Estimate(gpu.name, unit, intensity, bound, max(moving, computing)))
    return found
