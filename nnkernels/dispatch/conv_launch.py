"""From a product over windows to a prepared launch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import conv as config
from nnkernels.config.conv import (
    COLUMNS,
    LARGE_IMAGE,
    ROWS,
    TERMS,
    ConvPackedConfig,
    ConvProblem,
)
from nnkernels.config.matmul_tiles import FEATURES, TilesConfig, without_tiles
from nnkernels.dispatch import conv_gpu
from nnkernels.dispatch.axes import Strides, largest_power_of_two, merge
from nnkernels.dispatch.conv_geometry import Weights, WindowProduct
from nnkernels.dispatch.matmul_call import Call, Epilogue, PixelAxes, Types
from nnkernels.dispatch.matmul_instances import matmul_instance
from nnkernels.dispatch.matmul_launch import Prepared, matmul_problem, prepare_with
from nnkernels.dispatch.matmul_product import Product
from nnkernels.dispatch.packing import Packer


@dataclass(frozen=True)
class Windows:
    """A product over windows as a kernel sees it.

    Attributes
    ----------
    product : WindowProduct
        What is multiplied.
    pixels : str
        What pixels are to the product: ``COLUMNS``, ``ROWS`` or ``TERMS``.
    channels_fast : bool
        Whether terms (or, where pixels are terms, columns) are in order of taps and then channels.
    weights : tuple of int
        Strides of the matrix of weights, or of their gradient: of group, row and term.
    types : Types
        A are weights, or pixels where these are terms; B is the image.
    conjugate : pair of bool
        Of A and B.
    epilogue : Epilogue
        What is done with the sums.
    bias_stride : int or None
        Bytes from element to element of a vector with one element for each row of each group.
    gathered : Weights or None
        Weights that have no single step from term to term, and are packed where they lie.
    alignments : tuple of int
        Powers of two, up to 16, that the addresses of A, B and the result are multiples of. (On a
        CPU, on which kernels do not depend on them, all 1.)
    more_alignments : tuple of int
        Those of the arrays of a fused function; on a CPU none.
    precision : {None, "tf32"}
        What operands may be rounded to.
    """

    product: WindowProduct
    pixels: str
    channels_fast: bool
    weights: Strides
    types: Types
    conjugate: tuple[bool, bool]
    epilogue: Epilogue
    bias_stride: int | None = None
    gathered: Weights | None = None
    alignments: tuple[int, int, int] = (1, 1, 1)
    more_alignments: tuple[int, ...] = ()
    precision: str | None = None

    @property
    def mirrored(self) -> bool:
        """Whether the image is the first operand of the product."""
        return self.pixels == ROWS

    @property
    def stack(self) -> int:
        """How many images are products of their own, rather than more pixels of one product.

        With few pixels in an image, columns of one product fill the panels of a kernel better, and
        weights are read once; with many, and a single step from each to the next, a product of each
        image writes its results where they belong.
        """
        p = self.product
        count = p.pixel_count // max(p.images, 1)
        apart = self.pixels == COLUMNS and p.images > 1 and count >= LARGE_IMAGE
        return p.images if apart and p.of_one_image().pixel_step is not None else 1

    @property
    def seen(self) -> WindowProduct:
        """The product as its windows are: of one image, if there is a stack of images."""
        return self.product.of_one_image() if self.stack > 1 else self.product

    def call(self) -> Call:
        """The product of matrices; what is gathered has steps from image to image alone."""
        p, types, stack = self.seen, self.types, self.stack
        batch = (p.groups, stack)
        next_image, next_pixels = self.product.image.batch, self.product.pixels.batch
        group, row, term = self.weights
        pixels = (p.pixels.group, next_pixels, p.pixels.channel, p.pixel_step or 0)
        rows, columns, terms = p.rows, p.pixel_count, p.terms
        b = (p.image.group, next_image, 0, 0)
        if self.pixels == TERMS:
            product = Product(batch, rows, terms, columns, pixels, b, (group, 0, row, term))
        else:
            d = None
            if self.bias_stride is not None:
                d = (self.bias_stride * p.rows_of_phase, 0, self.bias_stride, 0)
            a, pixel_axes = (group, 0, row, term), None
            merged, steps = p.merged_pixels(p.more) if p.more else ((1,), [])
            if len(merged) > 1:
                pixel_axes = PixelAxes(False, merged, tuple(steps))
                steps = [(0,)] * len(steps)
            arrays = zip(p.more, self.product.more, steps, strict=True)
            more = tuple((e.group, o.batch, e.channel, s) for e, o, (s,) in arrays)
            product = Product(batch, rows, columns, terms, a, b, pixels, d, more)
            return self.call_of(product, types, pixel_axes)
        return self.call_of(product, types)

    def call_of(self, product: Product, types: Types, pixel_axes: PixelAxes | None = None) -> Call:
        """The call of a product of weights and pixels, mirrored if the image comes first."""
        conjugate, alignments = self.conjugate, self.alignments
        if self.mirrored:
            product, types, conjugate = product.mirrored(), types.mirrored(), conjugate[::-1]
            alignments = (alignments[1], alignments[0], alignments[2])
            pixel_axes = pixel_axes and pixel_axes.mirrored()
        return Call(
            product,
            types,
            conjugate,
            self.epilogue,
            alignments,
            in_place=False,
            precision=self.precision,
            more_alignments=self.more_alignments,
            pixels=pixel_axes,
        )

    def problem(self, call: Call) -> ConvProblem:
        """What a configuration may know."""
        p = self.product
        reach = max(p.reach, *(abs(s) * n for s, n in zip(self.weights, self._sizes, strict=True)))
        return ConvProblem(
            product=replace(matmul_problem(call), reach=reach),
            pixels=self.pixels,
            channels_fast=self.channels_fast,
            scattered=self.seen.pixel_step is None,
            kernel=p.taps,
            gathered=self.gathered is not None,
            channels=p.channels,
            **self._alignments(),
        )

    def _alignments(self) -> dict[str, int]:
        """What a GPU may know about vectors of channels and of pixels."""
        p, (a, image, result) = self.product, self.alignments
        axes = [s for s, axis in zip(p.image.spatial, p.axes, strict=True) if axis.size > 1]
        # An axis of one element has no step.
        group, batch = int(p.groups > 1), int(p.images > 1)
        image = largest_power_of_two(image, group * p.image.group, batch * p.image.batch, *axes)
        shape = (p.images, *(axis.pixels for axis in p.axes))
        merged, (steps,) = merge(shape, [(p.pixels.batch, *p.pixels.spatial)])
        itemsize = (self.types.a if self.pixels == TERMS else self.types.result).itemsize
        runs = steps[-1] == itemsize
        pixels = a if self.pixels == TERMS else result
        steps = steps[:-1] if runs else steps
        pixels = largest_power_of_two(pixels, group * p.pixels.group, *steps)
        return {
            "image_alignment": image,
            "pixels_alignment": pixels,
            "run": merged[-1] if runs else 1,
        }

    @property
    def _sizes(self) -> tuple[int, int, int]:
        return self.product.groups, self.product.rows, self.product.terms

    # ---- the packed product of a CPU: see `prepare_with` --------------------------------------

    def pack(self, packer: Packer) -> None:
        """``WindowGeometry`` and ``JoinedRows`` of ``cuda_src/nnk/conv_windows.cuh``."""
        self.pack_product(packer, self.seen)

    def pack_product(self, packer: Packer, p: WindowProduct) -> None:
        """The same of a product that is that of these windows, or part of it."""
        packer.align(16)
        self.pack_geometry(packer, p)
        packer.add_index(p.rows_of_phase, *p.phases, *p.phase_steps, p.pixels.channel)

    def pack_geometry(self, packer: Packer, p: WindowProduct) -> None:
        """That of the product, or of another one."""
        axes = p.axes
        # Without terms nothing is gathered, but where the first one would lie may be asked.
        packer.add_index(*(max(n, 1) for n in (p.images, *(axis.pixels for axis in axes))))
        for numbers in (
            [axis.step for axis in axes],
            [axis.tap for axis in axes],
            [axis.start for axis in axes],
            [axis.size for axis in axes],
            [max(axis.taps, 1) for axis in axes],
        ):
            packer.add_index(*numbers)
        packer.add_index(max(p.channels, 1), p.image.batch, *p.image.spatial, p.image.channel)
        packer.add_index(p.pixels.batch, *p.pixels.spatial)
        found = self.gathered
        packer.add_index(*(found.channel_stride, *found.tap_strides) if found else (0,) * 4)
        packer.add_index(self._adjacent_taps())
        packer.add_divisors(max(axis.pixels, 1) for axis in axes)

    def _adjacent_taps(self) -> int:
        """Taps along the last axis whose channels follow each other in memory: all, or one."""
        p, last = self.product, self.product.axes[-1]
        follow = last.tap == 1 and p.image.spatial[-1] == p.channels * p.image.channel
        return max(last.taps, 1) if self.channels_fast and follow else 1


def multiplies_words(types: Types, machine: Any) -> bool:
    """Whether a product over windows is one of words of several terms, on this machine."""
    device = machine.device
    if device.is_gpu:
        return False
    if FEATURES.get(types.dot) in device.features and not machine.allows_tiles():
        device = without_tiles(device)
    return config.multiplies_words(types.dot, device)


def prepare_windows(windows: Windows, machine: Any) -> Prepared:
    """Choose the kernel of a product over windows, and prepare its launches.

    The arguments after the pointers are those of what is added, A, B, and the result.
    """
    if machine.device.is_gpu:
        return conv_gpu.prepare_windows(windows, machine)
    call = windows.call()
    problem = windows.problem(call)
    chosen = config.configure(problem, machine.device)
    if isinstance(chosen.packed, TilesConfig) and not machine.allows_tiles():
        chosen = config.configure(problem, without_tiles(machine.device))
    instance = _instance(call, chosen, windows)
    terms = call.product.k
    shared = chosen.shared_bytes(terms, problem.kernel, call.types.accumulator[2])
    first = prepare_with(call, chosen.packed, terms, machine, instance, shared, windows.pack)
    return (*first, None)


def _instance(call: Call, chosen: ConvPackedConfig, windows: Windows) -> Instance:
    product = matmul_instance(call, len(call.batch()[0]), chosen.packed)
    form, header = "ConvForm", "conv_form"
    flags: tuple[bool, ...] = (chosen.channels_fast, chosen.scattered, chosen.gathered)
    # Of complex numbers, conjugates of A are taken as it is multiplied. So the form packs those of
    # B alone: weights where pixels are rows, else the image.
    conjugate = (False, False)
    if call.types.c.kind == "c":
        weights, image = windows.conjugate
        conjugate = (weights, False) if windows.mirrored else (False, image)
    if chosen.word_terms > 1:
        form, header = "ConvWordsForm", "conv_words_form"
    else:
        flags = (*flags, *conjugate)
    options = ", ".join((chosen.pixels, *("true" if flag else "false" for flag in flags)))
    return Instance(
        product.header,
        f"{product.kernel[:-1]}, {form}<{options}>>",
        product.threads,
        (*product.more_headers, header),
        product.definitions,
    )
