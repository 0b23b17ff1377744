"""Plans of pooling: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import pool as config
from nnkernels.config.pool import PoolConfig, PoolProblem
from nnkernels.dispatch.axes import Shape, Strides, contiguous_strides, memory_order
from nnkernels.dispatch.dtypes import ELEMENTS, Element
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.results import Allocation
from nnkernels.dispatch.windows import Axis

Axes = tuple[Axis, Axis, Axis]

# Numbers of taps in a byte, of which the last value stands for none.
_BYTE_TAPS = 255
# Rows in scratch memory: `kept` of the kernels, at most.
_KEPT = 4
_ONE = Axis(1, 1, 1, 1, 0, 0, 1)


@dataclass(frozen=True)
class Operand:
    """An array of a launch: what it holds, and where.

    Attributes
    ----------
    element : Element
        Its dtype.
    strides : tuple of int
        In bytes: batch, channels and three axes.
    image : bool
        Whether it has the shape of the image, not one element for each window.
    """

    element: Element
    strides: Strides
    image: bool


@dataclass(frozen=True)
class Mode:
    """What becomes of the taps of a window.

    Attributes
    ----------
    name : {"Max", "Average", "Square", "Power"}
        As in ``cuda_src/nnk/pool_axis.cuh``.
    include_pad : bool
        Whether an average counts padding.
    p : float
        Of a norm.
    """

    name: str
    include_pad: bool = True
    p: float = 2.0

    def parameters(self) -> tuple[float, ...]:
        """Scalars of the kernel."""
        p = self.p
        return p, _small(p), _small(p - 1), 1 / p

    def compute(self, found: Element, index: str, labels: bool = False) -> Element:
        """The type in which elements of a dtype are computed."""
        if self.name == "Power":
            return ELEMENTS["float64"]  # an error of log x is multiplied by p
        if found.kind in "iu" and found.itemsize < 4:
            return ELEMENTS["int32"]
        compute = ELEMENTS[found.compute_name]
        if labels and index == "q" and compute.itemsize < 8:  # as wide as the labels
            return ELEMENTS["float64" if compute.kind == "f" else "int64"]
        return compute


def _small(p: float) -> float:
    return p if p in (1, 2, 3, 4, 5, 6, 7, 8) else 0.0


class PoolPlan:
    """Everything about a call but its pointers.

    Attributes
    ----------
    results : tuple of Allocation
        What the call returns, where it is not given.
    workspace : Allocation or None
        Needed between launches.
    launches : list
        For each a function that starts it, the packer and the numbers of its pointers, and what
        follows them. Pointers are numbered: arguments, results, workspace, nothing.
    """

    __slots__ = ("launches", "reaches", "results", "workspace")

    def __init__(
        self, results: tuple[Allocation, ...], workspace: Allocation | None = None
    ) -> None:
        self.results = results
        self.workspace = workspace
        self.launches: list[tuple[Any, Any, tuple[int, ...], bytes]] = []
        self.reaches: list[tuple[int, int]] = []


# ---- geometry -----------------------------------------------------------------------------------


def three_axes(axes: Sequence[Axis]) -> Axes:
    """The axes with trivial ones before them, and without numbers that change nothing."""
    plain = [
        replace(
            axis,
            stride=1 if axis.out <= 1 else axis.stride,
            dilation=1 if axis.kernel == 1 else axis.dilation,
        )
        for axis in axes
    ]
    first, second, third = [_ONE] * (3 - len(plain)) + plain
    return first, second, third


def adaptive_axes(sizes: Sequence[int], outs: Sequence[int]) -> tuple[Axis, ...]:
    """Axes whose windows divide the image; `kernel` is the most taps of a window."""
    return tuple(
        Axis(size, _most_taps(size, out), 1, 1, 0, 0, out)
        for size, out in zip(sizes, outs, strict=True)
    )


def _most_taps(size: int, out: int) -> int:
    """Of a window from floor(o size / out) on; o size mod out is a multiple of their divisor."""
    return max(-(-(out - gcd(size, out) + size) // out), 1)


def five_strides(strides: Strides) -> Strides:
    """Strides of an array (N, C, *spatial) as those of one with three spatial axes."""
    return (*strides[:2], *(0,) * (5 - len(strides)), *strides[2:])


def ordered(shape: Shape, dtype: Any, like: Any) -> tuple[Allocation, Strides]:
    """A result of a shape whose axes lie in memory as those of another array, and its strides."""
    order = memory_order(like.shape, like.strides)
    return Allocation(shape, dtype, order), contiguous_strides(shape, dtype.itemsize, order)


# ---- launches -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """A pooling or a gradient of one, before it is configured.

    Attributes
    ----------
    operands : tuple of Operand or None
        Those of the kernel, in its order; None for one that is not there.
    pointers : tuple of int
        Numbers of their pointers.
    flat : bool
        Whether labels are flat indices, not numbers of taps.
    """

    mode: Mode
    axes: Axes
    adaptive: bool
    backward: bool
    planes: tuple[int, int]
    operands: tuple[Operand | None, ...]
    pointers: tuple[int, ...]
    flat: bool = False


def add_launch(plan: PoolPlan, launch: Launch, machine: Any, alignment: int) -> None:
    """Configure a launch and add it to a plan."""
    if launch.backward and launch.mode.name != "Max":
        launch = with_joined_axes(launch)
    problem, compute = problem_of(launch, alignment)
    chosen = config.configure(problem, machine.device)
    instance = _instance(launch, chosen, compute)
    tail, scratch = _pack(launch, chosen, compute)
    run = machine.prepare(instance, chosen.blocks, scratch, traffic_of(launch))
    pointers = launch.pointers[:2] if chosen.columns or chosen.few else launch.pointers
    plan.launches.append((run, pointer_struct(len(pointers)).pack, pointers, tail))


def with_joined_axes(launch: Launch) -> Launch:
    """The gradient of sums with neighbouring axes as one where a single window has all of both.

    An element has one term then, which is the same however axes are counted.
    """
    for _ in range(2):
        _, slow, fast = launch.axes
        images = [o for o in launch.operands if o is not None and o.image]
        linear = all(slow.size == 1 or o.strides[3] == fast.size * o.strides[4] for o in images)
        if not (linear and _is_whole(slow) and _is_whole(fast)):
            break
        size = slow.size * fast.size
        joined = replace(fast, size=size, kernel=size)
        operands = tuple(
            o and replace(o, strides=(*o.strides[:2], 0, *o.strides[2:3], o.strides[4]))
            for o in launch.operands
        )
        launch = replace(launch, axes=(_ONE, launch.axes[0], joined), operands=operands)
    return launch


def _is_whole(axis: Axis) -> bool:
    """Whether an axis has one window, of its elements and no padding."""
    return (axis.out, axis.kernel, axis.low, axis.high) == (1, axis.size, 0, 0) and (
        axis.dilation == 1
    )


def problem_of(launch: Launch, alignment: int) -> tuple[PoolProblem, Element]:
    """What a configuration is chosen for, and the computing type."""
    given = [o for o in launch.operands if o is not None]
    images = tuple(o.image for o in given)
    strides = tuple(o.strides for o in given)
    sizes = tuple(o.element.itemsize for o in given)
    index = config.index_of(launch.axes, launch.adaptive, launch.planes, strides, images, sizes)
    labelled = launch.mode.name == "Max" and launch.operands[2] is not None
    compute = launch.mode.compute(given[0].element, index, labelled)
    problem = PoolProblem(
        axes=launch.axes,
        adaptive=launch.adaptive,
        backward=launch.backward,
        planes=launch.planes,
        strides=strides,
        images=images,
        itemsizes=sizes,
        compute_itemsize=compute.itemsize,
        # y where there is one, else the labels
        result=0 if launch.backward else 1,
        alignment=alignment,
        index=index,
        has_powers=launch.mode.name == "Power",
        labelled=labelled,
    )
    return problem, compute


def traffic_of(launch: Launch) -> int:
    """Bytes that a launch moves, if it moves each once."""
    return sum(
        o.element.itemsize
        * prod(launch.planes)
        * prod(a.size if o.image else a.out for a in launch.axes)
        for o in launch.operands
        if o is not None
    )


def _instance(launch: Launch, chosen: PoolConfig, compute: Element) -> Instance:
    first = next(o for o in launch.operands if o is not None)
    labels = launch.operands[2]
    name = f"Pool{launch.mode.name}"
    index = "int32" if chosen.index == "i" else "int64"
    streaming = str(chosen.streaming).lower()
    if chosen.columns:
        text = f"{name}, {first.element.storage}, {compute.storage}, {chosen.step}, "
        text += f"{chosen.vector}, {index}, {streaming}"
        return Instance("pool_columns", f"PoolColumns<{text}>", chosen.threads)
    if chosen.few:
        text = f"{name}, {first.element.storage}, {compute.storage}, {chosen.step}, "
        text += f"{chosen.vector}, {index}, {str(launch.adaptive).lower()}"
        return Instance("pool_few", f"PoolFewWindows<{text}>", chosen.threads)
    labelled = launch.mode.name == "Max" and labels is not None
    if labelled and not launch.backward:
        name += "Index"
    text = f"{name}, {first.element.storage}, "
    text += f"{labels.element.storage if labelled and labels else 'uint8'}, {compute.storage}, "
    text += f"{chosen.step}, {chosen.vector}, {index}"
    if not chosen.rows or launch.backward:
        text += ", true" if launch.adaptive else ", false"
    text += f", {streaming}"
    if not (chosen.fetches or launch.backward):
        text += ", false"
    header, struct = {
        (False, False): ("pool", "PoolWindows"),
        (False, True): ("pool_rows", "PoolRows"),
        (True, False): ("pool_backward", "PoolGather"),
        (True, True): ("pool_rows_backward", "PoolRowsGather"),
    }[launch.backward, chosen.rows]
    return Instance(header, f"{struct}<{text}>", chosen.threads)


# ---- arguments: the structs of the headers, field by field --------------------------------------


def _pack(launch: Launch, chosen: PoolConfig, compute: Element) -> tuple[bytes, int]:
    if chosen.columns:
        return _pack_columns(launch, chosen, compute)
    if chosen.few:
        return _pack_few(launch, chosen, compute)
    packer = Packer(len(launch.operands), chosen.index)
    packer.add("q", chosen.units, chosen.tile)
    scratch = 0
    if chosen.rows:
        pieces = -(
            -(launch.axes[2].size if launch.backward else launch.axes[2].out) // chosen.piece
        )
        scratch = _pack_piece(packer, launch, chosen, compute.itemsize)
        packer.add_index(int(launch.mode.include_pad))
        packer.add_divisor(pieces)
    else:
        vectors = -(-chosen.lane_count // chosen.vector)
        packer.add_index(chosen.lane_count, vectors, int(launch.mode.include_pad))
        packer.add_divisor(vectors)
    packer.add_divisor(chosen.planes[1])
    for axis in launch.axes:
        pack_axis(packer, axis, launch.adaptive)
    for operand in launch.operands:
        pack_strides(packer, operand, chosen.lanes, chosen.group)
    kernels = [axis.kernel for axis in launch.axes]
    if launch.backward:
        packer.add_index(*kernels[1:])
    else:
        pack_labels(packer, launch)
    packer.add_scalars(compute.name, parameters_of(launch, compute))
    return packer.finish(), scratch


def _pack_columns(launch: Launch, chosen: PoolConfig, compute: Element) -> tuple[bytes, int]:
    packer = Packer(2, chosen.index)
    packer.add("q", chosen.units, chosen.tile)
    padded = -(-chosen.group // chosen.vector) * chosen.vector
    packer.add_index(chosen.lane_count, chosen.group, padded, int(launch.mode.include_pad))
    packer.add_divisor(-(-chosen.lane_count // chosen.group))
    packer.add_divisor(chosen.planes[1])
    for axis in launch.axes:
        pack_axis(packer, axis, False)
    for operand in launch.operands[:2]:
        pack_strides(packer, operand, chosen.lanes, 0)
    packer.add_scalars(compute.name, parameters_of(launch, compute))
    return packer.finish(), launch.axes[2].size * padded * compute.itemsize


def _pack_few(launch: Launch, chosen: PoolConfig, compute: Element) -> tuple[bytes, int]:
    packer = Packer(2, chosen.index)
    packer.add("q", chosen.units, chosen.tile)
    packer.add_index(chosen.piece, int(launch.mode.include_pad))
    packer.add_divisor(chosen.planes[1])
    for axis in launch.axes:
        pack_axis(packer, axis, launch.adaptive)
    for operand in launch.operands[:2]:
        pack_strides(packer, operand, "", 0)
    packer.add_scalars(compute.name, parameters_of(launch, compute))
    return packer.finish(), 2 * chosen.vector * chosen.piece * compute.itemsize


def parameters_of(launch: Launch, compute: Element) -> tuple[float, ...]:
    """Scalars of a kernel whose computing type is a float."""
    return launch.mode.parameters() if compute.kind == "f" else (0, 0, 0, 0)


def pack_axis(packer: Packer, axis: Axis, adaptive: bool) -> None:
    """A ``PoolAxis``."""
    packer.add_index(axis.size, axis.out, axis.kernel, axis.stride, axis.dilation, axis.low)
    packer.add_index(axis.size + axis.high, 0 if adaptive else axis.reach - 1)
    for divisor in (axis.stride, axis.dilation, axis.out, axis.size):
        packer.add_divisor(max(divisor, 1))


def pack_strides(packer: Packer, operand: Operand | None, lanes: str, group: int) -> None:
    """A ``PoolStrides``; `group` planes of the lanes are the second axis of planes, unless 0."""
    if operand is None:
        packer.add_index(*(0,) * 6)
        return
    batch, channels, *space = operand.strides
    lane = config.lane_stride(operand.strides, lanes)
    first, second = {
        "": (batch, channels),
        "channels": (batch, 0),
        "batch": (0, channels),
        "planes": (0, 0),
    }[lanes]
    packer.add_index(first, second if group == 0 else group * lane, *space, lane)


def pack_labels(packer: Packer, launch: Launch) -> None:
    """A ``PoolLabels``."""
    _, height, width = launch.axes
    if launch.flat:
        blocks = (height.size * width.size, width.size, 1)
        packer.add_index(*blocks)
        packer.add_index(*(b * a.dilation for b, a in zip(blocks, launch.axes, strict=True)))
    else:
        packer.add_index(0, 0, 0, height.kernel * width.kernel, width.kernel, 1)


def _pack_piece(packer: Packer, launch: Launch, chosen: PoolConfig, itemsize: int) -> int:
    """The sizes of scratch memory; its bytes."""
    axis, vector, piece = launch.axes[2], chosen.vector, chosen.piece

    def whole(n: int) -> int:
        return -(-n // vector) * vector

    if not launch.backward:
        slots = whole(piece)
        length = whole((slots - 1) * axis.stride + axis.reach + 1) + vector
        packer.add_index(piece, length, slots)
        return (_KEPT * length + 3 * slots) * itemsize
    beyond = 0 if chosen.spreads else (axis.reach - 1) // axis.stride + 1
    phase = whole(-(-piece // axis.stride))
    windows = min((piece + axis.reach) // axis.stride + 1, axis.out)
    margin = whole(beyond)  # the first window is where a vector begins
    length = margin + whole(max(phase, windows) + beyond + vector)
    packer.add_index(piece, length, margin, phase, int(chosen.spreads))
    sums = 2 * axis.stride * phase + vector
    taps = 0 if chosen.spreads else 2 * axis.kernel
    index = 8 if chosen.index == "q" else 4
    return (2 * _KEPT * length + sums) * itemsize + (taps + axis.stride + 1) * index


# ---- the calls ----------------------------------------------------------------------------------


def label_element(axes: Axes) -> Element:
    """The smallest dtype for the number of a tap, with a value left for none."""
    taps = prod(axis.kernel for axis in axes)
    names = ((_BYTE_TAPS, "uint8"), (2**31 - 1, "int32"), (2**63 - 1, "int64"))
    return ELEMENTS[next(name for most, name in names if taps <= most)]
