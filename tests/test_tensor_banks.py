"""No two lanes of a warp meet at a bank of shared memory, in any layout that can be chosen."""

from __future__ import annotations

from nnkernels.compile import cxx
from nnkernels.config import matmul_atoms as atoms
from nnkernels.config import matmul_tensor as tensor
from nnkernels.config.device import PROFILES
from nnkernels.inspection.bank_conflicts import extra_phases

ATOMS = (
    ("sm_80", atoms._NVIDIA["half"]),
    ("sm_80", atoms._NVIDIA["int8"]),
    ("sm_80", atoms._NVIDIA_TF32),
    ("sm_80", atoms._NVIDIA_DOUBLE),
    *(("gfx90a", atoms._CDNA["gfx90a"][name]) for name in ("half", "int8", "float", "double")),
    ("gfx1100", atoms._RDNA["half"]),
    ("gfx1100", atoms._RDNA["int8"]),
)


def ways_of(atom):
    others = (tensor.VECTOR_TERMS, tensor.VECTOR_ROWS, tensor.SINGLE_TERMS, tensor.SINGLE_ROWS)
    ways = [tensor.Way(way) for way in others]
    if atom.asynchronous:
        copied = (tensor.ASYNC_TERMS, tensor.ASYNC_ROWS)[: 1 + atom.transposes]
        ways += [tensor.Way(way, n) for way in copied for n in (16, 8, 4) if n >= atom.itemsize]
    return ways


def layouts_in_shared_memory():
    """(architecture, atom, rows, terms, threads, Way) of every operand that can be chosen."""
    found = {}
    for arch, atom in ATOMS:
        for tile in tensor.tiles_of(atom, PROFILES[arch]):
            threads = tile.m // tile.warp_m * (tile.n // tile.warp_n) * atom.lanes
            for rows in (tile.m, tile.n):
                for way in ways_of(atom):
                    key = (arch, atom, rows, atoms.tile_k(atom, tile), threads, way)
                    found[key] = None
    return list(found)


def tables(cases, warp):
    """Of layouts of a width of warps: the element of each chunk of each line, and of the units."""
    text = [
        '#include "platform/sim.cuh"',
        '#include "nnk/matmul_tensor_operand.cuh"',
        "using namespace nnk;",
        "template <class O> int unit(int thread, int i, int r) {",
        "  // Accesses are checked, and so belong to a thread.",
        "  static sim::Simulation simulation;",
        "  static sim::Fiber fiber;",
        "  simulation.running = &fiber;",
        "  sim::current = &simulation;",
        "  O operand;",
        "  operand.begin(unsigned(thread), nullptr, 0, 1 << 20, 1 << 20, 0, 0, 0);",
        "  return thread + i * O::threads < O::units ? operand.place(i, r) : -1;",
        "}",
    ]
    for number, (_, atom, rows, terms, threads, way) in enumerate(cases):
        if atom.lanes != warp:
            continue
        element = {1: "int8", 2: "half", 4: "float", 8: "double"}[atom.itemsize]
        operand = (
            f"TensorOperand<{element}, int, {rows}, {terms}, {threads}, {way.way}, {way.alignment}>"
        )
        visible = 'extern "C" __attribute__((visibility("default"))) int'
        text.append(f"using O{number} = {operand};")
        text.append(f"{visible} slot{number}(int l, int c) {{ return O{number}::slot(l, c); }}")
        unit = f"unit<O{number}>(t, i, r)"
        text.append(f"{visible} unit{number}(int t, int i, int r) {{ return {unit}; }}")
        text.append(f"{visible} depth{number}() {{ return O{number}::depth; }}")
    return cxx.load("\n".join(text) + "\n", "sim", (f"-DNNK_SIM_WARP={warp}",))


def read_together(atom, arch, turned, slot, line, chunk):
    """The elements, and the bytes of each, that the lanes of a warp read at once from a place."""
    if atom.asynchronous and atom.itemsize == 8:  # element by element: rows across, terms along
        of_lane = [divmod(lane, 4) for lane in range(32)]
        if turned:
            return [slot(line + term, chunk + row // 2) + row % 2 for row, term in of_lane], 8
        return [slot(line + row, chunk + term // 2) + term % 2 for row, term in of_lane], 8
    # ldmatrix takes 8 lines of one chunk at a time; a lane of AMD's a chunk of its own line.
    lines = 8 if atom.asynchronous else atom.m
    together = atom.lanes // atom.m if arch == "gfx90a" else 1
    return [slot(line + i, chunk + j) for j in range(together) for i in range(lines)], 16


def test_no_bank_conflicts():
    cases = layouts_in_shared_memory()
    libraries = {warp: tables(cases, warp) for warp in (32, 64)}
    for number, (arch, atom, rows, terms, threads, way) in enumerate(cases):
        library = libraries[atom.lanes]
        slot = getattr(library, f"slot{number}")
        turned = way.way == tensor.ASYNC_ROWS
        lines, chunks = (terms, rows) if turned else (rows, terms)
        chunks = chunks * atom.itemsize // 16
        places = {slot(line, chunk) for line in range(lines) for chunk in range(chunks)}
        assert len(places) == rows * terms * atom.itemsize // 16  # none is used twice
        wide = atom.asynchronous and atom.itemsize == 8
        step = 4 if wide and turned else 8 if atom.asynchronous else atom.m
        together = (4 if turned else 2) if wide else atom.lanes // atom.m if arch == "gfx90a" else 1
        for line in range(0, lines, step):
            for chunk in range(0, chunks, together):
                read, size = read_together(atom, arch, turned, slot, line, chunk)
                assert extra_phases(read, atom.itemsize, size, arch) == 0, (arch, atom, way)
        stores = extra_phases_of_stores(library, number, *cases[number])
        # Transposing stores are narrow, and lines of 64 bytes leave them half of the banks.
        limit = 4 * rows * terms * atom.itemsize // 128 if way.way == tensor.VECTOR_ROWS else 0
        assert stores <= limit, (arch, atom, rows, terms, threads, way)


def extra_phases_of_stores(library, number, arch, atom, rows, terms, threads, way):
    """Of all stores of a tile."""
    unit, depth = getattr(library, f"unit{number}"), getattr(library, f"depth{number}")()
    chunk = 16 // atom.itemsize
    transposes = way.way == tensor.VECTOR_ROWS
    access = depth * atom.itemsize if transposes else way.alignment
    units = rows * terms * atom.itemsize // ((16 * depth) if transposes else access)
    total = 0
    for warp in range(0, threads, atom.lanes):
        for i in range(-(-units // threads)):
            for r in range(chunk if transposes else 1):
                lanes = [unit(warp + lane, i, r) for lane in range(atom.lanes)]
                stored = [None if at < 0 else at for at in lanes]
                total += extra_phases(stored, atom.itemsize, access, arch, write=True)
    return total


# ---- pixels that are gathered --------------------------------------------------------------------


def gathering_operands():
    """(architecture, atom, rows, terms, threads) of every operand of which pixels are terms."""
    found = {}
    for arch, atom, rows, terms, threads, way in layouts_in_shared_memory():
        if way == tensor.SINGLE_TERMS:
            found[arch, atom, rows, terms, threads] = None
    return list(found)


def test_pixels_are_stored_without_bank_conflicts():
    cases = gathering_operands()
    text = [
        '#include "platform/sim.cuh"',
        '#include "nnk/conv_tensor_gather.cuh"',
        "using namespace nnk;",
    ]
    for number, (_, atom, rows, terms, threads) in enumerate(cases):
        element = {1: "int8", 2: "half", 4: "float", 8: "double"}[atom.itemsize]
        base = f"TensorOperand<{element}, int, {rows}, {terms}, {threads}, single_terms>"
        text += [
            f"using O{number} = GatheredPixels<{base}, int, false, false>;",
            'extern "C" __attribute__((visibility("default")))',
            f"int place{number}(int t, int i) {{",
            f"  O{number} operand;",
            "  operand.rank = unsigned(t);",
            "  return operand.place(i);",
            "}",
            'extern "C" __attribute__((visibility("default")))',
            f"int units{number}() {{ return O{number}::units; }}",
        ]
    library = cxx.load("\n".join(text) + "\n", "sim", ("-DNNK_SIM_WARP=32",))
    for number, (arch, atom, rows, terms, threads) in enumerate(cases):
        place, units = getattr(library, f"place{number}"), getattr(library, f"units{number}")()
        run = max(4 // atom.itemsize, 1)
        stored = [
            place(t, i) for t in range(min(threads, rows * terms // run)) for i in range(units)
        ]
        assert len({*stored}) * run == rows * terms
        for warp in range(0, threads, atom.lanes):
            for i in range(units):
                lanes = [place(warp + lane, i) for lane in range(atom.lanes)]
                extra = extra_phases(lanes, atom.itemsize, run * atom.itemsize, arch, write=True)
                assert extra == 0, (arch, atom, rows, terms, threads)
