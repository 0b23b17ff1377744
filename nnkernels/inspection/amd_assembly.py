"""What kernels of AMD GPUs are made of, from the assembler text of Clang."""

from __future__ import annotations

import re
from typing import Any

from nnkernels.inspection.loops import Code

_BEGIN, _END = "\t.amdgpu_metadata", "\t.end_amdgpu_metadata"
# Of a kernel, not of its arguments, which stand further in: "    .vgpr_count:     64".
_ENTRY = re.compile(r"^(  - |    )(\.\w+):\s+(\S+)$")
_LABEL = re.compile(r"^([\w$.]+):")
_INSTRUCTION = re.compile(r"^\t([a-z]\w+)")
_JUMP = re.compile(r"^\ts_c?branch\w*\s+(\.\w+)")


def metadata(assembly: str) -> list[dict[str, Any]]:
    """Name, registers and memory of each kernel.

    LLVM's "User Guide for AMDGPU Backend", section "Code Object Metadata".
    """
    block = assembly.partition(_BEGIN)[2].partition(_END)[0]
    kernels: list[dict[str, Any]] = []
    for line in block.splitlines():
        entry = _ENTRY.match(line)
        if entry is None:
            if line.startswith("  - "):  # of a kernel whose first entry is a list
                kernels.append({})
            continue
        if entry[1] == "  - ":
            kernels.append({})
        kernels[-1][entry[2]] = int(entry[3]) if entry[3].isdecimal() else entry[3]
    return [kernel for kernel in kernels if ".name" in kernel]


def codes(assembly: str) -> dict[str, Code]:
    """Instructions and branches, by the name of the kernel."""
    found: dict[str, Code] = {}
    code, places, jumps = Code(), dict[str, int](), list[tuple[int, str]]()
    for line in assembly.splitlines():
        if label := _LABEL.match(line):
            if label[1].startswith("."):
                places[label[1]] = len(code.instructions)
            else:
                _resolve(code, places, jumps)
                code, places, jumps = found.setdefault(label[1], Code()), {}, []
        elif instruction := _INSTRUCTION.match(line):
            if jump := _JUMP.match(line):
                jumps.append((len(code.instructions), jump[1]))
            code.instructions.append(re.sub(r"_(e32|e64|sdwa|dpp)$", "", instruction[1]))
    _resolve(code, places, jumps)
    return found


def _resolve(code: Code, places: dict[str, int], jumps: list[tuple[int, str]]) -> None:
    code.branches += [(at, places[label]) for at, label in jumps if label in places]
