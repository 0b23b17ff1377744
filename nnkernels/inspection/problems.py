"""Calls that between them reach every kind of instance that the configurations choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.registry.mlp import network
from nnkernels.registry.record import Example, Op, Shape

# Enough elements that an elementwise kernel takes several vectors at a time on any GPU, and
# enough rows that no row is cut into parts.
_MANY = (2048, 4096)
_ROWS = 512
# Of a perceptron: a tile of rows for every processor of any GPU.
_MANY_ROWS = 2**17
# From a row that 8 lanes hold to one that no block can keep (2^17 float32 numbers are 512 KiB).
# What only shared memory can keep lies between powers of two.
_POWERS = tuple(2**exponent for exponent in range(5, 18))
_LENGTHS = tuple(sorted((*_POWERS, 20000, 40000)))
_CUT_LENGTH = 2**20


@dataclass(frozen=True)
class Problem:
    """One call.

    Attributes
    ----------
    label : str
        What is special about it.
    aligned : bool
        Whether every array can be read and written in accesses of 16 bytes.
    like_first : tuple of str
        Options that are arrays like the first argument.
    """

    label: str
    aligned: bool
    shapes: tuple[Shape, ...]
    options: dict[str, Any]
    layout: Callable[[Shape, Any], np.ndarray]
    like_first: tuple[str, ...] = ()

    def arrays(self, dtype_name: str, special: tuple[bool, ...] = ()) -> list[np.ndarray]:
        """The arguments. Nothing is written to them, so that large ones take no memory.

        Those that are `special` hold int64.
        """
        dtype, index = numpy_dtype(dtype_name), numpy_dtype("int64")
        kinds = [index if s else dtype for s in special] or [dtype] * len(self.shapes)
        return [self.layout(s, kind) for s, kind in zip(self.shapes, kinds, strict=False)]

    def arguments(self, op: Op, dtype_name: str) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of the call."""
        arrays = self.arrays(dtype_name, tuple(name in op.special for name in op.arrays))
        like_first = {n: self.layout(self.shapes[0], arrays[0].dtype) for n in self.like_first}
        return op.arguments(arrays, self.options | like_first)


def problems(op: Op) -> Iterator[Problem]:
    """The calls of an op that are worth a look."""
    families = {
        "elementwise": _elementwise,
        "rows": _rows,
        "matmul": _matmul,
        "mlp": _mlp,
        "norm": _norm,
        "pool": _pool,
        "windows": _windows,
        "conv": _conv,
    }
    family = families.get(op.family)
    if family is not None:
        yield from family(op)
    for number, example in enumerate(op.examples):
        yield Problem(
            f"example {number + 1}", False, example.shapes, dict(example.options), contiguous
        )


# ---- layouts ------------------------------------------------------------------------------------


def contiguous(shape: Shape, dtype: Any) -> np.ndarray:
    """A dense array that begins at a multiple of 64 bytes."""
    return _aligned(shape, dtype, 0)


def misaligned(shape: Shape, dtype: Any) -> np.ndarray:
    """A dense array that begins one element after such a multiple."""
    return _aligned(shape, dtype, dtype.itemsize)


def _aligned(shape: Shape, dtype: Any, offset: int) -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    buffer = np.empty(count * dtype.itemsize + 128, np.uint8)
    start = -buffer.__array_interface__["data"][0] % 64 + offset
    return buffer[start : start + count * dtype.itemsize].view(dtype).reshape(shape)


def strided(shape: Shape, dtype: Any) -> np.ndarray:
    """Every second element of the last axis."""
    if not shape:
        return contiguous(shape, dtype)
    return contiguous((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]


def padded(shape: Shape, dtype: Any) -> np.ndarray:
    """Rows of a wider array: 64 bytes more from one to the next."""
    if not shape:
        return contiguous(shape, dtype)
    wide = contiguous((*shape[:-1], shape[-1] + 64 // dtype.itemsize), dtype)
    return wide[..., : shape[-1]]


def transposed(shape: Shape, dtype: Any) -> np.ndarray:
    """The last two axes exchanged in memory."""
    if len(shape) < 2:
        return contiguous(shape, dtype)
    return contiguous((*shape[:-2], shape[-1], shape[-2]), dtype).swapaxes(-1, -2)


def channels_last(shape: Shape, dtype: Any) -> np.ndarray:
    """Axis 1 the fastest in memory."""
    if len(shape) < 3:
        return contiguous(shape, dtype)
    return np.moveaxis(contiguous((shape[0], *shape[2:], shape[1]), dtype), -1, 1)


def far_apart(shape: Shape, dtype: Any) -> np.ndarray:
    """Rows 2 GiB apart in all, so that 32-bit offsets do not reach."""
    if len(shape) < 2 or shape[0] < 2:
        return contiguous(shape, dtype)
    step = -(-(2**31) // (shape[0] - 1) // 64) * 64 + 64
    dense = (*shape[:-1], step // dtype.itemsize) if len(shape) == 2 else shape
    return contiguous(dense, dtype)[..., : shape[-1]]


def batches_apart(shape: Shape, dtype: Any) -> np.ndarray:
    """Dense, but for the first axis, which spans 2 GiB."""
    step = -(-(2**31) // max(shape[0] - 1, 1) // 64) * 64 + 64
    dense = contiguous((shape[0], step // dtype.itemsize), dtype)
    return dense[:, : prod(shape[1:])].reshape(shape)


# ---- families -----------------------------------------------------------------------------------


def resized(example: Example, sizes: dict[int, int]) -> tuple[Shape, ...]:
    """The shapes of an example with some lengths replaced wherever they occur.

    >>> resized(Example(((64, 125), (64, 250))), {64: 8, 250: 32})
    ((8, 16), (8, 32))
    """
    halves = {length // 2: size // 2 for length, size in sizes.items()}
    return tuple(tuple(sizes.get(n, halves.get(n, n)) for n in shape) for shape in example.shapes)


def _elementwise(op: Op) -> Iterator[Problem]:
    example = next((e for e in op.examples if len(max(e.shapes, key=len)) == 2), None)
    if example is None:
        return
    rows = max(shape[0] for shape in example.shapes if shape)
    length = max(shape[1] for shape in example.shapes if len(shape) == 2)
    options = dict(example.options)
    many = resized(example, {rows: _MANY[0], length: _MANY[1]})
    few = resized(example, {rows: 64, length: 256})
    yield Problem("dense, large", True, many, options, contiguous)
    yield Problem("dense, small", True, few, options, contiguous)
    yield Problem("rows of a wider array", True, many, options, padded)
    yield Problem("misaligned", False, many, options, misaligned)
    yield Problem("strided", False, many, options, strided)
    yield Problem("strided, small", False, few, options, strided)
    yield Problem("64-bit offsets", True, many, options, far_apart)


def _rows(op: Op) -> Iterator[Problem]:
    rows, length = 64, 250
    example = dict(op.examples[0].options)
    last, first = example | {"axis": -1}, example | {"axis": 0}

    def shapes(new_rows: int, new_length: int) -> tuple[Shape, ...]:
        return resized(op.examples[0], {rows: new_rows, length: new_length})

    for n in _LENGTHS:
        yield Problem(f"rows of {n}", True, shapes(_ROWS, n), last, contiguous)
    for n in _LENGTHS:
        yield Problem(f"rows of {n - 1}", False, shapes(_ROWS, n - 1), last, contiguous)
    yield Problem(f"2 rows of {_CUT_LENGTH}", True, shapes(2, _CUT_LENGTH), last, contiguous)
    yield Problem("rows of 1004", False, shapes(_ROWS, 1004), last, contiguous)
    yield Problem("rows of 1024, strided", False, shapes(_ROWS, 1024), last, strided)
    yield Problem("rows of 1024, padded", True, shapes(_ROWS, 1024), last, padded)
    yield Problem("rows of 1024, 64-bit offsets", True, shapes(_ROWS, 1024), last, far_apart)
    for n in (*_POWERS[:7:2], _POWERS[-1]):
        yield Problem(f"columns of {n}", True, _columns(shapes(n, 8192), op), first, contiguous)
    yield Problem(
        "columns of 1024, odd", False, _columns(shapes(1024, 8191), op), first, contiguous
    )
    yield Problem("4 columns of 65536", False, _columns(shapes(65536, 4), op), first, contiguous)


def _columns(shapes: tuple[Shape, ...], op: Op) -> tuple[Shape, ...]:
    # What has one number for each row has one for each column when the axis is 0; what varies
    # along the row, as the weight of a norm, along the column.
    whole = max(shapes, key=len)
    side = whole[0] if op.family == "norm" else whole[1]
    return tuple(shape if len(shape) == 2 else (side,) for shape in shapes)


def _norm(op: Op) -> Iterator[Problem]:
    """Norms of rows as softmax; of channels, images with the channels before and after space."""
    added = ("dresidual",) if op.name.endswith("_backward") else ("residual",)
    if op.name.startswith(("layer_norm", "rms_norm")):
        yield from _rows(op)
        shapes = resized(op.examples[0], {64: _ROWS, 250: 1024})
        both = {"axis": -1, "activation": "silu"}
        yield Problem("fused, rows of 1024", True, shapes, both, contiguous, added)
        yield Problem("without parameters", True, _first(op, (_ROWS, 1024)), {}, contiguous)
        return
    options = dict(op.examples[0].options)

    def operands(*image: int) -> tuple[Shape, ...]:
        return tuple(image if len(s) == 4 else image[1:2] for s in op.examples[0].shapes)

    for image in ((32, 256, 28, 28), (32, 64, 56, 56), (2, 16, 512, 512), (64, 512, 7, 7)):
        shapes = operands(*image)
        size = "x".join(map(str, image))
        yield Problem(size, image[-1] % 4 == 0, shapes, options, contiguous)
        yield Problem(f"{size}, channels last", False, shapes, options, channels_last)
    yield Problem("misaligned", False, shapes, options, misaligned)
    yield Problem("strided", False, shapes, options, strided)
    if op.name.startswith("batch_norm"):
        inference, shapes = {**options, "training": False}, operands(32, 256, 28, 28)
        yield Problem("inference", True, shapes, inference, contiguous)
        yield Problem("inference, channels last", True, shapes, inference, channels_last)
    else:
        fused = {**options, "activation": "silu"}
        yield Problem("fused", False, shapes, fused, contiguous, added)


def _pool(op: Op) -> Iterator[Problem]:
    """The stem of ResNet-50 and a small image, channels first and last."""
    images: list[tuple[Shape, Shape]] = [
        ((32, 64, 112, 112), (32, 64, 56, 56)),
        ((32, 512, 14, 14), (32, 512, 7, 7)),
    ]
    options = {k: v for k, v in op.examples[0].options.items() if k != "return_indices"}
    for image, pooled in images:
        for name in ("x_shape", "output_shape"):
            if name in options:
                options[name] = image
        if "output_size" in options:
            options["output_size"] = pooled[2:]
        special = {"max_unpool": (), "max_unpool_backward": ("dy",)}
        large = special.get(op.name, ("x",))
        shapes = tuple(image if name in large else pooled for name in op.arrays)
        size = "x".join(map(str, image))
        yield Problem(size, False, shapes, options, contiguous)
        yield Problem(f"{size}, channels last", False, shapes, options, channels_last)
    yield Problem("64-bit offsets", False, shapes, options, batches_apart)
    if op.outputs > 1:
        indices = options | {"return_indices": True}
        yield Problem("indices", False, shapes, indices, contiguous)
        yield Problem("indices, channels last", False, shapes, indices, channels_last)
    if op.name.startswith("lp_pool"):
        powers = options | {"p": 3.0}
        yield Problem("powers", False, shapes, powers, contiguous)
        yield Problem("powers, channels last", False, shapes, powers, channels_last)


# The shape of x, and options, of images that keep a GPU busy.
_IMAGE, _RESIZED = (8, 64, 56, 56), (8, 64, 112, 112)
_SAME = {"kernel_size": 3, "padding": 1}
_WINDOW_CALLS: dict[str, tuple[tuple[Shape, ...], dict[str, Any]]] = {
    "pad": ((_IMAGE,), {"pad_width": ((0, 0), (0, 0), (1, 1), (1, 1)), "mode": "reflect"}),
    "pad_backward": ((_IMAGE,), {"pad_width": ((0, 0), (0, 0), (1, 1), (1, 1)), "mode": "reflect"}),
    "unfold": ((_IMAGE,), _SAME),
    "fold": (((8, 576, 3136),), {"output_size": (56, 56), **_SAME}),
    "pixel_shuffle": ((_IMAGE,), {"factor": 2}),
    "pixel_unshuffle": ((_IMAGE,), {"factor": 2}),
    "interpolate": ((_IMAGE,), {"size": (112, 112), "mode": "cubic"}),
    "interpolate_backward": ((_RESIZED,), {"x_shape": _IMAGE, "mode": "cubic"}),
    "grid_sample": ((_IMAGE, (8, 112, 112, 2)), {"mode": "cubic", "padding_mode": "reflection"}),
    "grid_sample_backward": (
        (_RESIZED, _IMAGE, (8, 112, 112, 2)),
        {"mode": "cubic", "padding_mode": "reflection"},
    ),
}


def _windows(op: Op) -> Iterator[Problem]:
    """Images with the channels before and after space, and what cannot be read by vectors."""
    shapes, options = _WINDOW_CALLS[op.name]
    # Channels that are only copied, or that a place is looked up for, go by vectors.
    vectors = not op.name.startswith(("fold", "unfold", "pixel")) and op.outputs == 1
    yield Problem("images", False, shapes, options, contiguous)
    yield Problem("images, channels last", vectors, shapes, options, channels_last)
    yield Problem("images, misaligned", False, shapes, options, misaligned)
    yield Problem("images, strided", False, shapes, options, strided)
    yield Problem("64-bit offsets", False, shapes, options, batches_apart)


def _first(op: Op, shape: Shape) -> tuple[Shape, ...]:
    """The operands without the parameters."""
    return tuple(shape for name in op.arrays if name in ("dy", "x"))


def _mlp(op: Op) -> Iterator[Problem]:
    def shapes(rows: int, widths: tuple[int, ...]) -> tuple[Shape, ...]:
        found = network((rows,), widths)
        return ((rows, widths[-1]), *found) if op.is_gradient else found

    for width in (16, 32, 64, 128):
        yield Problem(f"width {width}", True, shapes(_MANY_ROWS, (width,) * 4), {}, contiguous)
    partial = shapes(_MANY_ROWS, (20, 60, 60, 3))
    yield Problem("partial tiles", False, partial, {"activation": "gelu"}, contiguous)
    yield Problem("few rows", True, shapes(64, (64,) * 4), {}, contiguous)
    dense = shapes(_MANY_ROWS, (64,) * 4)
    for label, layout in (("transposed", transposed), ("64-bit offsets", far_apart)):
        yield Problem(label, False, dense, {}, layout)


def _matmul(op: Op) -> Iterator[Problem]:
    if op.name == "gemv":
        yield from _gemv(op)
        return
    shapes = resized(op.examples[0], {64: 512, 50: 384, 70: 640})
    for label, layout in (
        ("dense", contiguous),
        ("operands transposed", transposed),
        ("strided", strided),
        ("64-bit offsets", far_apart),
    ):
        yield Problem(label, False, shapes, {}, layout)
    large = resized(op.examples[0], {64: 4096, 50: 1024, 70: 4096})
    yield Problem("large", False, large, {}, contiguous)
    yield Problem("large, operands transposed", False, large, {}, transposed)
    if not op.name.startswith("gemv"):
        yield Problem("large, TF32", False, large, {"precision": "tf32"}, contiguous)
    few = resized(op.examples[0], {64: 16, 50: 4096, 70: 4096})
    yield Problem("16 rows", False, few, {}, contiguous)
    few = resized(op.examples[0], {64: 4096, 50: 4096, 70: 32})
    yield Problem("32 columns", False, few, {}, contiguous)
    if op.name.startswith(("matmul", "gemm")):  # the others' second operand has no batch
        small = resized(op.examples[0], {64: 12, 50: 16, 70: 8})
        batch = tuple((4096, *shape) if len(shape) == 2 else shape for shape in small)
        yield Problem("4096 small ones", False, batch, {}, contiguous)


def _gemv(op: Op) -> Iterator[Problem]:
    for rows, terms in ((512, 1024), (65536, 256), (512, 16384), (8, 2**20)):
        shapes = resized(op.examples[0], {64: rows, 50: terms})
        yield Problem(f"{rows} sums of {terms}, dense", True, shapes, {}, contiguous)
    shapes = resized(op.examples[0], {64: 512, 50: 1024})
    yield Problem("transposed", True, shapes, {}, transposed)
    many = resized(op.examples[0], {64: 2**17, 50: 64})
    yield Problem("many sums, transposed", True, many, {}, transposed)
    yield Problem("misaligned", False, shapes, {}, misaligned)
    yield Problem("strided", False, shapes, {}, strided)
    yield Problem("64-bit offsets", True, shapes, {}, far_apart)


# Images, channels, outputs, side and kernel; stride 1, as many windows as elements.
_CONVOLUTIONS = {
    "few pixels": (2, 256, 256, 14, 3),
    "few channels": (16, 4, 64, 112, 7),
    "few outputs": (16, 32, 16, 56, 3),
    "1 x 1": (8, 64, 256, 28, 1),
    "large": (32, 64, 128, 56, 3),
}


def _conv(op: Op) -> Iterator[Problem]:
    """Images with the channels before and after space."""
    for name, (images, channels, outputs, side, kernel) in _CONVOLUTIONS.items():
        x, y = (images, channels, side, side), (images, outputs, side, side)
        weight = (outputs, channels, kernel, kernel)
        options: dict[str, Any] = {"padding": kernel // 2}
        match op.name:
            case "conv":
                shapes: tuple[Shape, ...] = (x, weight, (outputs,))
            case "conv_transpose":
                shapes = (y, weight, (channels,))
            case "conv_backward_data":
                shapes, options = (y, weight), options | {"x_shape": x}
            case "conv_backward_weight":
                shapes, options = (y, x), options | {"weight_shape": weight}
            case _:
                return
        for layout, what in ((contiguous, ""), (channels_last, ", channels last")):
            yield Problem(f"{name}{what}", False, shapes, options, layout)
    two = tuple((2, *s[1:]) if len(s) == 4 and s != weight else s for s in shapes)
    yield Problem("64-bit offsets", False, two, options | _far(options), images_far_apart)
    yield Problem("misaligned", False, shapes, options, misaligned)


def _far(options: dict[str, Any]) -> dict[str, Any]:
    """The shape of the result, of two images."""
    shape = options.get("x_shape")
    return {} if shape is None else {"x_shape": (2, *shape[1:])}


def images_far_apart(shape: Shape, dtype: Any) -> np.ndarray:
    """The second of two images 2 GiB after the first."""
    if len(shape) < 3 or shape[0] != 2:
        return contiguous(shape, dtype)
    step, dense = 2**31 + 64, contiguous(shape[1:], dtype)
    memory = contiguous(((step + dense.nbytes) // dtype.itemsize,), dtype)
    return np.lib.stride_tricks.as_strided(memory, shape, (step, *dense.strides))
