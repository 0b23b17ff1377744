"""Compiles for AMD GPUs in a process of its own; the other half is in ``hiprtc.py``.

hipRTC aborts the process on an architecture that it does not know, so it must not be loaded into
the caller's. Run as a script, with nothing imported but the standard library: a request in JSON on
the standard input, the answer in JSON on the standard output.
"""

from __future__ import annotations

import base64
import ctypes
import json
import signal
import sys
from typing import Any

# Values of amd_comgr.h.
_KIND_SOURCE, _KIND_EXECUTABLE = 0x1, 0x8
_DISASSEMBLE_EXECUTABLE = 0xC


def compile_text(library: Any, text: str, options: list[str]) -> tuple[bytes | None, str]:
    """Code object (None if the compiler refuses) and log."""
    program = ctypes.c_void_p()
    library.hiprtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.hip", 0, None, None)
    array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    failed = library.hiprtcCompileProgram(program, len(options), array)
    log = _read(library, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
    return (None if failed else _read(library, program, "Code")), log


def _read(library: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(library, f"hiprtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value + 1)
    getattr(library, f"hiprtcGet{what}")(program, buffer)
    return buffer.raw[: size.value]


class _Handle(ctypes.Structure):
    # Every handle of the code object manager is a struct of one number.
    _fields_ = (("handle", ctypes.c_uint64),)


def disassemble(comgr: Any, code: bytes, arch: str) -> str | None:
    """Assembly of a code object by AMD's code object manager; None if it declines."""
    source, executable, results, answer, action = (_Handle() for _ in range(5))
    size = ctypes.c_size_t()
    steps = (
        lambda: comgr.amd_comgr_create_data(_KIND_EXECUTABLE, ctypes.byref(executable)),
        lambda: comgr.amd_comgr_set_data(executable, ctypes.c_size_t(len(code)), code),
        lambda: comgr.amd_comgr_set_data_name(executable, b"kernel"),
        lambda: comgr.amd_comgr_create_data_set(ctypes.byref(source)),
        lambda: comgr.amd_comgr_data_set_add(source, executable),
        lambda: comgr.amd_comgr_create_data_set(ctypes.byref(results)),
        lambda: comgr.amd_comgr_create_action_info(ctypes.byref(action)),
        lambda: comgr.amd_comgr_action_info_set_isa_name(
            action, f"amdgcn-amd-amdhsa--{arch}".encode()
        ),
        lambda: comgr.amd_comgr_do_action(_DISASSEMBLE_EXECUTABLE, action, source, results),
        lambda: comgr.amd_comgr_action_data_get_data(
            results, _KIND_SOURCE, ctypes.c_size_t(0), ctypes.byref(answer)
        ),
        lambda: comgr.amd_comgr_get_data(answer, ctypes.byref(size), None),
    )
    if any(step() for step in steps):
        return None
    buffer = ctypes.create_string_buffer(size.value + 1)
    if comgr.amd_comgr_get_data(answer, ctypes.byref(size), buffer):
        return None
    return buffer.raw[: size.value].decode(errors="replace")


def main() -> None:
    """Answer one request."""
    # An interrupt ends the compile at once, also where the caller does not want to see it itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    request = json.load(sys.stdin)
    library = ctypes.CDLL(request["library"])
    code, log = compile_text(library, request["text"], request["options"])
    answer: dict[str, Any] = {"code": None, "log": log, "assembly": None}
    if code is not None:
        answer["code"] = base64.b64encode(code).decode()
        if request["comgr"]:
            answer["assembly"] = disassemble(ctypes.CDLL(request["comgr"]), code, request["arch"])
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
