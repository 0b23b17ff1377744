"""Resources of kernels on AMD GPUs: the metadata of the code object, and its disassembly."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from nnkernels.compile import clang, hiprtc
from nnkernels.errors import BackendError
from nnkernels.inspection import amd_assembly
from nnkernels.inspection.loops import Code, main_loop
from nnkernels.inspection.msgpack import unpack
from nnkernels.inspection.result import Resources

# Of the ELF note that holds the metadata: LLVM's "User Guide for AMDGPU Backend", section
# "Code Object V3 to V4 Note Records".
_NOTE_NAME, _NOTE_TYPE = b"AMDGPU", 32
_SECTION_NOTE = 7

_LABEL = re.compile(r"^(?:[0-9a-f]+ )?<?(\w+)>?:\s*$")
_INSTRUCTION = re.compile(r"^\s+([a-z]\w+)")
# "s_cbranch_vccnz 65217        // 00000000211C: BF87FEC1  <symbol+0x624>"
_ADDRESS = re.compile(r"// ([0-9A-F]{8,}):")
_JUMP = re.compile(r"^\s+s_c?branch\w*\s+(\d+)\b")
_ACCESS = re.compile(r"^(global|flat|buffer|scratch)_(load|store)_(\w+?)(?:_d16(?:_hi)?)?$")
_WIDTHS = {
    "dwordx4": 16, "b128": 16, "dwordx3": 12, "b96": 12, "dwordx2": 8, "b64": 8, "dword": 4,
    "b32": 4, "ushort": 2, "sshort": 2, "short": 2, "u16": 2, "i16": 2, "b16": 2, "ubyte": 1,
    "sbyte": 1, "byte": 1, "u8": 1, "i8": 1, "b8": 1,
}  # fmt: skip
# A spilled register is stored once and loaded once, 4 bytes each. Without private memory it was
# put into an accumulation register instead (gfx90a has as many of these as of the others, and
# counts both together).
_SPILL_BYTES = 8
_NOTHING = 'extern "C" __global__ void nothing() {}\n'


def compiler_for(arch: str) -> str:
    """Name and version of what compiles for an architecture: hipRTC, or Clang if it gives up.

    Raises
    ------
    BackendError
        If hipRTC is not installed, or gives up on the architecture and there is no Clang.
    """
    version = hiprtc.version_text()
    reason = _gives_up(arch)
    if not reason:
        return version
    if clang.program() is None:
        raise BackendError(f"{reason}; and no Clang for AMD GPUs is installed")
    return clang.version_text()


@cache
def _gives_up(arch: str) -> str:
    """Why hipRTC cannot compile for an architecture; nothing if it can."""
    try:
        hiprtc.compile_code_object(_NOTHING, arch)
    except BackendError as error:
        return str(error)
    return ""


def resources(text: str, arch: str) -> dict[str, Resources]:
    """Compile a translation unit; what each of its kernels takes, by symbol.

    Raises
    ------
    BackendError
        If nothing here compiles for the architecture.
    CompileError
        If the text is rejected.
    """
    if compiler_for(arch) == hiprtc.version_text():
        compiled = hiprtc.compile_code_object(text, arch, disassemble=True)
        kernels = metadata(compiled.code)["amdhsa.kernels"]
        return _resources(kernels, parse_disassembly(compiled.assembly or ""))
    assembly = clang.compile_assembly(text, arch)
    return _resources(amd_assembly.metadata(assembly), amd_assembly.codes(assembly))


def _resources(
    kernels: Iterable[Mapping[str, Any]], codes: Mapping[str, Code]
) -> dict[str, Resources]:
    found: dict[str, Resources] = {}
    for kernel in kernels:
        counted = count(codes.get(kernel[".name"], Code()))
        spilled = kernel.get(".vgpr_spill_count", 0) + kernel.get(".sgpr_spill_count", 0)
        found[kernel[".name"]] = Resources(
            registers=kernel[".vgpr_count"],
            spill_bytes=_SPILL_BYTES * spilled if kernel[".private_segment_fixed_size"] else 0,
            local_bytes=kernel[".private_segment_fixed_size"],
            static_shared=kernel[".group_segment_fixed_size"],
            **counted,
        )
    return found


def metadata(code: bytes) -> dict[str, Any]:
    """The metadata of a code object: one note of its ELF file, in MessagePack.

    Raises
    ------
    BackendError
        If there is none.
    """
    if code[:6] != b"\x7fELF\x02\x01":
        raise BackendError("a code object of hipRTC is no 64-bit little-endian ELF file")
    table, size, count_ = _section_table(code)
    for number in range(count_):
        header = table + number * size
        (kind,) = struct.unpack_from("<I", code, header + 4)
        offset, length = struct.unpack_from("<QQ", code, header + 24)
        if kind == _SECTION_NOTE:
            note = _find_note(code[offset : offset + length])
            if note is not None:
                return unpack(note)
    raise BackendError("a code object of hipRTC has no metadata")


def _section_table(code: bytes) -> tuple[int, int, int]:
    (table,) = struct.unpack_from("<Q", code, 40)
    size, count_ = struct.unpack_from("<HH", code, 58)
    return table, size, count_


def _find_note(notes: bytes) -> bytes | None:
    position = 0
    while position + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, position)
        name = position + 12
        content = name + -(-name_size // 4) * 4
        if kind == _NOTE_TYPE and notes[name : name + name_size].rstrip(b"\0") == _NOTE_NAME:
            return notes[content : content + size]
        position = content + -(-size // 4) * 4
    return None


def count(code: Code) -> dict[str, Any]:
    """The fields of Resources that come from the machine code."""
    tables: dict[str, dict[int, int]] = {"load": {}, "store": {}}
    mix: Counter[str] = Counter()
    for instruction in code.instructions:
        mix[instruction] += 1
        access = _ACCESS.match(instruction)
        if access is not None and access[1] != "scratch":
            table = tables[access[2]]
            width = _WIDTHS.get(access[3], 4)
            table[width] = table.get(width, 0) + 1
    loop = Counter(main_loop(code))
    return {"loads": tables["load"], "stores": tables["store"], "mix": mix, "loop": loop}


def parse_disassembly(text: str) -> dict[str, Code]:
    """Instructions and branches, by kernel; what follows the end of the program is left out."""
    found: dict[str, Code] = {}
    code, places, jumps = Code(), dict[int, int](), list[tuple[int, int]]()
    for line in text.splitlines():
        if label := _LABEL.match(line):
            code.branches += [(at, places[to]) for at, to in jumps if to in places]
            code, places, jumps = found.setdefault(label[1], Code()), {}, []
            continue
        instruction = _INSTRUCTION.match(line)
        if instruction is None or instruction[1] == "s_code_end":
            continue
        if address := _ADDRESS.search(line):
            places[int(address[1], 16)] = len(code.instructions)
            if jump := _JUMP.match(line):  # in words of 4 bytes, from the next instruction on
                words = (int(jump[1]) + 2**15) % 2**16 - 2**15
                jumps.append((len(code.instructions), int(address[1], 16) + 4 + 4 * words))
        code.instructions.append(re.sub(r"_(e32|e64|sdwa|dpp)$", "", instruction[1]))
    code.branches += [(at, places[to]) for at, to in jumps if to in places]
    return found
