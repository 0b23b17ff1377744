"""Kernels for an architecture that ``cupy.RawModule`` does not compile for.

CuPy names the compute capability of the device, as ``sm_90``, where some instructions need
``sm_90a``. So this asks the NVRTC that CuPy has itself, and keeps what it made in our own cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from nnkernels.compile import cache
from nnkernels.errors import CompileError

# CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES of the driver API.
_MAX_DYNAMIC_SHARED = 8


def load(cupy: Any, text: str, options: tuple[str, ...]) -> Any:
    """A module of the current device; compiled if it is not in the cache.

    Parameters
    ----------
    text : str
        The translation unit.
    options : tuple of str
        All options of NVRTC, the architecture among them.

    Raises
    ------
    CompileError
        If NVRTC rejects the text; the error has its log.
    BackendError
        If there is no NVRTC, or its result cannot be kept.
    """
    nvrtc = cupy.cuda.nvrtc
    material = "\0".join((text, *options, str(nvrtc.getVersion())))
    path = cache.entry("cuda", hashlib.sha256(material.encode()).hexdigest()[:32])
    code = cache.content(path)
    if code is None:
        code = _compiled(nvrtc, text, options)
        with cache.Workspace() as workspace:
            built = workspace.path / "kernel.cubin"
            built.write_bytes(code)
            cache.seal(built)
            workspace.publish(built, path)
    module = cupy.cuda.function.Module()
    module.load(code)
    return module


def _compiled(nvrtc: Any, text: str, options: tuple[str, ...]) -> bytes:
    program = nvrtc.createProgram(text, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        return bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise CompileError(f"NVRTC failed: {error}: {log[:500]}", log) from error
    finally:
        nvrtc.destroyProgram(program)


def granting(cupy: Any, function: Any) -> Callable[[int], None]:
    """What lets a function have more shared memory than it would get without asking."""

    def grant(shared_bytes: int) -> None:
        cupy.cuda.driver.funcSetAttribute(function.ptr, _MAX_DYNAMIC_SHARED, shared_bytes)

    return grant
