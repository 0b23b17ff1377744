"""Gradients by weights that a CPU makes from elements that taps along a row share: their blocks.

See ``cuda_src/nnk/conv_weight_lines.cuh``.
"""

from __future__ import annotations

from dataclasses import dataclass

from nnkernels.config.conv_lines import lines_along
from nnkernels.config.conv_weight import PIXELS_AFTER, WeightProblem, is_packed
from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import round_up


@dataclass(frozen=True)
class WeightLinesConfig:
    """Template arguments of the kernel, and the size of its blocks.

    Attributes
    ----------
    micro_m, taps, vector : int
        Lines, taps and outputs whose sums stay in registers.
    remainders, shift : int
        First taps along a row, which see no elements of each other, and windows from one to the
        next tap that does.
    chunks : int
        Of as many taps of one remainder.
    panels : int
        Into which outputs are divided.
    splits : int
        Ranges of pixels whose sums are added up in a second launch. What decides it must not depend
        on the number of threads.
    length, pieces_of_row : int
        Pixels of a piece, and pieces of a row.
    pieces : int
        Of a slab.
    zeros : int
        Bytes of a row of the image, and what may be read after it.
    """

    micro_m: int
    taps: int
    vector: int
    remainders: int
    shift: int
    chunks: int
    panels: int
    splits: int
    length: int
    pieces_of_row: int
    pieces: int
    zeros: int

    @property
    def margin(self) -> int:
        """Pixels of zeros before and after each piece."""
        return (self.chunks * self.taps - 1) * self.shift

    def shared_bytes(self, problem: WeightProblem) -> int:
        """Scratch memory of a thread: packed pixels, sums, and a row of zeros."""
        pixels = self.pieces * (self.length + self.margin) + self.margin + PIXELS_AFTER
        return (pixels + problem.terms) * self.vector * problem.compute_itemsize + self.zeros


# Of packed pixels: they stay near, beside what is seen of the image.
_SLAB_BYTES = 64 * 1024
# A longer row of pixels is divided into pieces.
_MOST_PIXELS = 256
# With more channels and more registers of outputs, tiles of channels alone load as few elements;
# and with more of both, or fewer pixels, the sums of ranges of pixels take their time.
_MOST_CHANNELS, _MOST_REGISTERS, _MOST_SUMS, _MANY_PIXELS = 4, 2, 32, 4096
# Sums and rows of zeros of more bytes leave a level-2 cache.
_MOST_BYTES = 192 * 1024
# Multiply-adds of a range of pixels, and most of these.
_SPLIT, _MOST_SPLITS = 1 << 19, 16
# Registers there are, and registers of outputs at once.
_REGISTERS, _PANELS = {64: 32, 32: 16, 16: 16}, (1, 2, 4)
# To pack a pixel of a register of outputs, and what a load costs, in multiply-adds of registers.
_PACKING, _LOAD = 10.0, 1.2


def pays(problem: WeightProblem, device: Device) -> bool:
    """Whether it is faster than tiles of channels.

    Few channels leave these mostly empty. Of few outputs they load an element for one or two
    multiply-adds.
    """
    if not is_packed(problem):
        return False
    registers = -(-problem.outputs * problem.compute_itemsize // device.vector_bytes)
    if problem.channels > _MOST_CHANNELS and (
        registers > _MOST_REGISTERS
        or problem.channels * registers > _MOST_SUMS
        or problem.pixels < _MANY_PIXELS
        or _shared_taps(problem) == 1
    ):
        return False
    chosen = configure(problem, device)
    sums = problem.terms * chosen.vector * problem.compute_itemsize
    return sums + chosen.zeros <= _MOST_BYTES and chosen.margin <= _MOST_PIXELS


def _shared_taps(problem: WeightProblem) -> int:
    """Most taps along a row that see the same elements."""
    return -(-problem.taps[2] // lines_along(problem.taps[2], problem.step, problem.spacing)[0])


def configure(problem: WeightProblem, device: Device) -> WeightLinesConfig:
    """The blocks for a problem on a CPU."""
    lanes = device.vector_bytes // problem.compute_itemsize
    own, shift = lines_along(problem.taps[2], problem.step, problem.spacing)
    every = [
        _with_registers(problem, device, registers, *along)
        for registers in _PANELS
        for along in ((own, shift), (problem.taps[2], 0))
    ]
    return min(every, key=lambda chosen: _cycles(problem, chosen, lanes))


def _with_registers(
    problem: WeightProblem, device: Device, registers: int, remainders: int, shift: int
) -> WeightLinesConfig:
    itemsize = problem.compute_itemsize
    vector = registers * device.vector_bytes // itemsize
    # Sums, gradients of as many windows as there are taps, and an element.
    room, shared = _REGISTERS[device.vector_bytes] - 1, -(-problem.taps[2] // remainders)
    chunks = -(-shared * registers * 3 // room)
    taps = -(-shared // chunks)
    micro_m = max(room // (taps * registers) - 1, 1)
    micro_m = -(-problem.lines // -(-problem.lines // micro_m))
    pieces_of_row = max(-(-problem.row // _MOST_PIXELS), 1)
    length = max(-(-problem.row // pieces_of_row), 1)
    work = problem.pixels * problem.terms * problem.outputs
    pieces = problem.rows_of_pixels * pieces_of_row
    splits = max(min(work // _SPLIT, _MOST_SPLITS, pieces), 1)
    piece_bytes = (length + (chunks * taps - 1) * shift) * vector * itemsize
    return WeightLinesConfig(
        micro_m=micro_m,
        taps=taps,
        vector=vector,
        remainders=remainders,
        shift=shift,
        chunks=chunks,
        panels=-(-problem.outputs // vector),
        splits=splits,
        length=length,
        pieces_of_row=pieces_of_row,
        pieces=max(min(_SLAB_BYTES // piece_bytes, -(-pieces // splits)), 1),
        zeros=round_up(problem.image_row, 16) + _ZEROS_AFTER,
    )


# Of cuda_src/nnk/conv_weight_lines.cuh: `zeros_after`.
_ZEROS_AFTER = 16


def _cycles(problem: WeightProblem, chosen: WeightLinesConfig, lanes: int) -> float:
    """Of a pixel of all outputs: multiply-adds of registers, or loads."""
    registers = chosen.vector // lanes
    tiles = -(-problem.lines // chosen.micro_m) * chosen.remainders * chosen.chunks
    sums = chosen.micro_m * chosen.taps * registers
    tile = max(sums, _LOAD * (chosen.micro_m + chosen.taps * registers), 4)
    return chosen.panels * (tiles * tile + _PACKING * registers)
