"""NVRTC without a GPU: a translation unit to machine code of any NVIDIA architecture.

CuPy compiles what runs; this compiles the same text with the same options where there is no GPU
and no driver, for ``inspect`` and the tests.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from dataclasses import dataclass
from functools import cache
from typing import Any

from nnkernels.compile.libraries import (
    newest,
    nvidia_wheel_directories,
    system_library,
    toolkit_directories,
)
from nnkernels.errors import BackendError, CompileError


@dataclass(frozen=True)
class Cubin:
    """Machine code of one translation unit, and what the compiler said about it."""

    arch: str
    code: bytes
    log: str


def library_path() -> str | None:
    """The NVRTC library: of an ``nvidia`` wheel, of a CUDA toolkit, or the system's."""
    wheels = [directory / "lib" for directory in nvidia_wheel_directories()]
    roots = toolkit_directories(("CUDA_PATH", "CUDA_HOME"), "/usr/local/cuda")
    toolkits = [root / "lib64" for root in roots]
    # libnvrtc.so.13, and not libnvrtc-builtins.so.13.1 or libnvrtc.alt.so.13.
    found = newest([*wheels, *toolkits], "libnvrtc.so*")
    return str(found) if found is not None else system_library("nvrtc")


def nvdisasm_path() -> str | None:
    """The disassembler: of the nvidia-cuda-nvdisasm wheel, of a toolkit, or in ``$PATH``."""
    wheels = [directory / "bin" for directory in nvidia_wheel_directories()]
    roots = toolkit_directories(("CUDA_PATH", "CUDA_HOME"), "/usr/local/cuda")
    found = newest([*wheels, *(root / "bin" for root in roots)], "nvdisasm")
    if found is not None and os.access(found, os.X_OK):
        return str(found)
    return shutil.which("nvdisasm")


@cache
def _library() -> Any:
    path = library_path()
    if path is None:
        raise BackendError(
            "NVRTC is not installed: pip install nvidia-cuda-nvrtc (or nvidia-cuda-nvrtc-cu12), "
            "or set CUDA_PATH to a CUDA toolkit"
        )
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise BackendError(f"NVRTC cannot be loaded from {path}: {error}") from error


def version() -> tuple[int, int]:
    """Major and minor version of NVRTC.

    Raises
    ------
    BackendError
        If it is not installed.
    """
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def architectures() -> tuple[str, ...]:
    """What this NVRTC can compile for: ``("sm_75", "sm_80", ...)``."""
    library = _library()
    count = ctypes.c_int()
    library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    library.nvrtcGetSupportedArchs(numbers)
    return tuple(f"sm_{number}" for number in numbers)


def require(arch: str) -> None:
    """Do nothing if this NVRTC can compile for an architecture.

    Raises
    ------
    BackendError
        If it cannot, or is not installed.
    """
    if not re.fullmatch(r"sm_\d+[af]?", arch) or arch.rstrip("af") not in architectures():
        major, minor = version()
        raise BackendError(
            f"NVRTC {major}.{minor} cannot compile for {arch}; it can for "
            f"{', '.join(architectures())}"
        )


def options_for(arch: str) -> tuple[str, ...]:
    """The options that a RawModule of CuPy ends up with, and a report of resources."""
    from nnkernels.launch.gpu import compile_options, options_of_cupy

    return (*compile_options(), *options_of_cupy(arch), "--ptxas-options=-v")


def compile_cubin(text: str, arch: str) -> Cubin:
    """Compile a translation unit for an architecture.

    Raises
    ------
    BackendError
        If NVRTC is not installed, or too old for the architecture.
    CompileError
        If it rejects the text; the error has its log.
    """
    library = _library()
    require(arch)
    program = ctypes.c_void_p()
    _check(
        library.nvrtcCreateProgram(
            ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None
        ),
        "nvrtcCreateProgram",
    )
    try:
        options = [option.encode() for option in options_for(arch)]
        array = (ctypes.c_char_p * len(options))(*options)
        failed = library.nvrtcCompileProgram(program, len(options), array)
        log = _read(library, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if failed:
            raise CompileError(f"NVRTC failed for {arch}: {_first_error(log)}", log)
        return Cubin(arch, _read(library, program, "CUBIN"), log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(library: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(library, f"nvrtcGet{what}")(program, buffer), what)
    return buffer.raw


def _check(status: int, what: str) -> None:
    if status:
        raise BackendError(f"{what} of NVRTC failed with status {status}")


def _first_error(log: str) -> str:
    errors = [line for line in log.splitlines() if "error" in line]
    return (errors or log.splitlines() or ["(no output)"])[0].strip()
