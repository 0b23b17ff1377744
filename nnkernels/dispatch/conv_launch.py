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
from nnkernels.dispatch.axes import Strides
from nnkernels.dispatch.conv_geometry import Strides3, WindowProduct
from nnkernels.dispatch.conv_tensor_launch import prepare_tensor
from nnkernels.dispatch.matmul_call import Call, Epilogue, Types
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
    alignments : tuple of int
        Of the addresses of A, B and the result.
    """

    product: WindowProduct
    pixels: str
    channels_fast: bool
    weights: Strides
    types: Types
    conjugate: tuple[bool, bool]
    epilogue: Epilogue
    bias_stride: int | None = None
    alignments: tuple[int, int, int] = (1, 1, 1)

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
                d = (self.bias_stride * rows, 0, self.bias_stride, 0)
            product = Product(batch, rows, columns, terms, (group, 0, row, term), b, pixels, d)
        conjugate, alignments = self.conjugate, self.alignments
        if self.mirrored:
            product, types, conjugate = product.mirrored(), types.mirrored(), conjugate[::-1]
            alignments = (alignments[1], alignments[0], alignments[2])
        return Call(product, types, conjugate, self.epilogue, alignments, in_place=False)

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
            channels=p.channels,
            image_steps=_steps(p.image),
            pixel_steps=_steps(p.pixels),
        )

    @property
    def _sizes(self) -> tuple[int, int, int]:
        return self.product.groups, self.product.rows, self.product.terms

    # ---- the packed product of a CPU: see `prepare_with` --------------------------------------

    def pack(self, packer: Packer) -> None:
        """``WindowGeometry`` of ``cuda_src/nnk/conv_windows.cuh``."""
        packer.align(16)
        self.pack_geometry(packer, self.seen)

    def pack_geometry(self, packer: Packer, p: WindowProduct) -> None:
        """That of some product."""
        axes = p.axes
        # Without terms nothing is gathered, but where their first one lies is asked.
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
        packer.add_index(self._adjacent_taps())
        packer.add_divisors(max(axis.pixels, 1) for axis in axes)

    def _adjacent_taps(self) -> int:
        """Taps along the last axis whose channels follow each other in memory: all, or one."""
        p, last = self.product, self.product.axes[-1]
        follow = last.tap == 1 and p.image.spatial[-1] == p.channels * p.image.channel
        return max(last.taps, 1) if self.channels_fast and follow else 1


def _steps(strides: Strides3) -> tuple[int, ...]:
    return (strides.channel, strides.batch, strides.group, *strides.spatial)


def prepare_windows(windows: Windows, machine: Any) -> Prepared:
    """Choose the kernel of a product over windows, and prepare its launch.

    Returns
    -------
    tail : bytes
        Arguments after the pointers: those of what is added, A, B, and the result.
    start : callable
        Starts the launch.
    splits : Splits or None
        A second launch.
    """
    call = windows.call()
    problem = windows.problem(call)
    if machine.device.is_gpu:
        prepared = prepare_tensor(windows, call, problem, machine)
        assert prepared is not None
        return prepared
    chosen = config.configure(problem, machine.device)
    instance = _instance(call, chosen, windows)
    terms = call.product.k
    shared = chosen.shared_bytes(terms, problem.kernel, call.types.accumulator[2])
    first = prepare_with(call, chosen.packed, terms, machine, instance, shared, windows.pack)
    return (*first, None)


def _instance(call: Call, chosen: ConvPackedConfig, windows: Windows) -> Instance:
    product = matmul_instance(call, len(call.batch()[0]), chosen.packed)
    conjugate = windows.conjugate if call.types.c.kind == "c" else (False, False)
    flags = ", ".join(
        "true" if flag else "false" for flag in (chosen.channels_fast, chosen.scattered, *conjugate)
    )
    form = f"ConvForm<{chosen.pixels}, {flags}>"
    return Instance(
        product.header,
        f"{product.kernel[:-1]}, {form}>",
        product.threads,
        (*product.more_headers, "conv_form"),
    )
