"""What is timed: an op, on arrays of a shape, an element type and a layout in memory."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import gcd, prod
from typing import Any

import convolutions
import fused_functions
import models
import numpy as np
import perceptrons
import windows
from configuration import UsageError as UsageError  # re-exported

from nnkernels.dispatch.dtypes import ELEMENTS, numpy_dtype
from nnkernels.dispatch.windows import Windows, out_shape
from nnkernels.registry import Op

Shape = tuple[int, ...]

LAYOUTS = ("contiguous", "transposed", "strided", "channels_last")
# Normalisations with a parameter for each channel, and not for each element of a row.
CHANNEL_NORMS = ("batch_norm", "group_norm", "instance_norm")
# Windows of the stems and of the transitions of common networks, and windows that divide an image.
WINDOWS: dict[str, dict[str, Any]] = {
    "max_pool": {"kernel_size": 3, "stride": 2, "padding": 1},
    "avg_pool": {"kernel_size": 2},
    "lp_pool": {"kernel_size": 2},
}
POOLED = 7
LARGEST_INTEGER = 50  # of operands
GROUPS = 32  # of group norms, where so many divide the channels
# Families whose ops have many options. A module of each tells options, shapes of operands and
# obstacles of a case.
CASES: dict[str, Any] = {
    "conv": convolutions,
    "windows": windows,
    perceptrons.FAMILY: perceptrons,
}


@dataclass(frozen=True)
class Target:
    """What a measurement should reach: at least so many times a peer, or at most so long."""

    # "times" and a peer, "best" or "contiguous", our own call on contiguous arrays (at least), or
    # "seconds" (at most)
    kind: str
    limit: float


@dataclass(frozen=True)
class Mean:
    """A group of measurements whose geometric mean should be at least so many times a peer."""

    name: str
    target: Target


@dataclass(frozen=True)
class Problem:
    """One row of the table. ``axis`` is None for an op that has none."""

    op: str
    shape: Shape
    dtype: str = "float32"
    axis: int | None = None
    layout: str = "contiguous"
    target: Target | None = None
    case: str = ""  # of an op that is timed with several options: see CASES
    mean: Mean | None = None
    # Of this problem alone, where a suite says so: who takes part, and for how long it is timed.
    peers: tuple[str, ...] | None = None
    min_time: float | None = None

    @property
    def record(self) -> Op:
        return known_ops()[self.op]

    @property
    def options(self) -> dict[str, Any]:
        if self.record.family == "matmul" and self.dtype in ("int8", "uint8"):
            # What such products are for; in 8 bits, sums of more than one term wrap.
            return {} if self.record.is_gradient else {"out_dtype": "int32"}
        if self.record.family == "pool":
            return self.pooling
        if self.record.family in CASES:
            of_family = CASES[self.record.family]
            return of_family.options(self.op, self.shape, self.case)
        chosen: dict[str, Any] = {} if self.axis is None else {"axis": self.axis}
        if self.groups is not None:
            chosen["num_groups"] = self.groups
        if self.forward == "batch_norm":
            chosen["training"] = True
        return chosen

    @property
    def forward(self) -> str:
        """The op, or that whose gradient it is."""
        return self.record.forward

    @property
    def name(self) -> str:
        """The op and the case."""
        return f"{self.op} {self.case}".rstrip()

    @property
    def pooling(self) -> dict[str, Any]:
        """The options of a pooling; the shape is that of the image."""
        if self.op == "max_unpool":
            return {"output_shape": self.shape}
        if self.forward == "max_unpool":
            return {}
        if self.forward.startswith("adaptive"):
            chosen: dict[str, Any] = {"output_size": (POOLED,) * (len(self.shape) - 2)}
        else:
            chosen = dict(WINDOWS[self.forward])
        if self.op.endswith("_backward"):
            chosen.pop("output_size", None)
            if self.forward.endswith("avg_pool"):
                chosen["x_shape"] = self.shape
        return chosen

    @property
    def groups(self) -> int | None:
        """The groups of a group norm."""
        if self.forward != "group_norm":
            return None
        return gcd(GROUPS, self.shape[1 if self.axis is None else self.axis])

    @property
    def label(self) -> str:
        axis = "" if self.axis is None else f" axis {self.axis}"
        layout = "" if self.layout == "contiguous" else f" {self.layout}"
        return f"{self.name} {shape_text(self.shape)}{axis} {self.dtype}{layout}"


def shape_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


@cache
def known_ops() -> dict[str, Op]:
    """All that can be timed by name: ops, fused functions, and models, which consist of ops."""
    return {**fused_functions.all_ops(), **perceptrons.OPS, **models.OPS}


# ---- default problems ----------------------------------------------------------------------

# (shape, axis or None for the op's own, layout). Matrix products are written MxKxN.
_ROWS = (
    ((4096, 1024), None, "contiguous"),
    ((256, 32768), None, "contiguous"),
    ((65536, 64), None, "contiguous"),
    ((1024, 4096), 0, "contiguous"),
)
_ELEMENTWISE = (
    ((4096, 4096), None, "contiguous"),
    ((4096, 4096), None, "transposed"),
    ((4096, 4096), None, "strided"),
    ((8, 8), None, "contiguous"),
)
_MATMUL = (
    ((64, 64, 64), None, "contiguous"),
    ((256, 256, 256), None, "contiguous"),
    ((512, 512, 512), None, "contiguous"),
    ((1024, 1024, 1024), None, "contiguous"),
    ((1024, 1024, 1024), None, "transposed"),
    ((2048, 2048, 2048), None, "contiguous"),
    ((4096, 64, 4096), None, "contiguous"),
    ((64, 4096, 4096), None, "contiguous"),
    ((16, 4096, 4096), None, "contiguous"),
    ((1024, 32, 32, 32), None, "contiguous"),
)
# A matrix and a vector: MxK.
_GEMV = (
    ((512, 512), None, "contiguous"),
    ((8192, 8192), None, "contiguous"),
    ((8192, 8192), None, "transposed"),
)
_BATCH_NORM = (
    ((32, 64, 56, 56), None, "contiguous"),
    ((32, 64, 56, 56), None, "channels_last"),
)
_GROUP_NORM = (
    ((32, 256, 28, 28), None, "contiguous"),
    ((32, 256, 28, 28), None, "channels_last"),
)
_POOL = (
    ((32, 64, 112, 112), None, "contiguous"),
    ((32, 64, 112, 112), None, "channels_last"),
)
_IMAGES = (
    ((8, 64, 56, 56), None, "contiguous"),
    ((8, 64, 56, 56), None, "channels_last"),
)
DEFAULTS: dict[str, Any] = {
    "rows": _ROWS,
    "elementwise": _ELEMENTWISE,
    "matmul": _MATMUL,
    "gemv": _GEMV,
    "norm": _ROWS[:3],
    "batch_norm": _BATCH_NORM,
    "group_norm": _GROUP_NORM,
    "instance_norm": _GROUP_NORM,
    "pool": _POOL,
    "windows": _IMAGES,
    "conv": _IMAGES,
    **{name: ((shape, None, "contiguous"),) for name, shape in models.SHAPES.items()},
    "fusion": (((4096, 4096), None, "contiguous"), ((8, 8), None, "contiguous")),
    "mlp": tuple(((65536, n, n, n), None, "contiguous") for n in (16, 64, 128)),
    "fused_linear": (((2048, 512, 512), None, "contiguous"),),
}


def defaults(op: Op) -> Any:
    """The problems that are timed where no shape is given."""
    return DEFAULTS.get(op.forward, DEFAULTS.get(op.family, ()))


def default_axis(op: Op) -> int | None:
    """The op's own default for ``axis``, or None if it has no such option."""
    parameter = inspect.signature(op.function).parameters.get("axis")
    return None if parameter is None else parameter.default


# ---- from the command line -----------------------------------------------------------------


def find_ops(names: Sequence[str], direction: str | None = None) -> tuple[list[Op], list[str]]:
    """Records by name, and a message for each name that is none.

    Parameters
    ----------
    direction
        ``"forward"`` leaves gradients out, ``"backward"`` takes the gradients instead of the ops,
        ``"both"`` takes each op's gradients after it; None: the ops that are named.

    Raises
    ------
    UsageError
        If nothing is left.
    """
    ops = known_ops()
    unknown = [f"no op is called {name!r}; --list names them all" for name in names]
    unknown = [text for text, name in zip(unknown, names, strict=True) if name not in ops]
    found: list[Op] = []
    for op in (ops[name] for name in names if name in ops):
        if goes(op, direction):
            found.append(op)
        if direction in ("backward", "both"):
            found += [ops[gradient] for gradient in op.gradients if gradient in ops]
    if not found:
        reason = unknown[0] if unknown else f"{', '.join(names)}: nothing here is {direction}"
        raise UsageError(reason)
    return list({op.name: op for op in found}.values()), list(dict.fromkeys(unknown))


def goes(op: Op, direction: str | None) -> bool:
    """Whether an op is one of that direction."""
    if op.family == models.FAMILY and direction not in (None, "both"):
        return models.DIRECTIONS[op.name] == direction
    return direction in (None, "both") or op.is_gradient == (direction == "backward")


def names_of_family(family: str) -> list[str]:
    """The names of its ops."""
    found = [op.name for op in known_ops().values() if op.family == family]
    if not found:
        known = ", ".join(dict.fromkeys(op.family for op in known_ops().values()))
        raise UsageError(f"no family is called {family!r}; there are {known}")
    return found


def parse_shape(text: str) -> Shape:
    sides = text.lower().split("x")
    if not all(side.isascii() and side.isdecimal() and int(side) > 0 for side in sides):
        raise UsageError(
            f"{text!r} is not a shape; write whole numbers of at least 1, such as 4096x1024"
        )
    return tuple(map(int, sides))


def build(
    ops: Sequence[Op],
    shapes: Sequence[Shape],
    dtypes: Sequence[str],
    layouts: Sequence[str],
    axis: int | None,
    case: str = "",
) -> tuple[list[Problem], list[str]]:
    """All combinations that make sense, and a message for each kind that does not.

    Parameters
    ----------
    shapes, layouts
        Empty for the defaults of each op.
    axis
        None for the default of each op.
    case
        Empty for the default of each op.

    Raises
    ------
    UsageError
        If a dtype or layout is unknown, or nothing is left.
    """
    asked: list[Problem] = []
    for op in ops:
        if not defaults(op):
            raise UsageError(f"bench/problems.py does not know what shapes {op.name} takes")
        if case and op.family not in CASES:
            raise UsageError(f"{op.name} has no cases")
        own = default_axis(op)
        for shape, case_axis, layout in _cases(op, shapes, layouts):
            chosen = next((a for a in (axis, case_axis) if a is not None), own)
            of_op = None if own is None else chosen
            asked.append(Problem(op.name, shape, axis=of_op, layout=layout, case=case))
    return spread(asked, dtypes, layouts)


def spread(
    asked: Sequence[Problem], dtypes: Sequence[str], layouts: Sequence[str]
) -> tuple[list[Problem], list[str]]:
    """Problems in all dtypes and layouts (or their own), and why some of that cannot be.

    Raises
    ------
    UsageError
        If a dtype or layout is unknown, or nothing is left.
    """
    for dtype in dtypes:
        if dtype not in ELEMENTS:
            raise UsageError(f"no dtype is called {dtype!r}; there are {', '.join(ELEMENTS)}")
    for layout in layouts:
        if layout not in LAYOUTS:
            raise UsageError(f"no layout is called {layout!r}; there are {', '.join(LAYOUTS)}")
    problems: list[Problem] = []
    skipped: dict[str, None] = {}
    for problem, dtype in product(asked, dtypes):
        for layout in layouts or (problem.layout,):
            wanted = replace(problem, dtype=dtype, layout=layout)
            reason = obstacle(wanted)
            if reason:
                skipped[reason] = None
            else:
                problems.append(wanted)
    if not problems:
        raise UsageError("nothing to time. " + "; ".join(skipped))
    return list(dict.fromkeys(problems)), list(skipped)


def _cases(op: Op, shapes: Sequence[Shape], layouts: Sequence[str]) -> list[Any]:
    if shapes:
        return [(shape, None, layout) for shape in shapes for layout in layouts or ("contiguous",)]
    if layouts:
        return [
            (shape, axis, layout)
            for shape, axis, _ in dict.fromkeys((s, a, None) for s, a, _ in defaults(op))
            for layout in layouts
        ]
    return list(defaults(op))


def obstacle(problem: Problem) -> str:
    """Why a problem cannot be timed, or nothing."""
    op, rank = problem.record, len(problem.shape)
    if problem.dtype not in op.dtypes:
        return f"{op.name} takes {', '.join(op.dtypes)}, not {problem.dtype}"
    shape = shape_text(problem.shape)
    if op.family == models.FAMILY:
        return models.obstacle(op.name, problem.shape, problem.layout)
    if op.name.startswith("gemv"):
        if rank < 2:
            return f"{op.name}: the shape is MxK, or BxMxK for a batch, not {shape}"
    elif op.family == "matmul" and rank < 3:
        return f"{op.name}: the shape is MxKxN, or BxMxKxN for a batch, not {shape}"
    elif op.family == "pool" and not 3 <= rank <= 5:
        return f"{op.name}: the shape is that of an image, NxCxHxW or the like, not {shape}"
    elif op.family in CASES:
        reason = CASES[op.family].obstacle(op.name, problem.shape, problem.case)
        if reason:
            return str(reason)
    if problem.layout == "transposed" and rank < 2:
        return f"{op.name}: the transposed layout needs two axes, and {shape} has one"
    if problem.layout == "channels_last" and rank < 3:
        return f"{op.name}: the channels_last layout needs three axes, not {shape}"
    if problem.axis is None:
        return ""
    if not -rank <= problem.axis < rank:
        return f"{op.name}: {shape} has no axis {problem.axis}"
    if op.forward == "glu" and problem.shape[problem.axis] % 2:
        return f"{op.name} halves its axis, whose length in {shape} is odd"
    return ""


# ---- arrays --------------------------------------------------------------------------------


def operand_shapes(problem: Problem) -> tuple[Shape, ...]:
    """The shape of each array argument."""
    op, shape, axis = problem.record, problem.shape, problem.axis or 0
    if op.family == "matmul":
        return tuple(_product_shapes(op, shape)[name] for name in op.arrays)
    if op.family == "fusion":
        return fused_functions.operand_shapes(op, shape)
    if op.family in CASES:
        found: tuple[Shape, ...] = CASES[op.family].operand_shapes(op.name, shape, problem.case)
        return found
    if op.family == models.FAMILY:
        return models.operand_shapes(op.name, shape)
    special: dict[str, Shape] = {}
    if op.family == "pool":
        large = {"max_unpool": (), "max_unpool_backward": ("dy",)}.get(op.name, ("x",))
        pooled = _pooled(problem)
        return tuple(shape if name in large else pooled for name in op.arrays)
    if op.family == "norm":
        parameter = (shape[axis],)
        return tuple(shape if name in ("dy", "x") else parameter for name in op.arrays)
    if op.family == "fusion":
        special["weight"] = special["bias"] = shape[-1:]
    elif op.name.startswith("prelu"):
        special["weight"] = (shape[axis],)
    elif op.name == "glu_backward":
        special["dy"] = _replaced(shape, axis, shape[axis] // 2)
    elif op.name == "logsumexp_backward":
        special["dy"] = special["y"] = tuple(np.delete(shape, axis).tolist())
    return tuple(special.get(name, shape) for name in op.arrays)


def _pooled(problem: Problem) -> Shape:
    """The shape of the result of a pooling; of an unpooling, that of the operand."""
    planes, sizes = problem.shape[:2], problem.shape[2:]
    if problem.forward == "max_unpool":
        return (*planes, *((n + 1) // 2 for n in sizes))
    if problem.forward.startswith("adaptive"):
        return (*planes, *(POOLED for _ in sizes))
    given = WINDOWS[problem.forward]
    kernel = given["kernel_size"]
    stride, padding = given.get("stride", kernel), given.get("padding", 0)
    windows = Windows.checked(len(sizes), kernel, stride, padding, 1)
    return (*planes, *out_shape(windows.axes(sizes)))


def _product_shapes(op: Op, shape: Shape) -> dict[str, Shape]:
    """Shapes of the arguments of a matrix product by name."""
    if op.name.startswith("gemv"):
        *batch, m, k = shape
        return {"a": shape, "x": (*batch, k), "y": (*batch, m), "dz": (*batch, m)}
    *batch, m, k, n = shape
    left, right, result = (*batch, m, k), (*batch, k, n), (*batch, m, n)
    if op.name.startswith("linear"):
        return {"x": left, "weight": (n, k), "bias": (n,), "dy": result}
    return {"x1": left, "x2": right, "a": left, "b": right, "c": (n,), "dy": result}


def _replaced(shape: Shape, axis: int, side: int) -> Shape:
    sides = list(shape)
    sides[axis] = side
    return tuple(sides)


def random_operands(problem: Problem, forward: Any) -> list[np.ndarray]:
    """Contiguous NumPy operands with normally distributed values, never zeros.

    ``forward(name, x)`` computes the result that a gradient takes as its argument ``y``.
    """
    random = np.random.default_rng(1)
    dtype = numpy_dtype(problem.dtype)
    op, shapes = problem.record, operand_shapes(problem)
    if op.family == models.FAMILY:
        return models.operands(op, shapes, dtype)
    arrays = {
        name: op.special[name](random, shapes, problem.options)
        if name in op.special
        else _random(random, s, dtype)
        for name, s in zip(op.arrays, shapes, strict=True)
    }
    if op.family == "fusion":
        fused_functions.with_usual_sums(arrays)
    for name, size in op.scaled.items():
        arrays[name] *= dtype.type(size(arrays[name].shape))
    if "grid" in arrays:
        arrays["grid"] = windows.grid(random, arrays["grid"].shape).astype(dtype)
    for name in op.positive:
        arrays[name] = np.abs(arrays[name])
    if op.is_gradient and "y" in arrays:
        x = arrays["x"] if "x" in arrays else _random(random, problem.shape, dtype)
        arrays["y"] = forward(op.forward, x)
    return list(arrays.values())


# So many numbers are drawn, at most: to draw 64 M takes as long as everything else of a row. A
# prime, so that no row of an array is like another.
_DRAWN = 4194301


def _random(random: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> np.ndarray:
    if prod(shape) > _DRAWN:
        return np.resize(_random(random, (_DRAWN,), dtype), shape)
    if dtype.kind in "iu":
        least = 0 if dtype.kind == "u" else -LARGEST_INTEGER
        return random.integers(least, LARGEST_INTEGER, shape).astype(dtype)
    values = random.standard_normal(shape, np.float32)
    if dtype.kind == "c":
        return (values + 1j * random.standard_normal(shape, np.float32)).astype(dtype)
    return values.astype(dtype)


def laid_out(xp: Any, values: Any, layout: str) -> Any:
    """A new array of the library ``xp`` with the values, in a layout."""
    shape, dtype = values.shape, values.dtype
    if layout == "transposed" and len(shape) > 1:
        view = xp.empty((*shape[:-2], shape[-1], shape[-2]), dtype).swapaxes(-1, -2)
    elif layout == "strided" and shape:
        view = xp.empty((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]
    elif layout == "channels_last" and len(shape) > 2:
        view = xp.moveaxis(xp.empty((shape[0], *shape[2:], shape[1]), dtype), -1, 1)
    else:
        view = xp.empty(shape, dtype)
    view[...] = values
    return view


def footprint(problem: Problem, results: int) -> int:
    """Bytes of memory that one set of operands and results spans."""
    stretch = 2 if problem.layout == "strided" else 1
    itemsize = numpy_dtype(problem.dtype).itemsize
    return sum(prod(shape) for shape in operand_shapes(problem)) * itemsize * stretch + results


def check_memory(problems: Sequence[Problem], free_bytes: int) -> None:
    """Refuse what does not fit into memory.

    Raises
    ------
    UsageError
        Naming the first such problem.
    """
    for problem in problems:
        # Operands, a contiguous copy of them, the result, and the reference's in float64.
        needed = 6 * footprint(problem, 0)
        if needed > free_bytes:
            raise UsageError(
                f"{problem.label} needs some {needed / 2**30:.1f} GiB of memory, and "
                f"{free_bytes / 2**30:.1f} GiB are free; give a smaller --shape"
            )
