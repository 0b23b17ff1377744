"""Resources of kernels on NVIDIA GPUs: ptxas's report, and the machine code by nvdisasm."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnkernels.compile import nvrtc
from nnkernels.errors import BackendError
from nnkernels.inspection.loops import Code, main_loop
from nnkernels.inspection.result import Resources

_FUNCTION = re.compile(r"Compiling entry function '(\w+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")

_SECTION = re.compile(r"^\.text\.(\w+):")
# "        /*0a60*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;"
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.x]*)")
_LABEL = re.compile(r"^(\.L_\w+):")
# "@P0 BRA `(.L_x_1) ;"
_JUMP = re.compile(r"\bBRA\b.*`\((\.L_\w+)\)")
_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


def resources(text: str, arch: str) -> dict[str, Resources]:
    """Compile a translation unit; what each of its kernels takes, by symbol.

    Raises
    ------
    BackendError
        If NVRTC is not installed or cannot compile for the architecture.
    CompileError
        If it rejects the text.
    """
    cubin = nvrtc.compile_cubin(text, arch)
    found = parse_report(cubin.log)
    for symbol, code in _disassembled(cubin.code).items():
        if symbol in found:
            found[symbol] = replace(found[symbol], **count(code))
    return found


def parse_report(log: str) -> dict[str, Resources]:
    """What ``ptxas -v`` says about each kernel."""
    found: dict[str, Resources] = {}
    symbol = ""
    frame = (0, 0, 0)
    for line in log.splitlines():
        if function := _FUNCTION.search(line):
            symbol, frame = function[1], (0, 0, 0)
        elif sizes := _FRAME.search(line):
            frame = (int(sizes[1]), int(sizes[2]), int(sizes[3]))
        elif (used := _USED.search(line)) and symbol:
            shared = _SHARED.search(line)
            found[symbol] = Resources(
                registers=int(used[1]),
                spill_bytes=frame[1] + frame[2],
                local_bytes=frame[0],
                static_shared=int(shared[1]) if shared else 0,
            )
    return found


def count(code: Code) -> dict[str, Any]:
    """The fields of Resources that come from the machine code."""
    loads: dict[int, int] = {}
    stores: dict[int, int] = {}
    mix: Counter[str] = Counter()
    for instruction in code.instructions:
        name, *modifiers = instruction.split(".")
        mix[name] += 1
        # LD and ST are accesses of which the compiler does not know the memory.
        table = loads if name in ("LDG", "LD") else stores if name in ("STG", "ST") else None
        if table is not None:
            width = next((_WIDTHS[m] for m in modifiers if m in _WIDTHS), 4)
            table[width] = table.get(width, 0) + 1
    loop = Counter(main_loop(replace(code, instructions=[_plain(i) for i in code.instructions])))
    return {"loads": loads, "stores": stores, "mix": mix, "loop": loop}


def _plain(instruction: str) -> str:
    return instruction.partition(".")[0]


def disassembler() -> str:
    """Path of nvdisasm.

    Raises
    ------
    BackendError
        If it is not installed.
    """
    program = nvrtc.nvdisasm_path()
    if program is None:
        raise BackendError(
            "nvdisasm is not installed: pip install nvidia-cuda-nvdisasm (or "
            "nvidia-cuda-nvcc-cu12), or set CUDA_PATH to a CUDA toolkit"
        )
    return program


def _disassembled(code: bytes) -> dict[str, Code]:
    program = disassembler()
    with tempfile.TemporaryDirectory(prefix="nnkernels-") as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(code)
        done = subprocess.run([program, "-c", path], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BackendError(f"nvdisasm failed: {done.stderr.strip() or done.stdout.strip()}")
    return parse_disassembly(done.stdout)


def parse_disassembly(text: str) -> dict[str, Code]:
    """Instructions with their modifiers (``LDG.E.128``), and branches, by kernel."""
    found: dict[str, Code] = {}
    code, labels, jumps = Code(), dict[str, int](), list[tuple[int, str]]()
    for line in text.splitlines():
        if section := _SECTION.match(line):
            _resolve(code, labels, jumps)
            code, labels, jumps = found.setdefault(section[1], Code()), {}, []
        elif label := _LABEL.match(line):
            labels[label[1]] = len(code.instructions)
        elif instruction := _INSTRUCTION.match(line):
            if jump := _JUMP.search(line):
                jumps.append((len(code.instructions), jump[1]))
            code.instructions.append(instruction[1])
    _resolve(code, labels, jumps)
    return found


def _resolve(code: Code, labels: dict[str, int], jumps: list[tuple[int, str]]) -> None:
    code.branches += [(at, labels[label]) for at, label in jumps if label in labels]
