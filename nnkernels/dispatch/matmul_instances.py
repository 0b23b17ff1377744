"""The C++ text of each kernel of matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import matmul_packed
from nnkernels.config.gemv import GemvConfig
from nnkernels.config.matmul import Config
from nnkernels.config.matmul_complex import ComplexConfig
from nnkernels.config.matmul_packed import PackedConfig
from nnkernels.config.matmul_rows import RowsConfig
from nnkernels.config.matmul_simt import SimtConfig
from nnkernels.config.matmul_small import SmallConfig
from nnkernels.config.matmul_splits import SplitsConfig
from nnkernels.config.matmul_tensor import TensorConfig
from nnkernels.config.matmul_tiles import TilesConfig
from nnkernels.dispatch.axes import largest_power_of_two
from nnkernels.dispatch.matmul_call import PLAIN, Call, Epilogue, Types


def matmul_instance(call: Call, batch_rank: int, chosen: Config) -> Instance:
    """The kernel of a config for a product of matrices."""
    types = call.types
    header, name, threads, storage_c, options = _TEMPLATES[type(chosen)](call, chosen)
    finish, more_headers, definitions = epilogue_type(call)
    if isinstance(chosen, TensorConfig):
        more_headers = (*more_headers, chosen.atom.header)
    kernel = (
        f"{name}<{types.a.storage}, {types.b.storage}, {storage_c}, {types.accumulator[0]}, "
        f"{_index_type(chosen.index)}, {batch_rank}, {options}, {finish}>"
    )
    return Instance(header, kernel, threads, more_headers, definitions)


# Header, name, threads, type of C, and the template arguments between rank and epilogue.
_Template = tuple[str, str, int, str, str]


def _packed(call: Call, chosen: PackedConfig) -> _Template:
    flags = _flags(chosen.unit_a, chosen.unit_b, chosen.read_a, chosen.in_place)
    options = (
        f"{_micro(call, chosen.micro)}, {chosen.tile_k}, {chosen.micro_m}, {chosen.vector}, "
        f"{chosen.fast_a}, {chosen.fast_b}, {flags}"
    )
    return "matmul_packed", "MatmulPacked", 1, call.types.storage_c, options


def _micro(call: Call, micro: str) -> str:
    """C++ type of a way to multiply: see ``cuda_src/nnk/matmul_words.cuh``."""
    types = call.types
    both = f"{types.a.storage}, {types.b.storage}"
    match micro:
        case matmul_packed.BFLOAT16_PAIRS:
            return "Bfloat16Pairs"
        case matmul_packed.INT8_QUADS:
            return f"Int8Quads<{both}>"
        case matmul_packed.INT16_PAIRS | matmul_packed.INT16_PAIRS_VNNI:
            return f"Int16Pairs<{both}, {_flags(micro == matmul_packed.INT16_PAIRS_VNNI)}>"
    return f"FusedMicro<{both}, {types.accumulator[0]}, {_flags(*call.conjugate)}>"


def _tiles(call: Call, chosen: TilesConfig) -> _Template:
    options = (
        f"{chosen.fast_a}, {chosen.fast_b}, {_flags(chosen.unit_a, chosen.unit_b)}, TileRegisters"
    )
    return "matmul_tiles", "MatmulTiles", 1, call.types.storage_c, options


def _complex(call: Call, chosen: ComplexConfig) -> _Template:
    flags = _flags(chosen.unit_b, *call.conjugate, chosen.read_a, chosen.in_place)
    options = f"{chosen.tile_k}, {chosen.micro_m}, {chosen.vector}, {flags}"
    return "matmul_complex", "MatmulComplex", 1, call.types.storage_c, options


def _rows(call: Call, chosen: RowsConfig) -> _Template:
    flags = _flags(chosen.unit_a, *call.conjugate)
    options = f"{chosen.tile_k}, {chosen.terms}, {chosen.vector}, {flags}"
    return "matmul_rows", "MatmulRows", 1, call.types.storage_c, options


def _small(call: Call, chosen: SmallConfig) -> _Template:
    options = (
        f"{chosen.micro_m}, {chosen.vector}, {_flags(chosen.pack_b)}, {chosen.fast_b}, "
        f"{_flags(chosen.unit_b, chosen.streaming)}"
    )
    return "matmul_small", "MatmulSmall", 1, call.types.storage_c, options


def _simt(call: Call, chosen: SimtConfig) -> _Template:
    tile = (chosen.tile_m, chosen.tile_n, chosen.tile_k, chosen.micro_m, chosen.micro_n)
    loads = (chosen.vector_a, chosen.vector_b, chosen.fast_a, chosen.fast_b)
    numbers = ", ".join(map(str, (*tile, chosen.teams, *loads)))
    options = f"{numbers}, {_flags(chosen.unit_c, *call.conjugate)}"
    return "matmul_simt", "MatmulSimt", chosen.threads, call.types.storage_c, options


def _tensor(call: Call, chosen: TensorConfig) -> _Template:
    options = (
        f"{chosen.atom_type}, {chosen.tile_m}, {chosen.tile_n}, {chosen.tile_k}, {chosen.warp_m}, "
        f"{chosen.warp_n}, {chosen.stages}, {chosen.way_a}, {chosen.alignment_a}, {chosen.way_b}, "
        f"{chosen.alignment_b}, {_flags(chosen.wide_c)}"
    )
    return "matmul_tensor", "MatmulTensor", chosen.threads, call.types.storage_c, options


_TEMPLATES: dict[type, Callable[[Call, Any], _Template]] = {
    PackedConfig: _packed,
    TilesConfig: _tiles,
    SmallConfig: _small,
    RowsConfig: _rows,
    ComplexConfig: _complex,
    SimtConfig: _simt,
    TensorConfig: _tensor,
}


def gemv_instance(call: Call, batch_rank: int, chosen: GemvConfig) -> Instance:
    """The kernel of a config for a product of a vector and a matrix."""
    types = call.types
    flags = (chosen.unit_x,) if chosen.along else (chosen.held,)
    finish, more_headers, definitions = epilogue_type(call, 1)
    kernel = (
        f"{'GemvAlong' if chosen.along else 'GemvAcross'}<{types.a.storage}, {types.b.storage}, "
        f"{types.storage_c}, {types.accumulator[0]}, {_index_type(chosen.index)}, {batch_rank}, "
        f"{chosen.vector}, {chosen.threads}, {chosen.team}, {chosen.depth}, "
        f"{_flags(*flags, chosen.unit_b, *call.conjugate)}, {finish}>"
    )
    return Instance("gemv", kernel, chosen.threads, more_headers, definitions)


def splits_instance(call: Call, batch_rank: int, chosen: SplitsConfig, index: str) -> Instance:
    """The kernel that adds up the partial sums of a split product."""
    types = call.types
    finish, more_headers, definitions = epilogue_type(call)
    kernel = (
        f"MatmulSplits<{types.storage_c}, {types.accumulator[0]}, {_index_type(index)}, "
        f"{batch_rank}, {chosen.vector}, {chosen.threads}, {_flags(chosen.unit_c)}, "
        f"{chosen.teams}, {finish}>"
    )
    return Instance("matmul_splits", kernel, chosen.threads, more_headers, definitions)


# Of a kind of epilogue its C++ type, the headers that it needs, and generated text.
EpilogueType = tuple[str, tuple[str, ...], tuple[str, ...]]


def epilogue_type(call: Call, most: int = 16) -> EpilogueType:
    """The C++ of the epilogue of a call.

    Parameters
    ----------
    most : int
        On a GPU, bytes of one access to the arrays of a fused function, at most: columns that are
        handled at once are multiples of as many.
    """
    epilogue, types, function = call.epilogue, call.types, call.epilogue.function
    before, headers = _before(epilogue.before, types)
    if function is None:
        return before, headers, ()
    more_headers, definitions = function.source()
    axes = ""
    if call.pixels is not None:
        axes = f", {1 if call.pixels.rows else 2}, {len(call.pixels.shape)}"
    text = f"FusedEpilogue<{function.cpp_type(_steps(call, most))}, {before}{axes}>"
    return text, (*more_headers, "fused_epilogue"), definitions


def _before(epilogue: Epilogue, types: Types) -> tuple[str, tuple[str, ...]]:
    """What comes before a fused function, if there is one."""
    if epilogue == PLAIN and types.d is None:
        return "PlainEpilogue", ()
    functor = epilogue.activation
    name, headers = ("Identity", ()) if functor is None else (functor.name, (functor.header,))
    addend = "void" if types.d is None else types.d.storage
    return (
        f"AffineEpilogue<{addend}, {types.accumulator[0]}, {types.activated[0]}, {name}>",
        headers,
    )


_ANY, _UNIT, _ZERO, _NARROW = 0, 1, 2, 16  # see cuda_src/nnk/view.cuh


def _steps(call: Call, most: int) -> tuple[int, ...]:
    """What a GPU may know of the steps of a function's arrays from column to column."""
    function, product = call.epilogue.function, call.product
    found = []
    if not call.more_alignments or function is None:
        return ()
    runs = call.pixels is not None and not call.pixels.rows
    itemsizes = (*function.operand_itemsizes, *(e.itemsize for e in call.epilogue.written[1:]))
    for strides, alignment, itemsize in zip(
        product.more, call.more_alignments, itemsizes, strict=True
    ):
        outer = [s for s, n in zip(strides, (*product.batch, product.m), strict=False) if n > 1]
        if call.pixels is not None:
            outer += [s for own in call.pixels.strides for s in own]
        aligned = min(largest_power_of_two(alignment, *outer), most)
        if runs or (strides[-1] not in (0, itemsize)) or aligned < itemsize:
            found.append(_ANY)
        elif strides[-1] == 0:
            found.append(_ZERO)
        else:
            found.append(_UNIT if aligned >= 16 else _NARROW + aligned)
    return tuple(found)


def _index_type(index: str) -> str:
    return "int32" if index == "i" else "int64"


def _flags(*flags: bool) -> str:
    return ", ".join("true" if flag else "false" for flag in flags)
