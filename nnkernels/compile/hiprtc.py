"""hipRTC without a GPU: a translation unit to machine code of an AMD architecture."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnkernels.compile.libraries import newest, system_library, toolkit_directories
from nnkernels.errors import BackendError, CompileError

# A translation unit of 60 kernels takes about 10 s.
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class CodeObject:
    """Machine code of one translation unit, an ELF file.

    Attributes
    ----------
    assembly : str or None
        Disassembled, if a disassembler was found and asked for.
    """

    arch: str
    code: bytes
    log: str
    assembly: str | None


def library_path() -> str | None:
    """The library with hipRTC: ROCm's own, or a distribution's."""
    roots = toolkit_directories(("ROCM_PATH", "ROCM_HOME"), "/opt/rocm")
    for name in ("hiprtc", "amdhip64"):  # one library until ROCm 5.3, two since
        found = newest([root / "lib" for root in roots], f"lib{name}.so*")
        path = str(found) if found is not None else system_library(name)
        if path is not None:
            return path
    # Debian's run-time packages have no link without a version number.
    found = newest([Path("/usr/lib/x86_64-linux-gnu")], "libamdhip64.so*")
    return str(found) if found is not None else None


def _comgr_path() -> str | None:
    roots = toolkit_directories(("ROCM_PATH", "ROCM_HOME"), "/opt/rocm")
    directories = [*(root / "lib" for root in roots), Path("/usr/lib/x86_64-linux-gnu")]
    found = newest(directories, "libamd_comgr.so*")
    return str(found) if found is not None else system_library("amd_comgr")


def _required_library() -> str:
    library = library_path()
    if library is None:
        raise BackendError(
            "hipRTC is not installed: install ROCm, or Debian's packages libamdhip64-5 and "
            "libhiprtc-builtins5"
        )
    return library


def version_text() -> str:
    """Which hipRTC it is, by the names of its libraries; to ask it would load it.

    Raises
    ------
    BackendError
        If it is not installed.
    """
    found = [_required_library(), _comgr_path()]
    return "hipRTC of " + " and ".join(Path(path).resolve().name for path in found if path)


def options_for(arch: str) -> tuple[str, ...]:
    """The options that a RawModule of CuPy ends up with on that architecture."""
    from nnkernels.launch.gpu import compile_options

    # CuPy names no architecture, hipRTC takes the current device's: cupy/cuda/compiler.py,
    # _compile_with_cache_hip.
    return (*compile_options(), "-fcuda-flush-denormals-to-zero", f"--offload-arch={arch}")


def compile_code_object(text: str, arch: str, *, disassemble: bool = False) -> CodeObject:
    """Compile a translation unit for an architecture.

    Raises
    ------
    BackendError
        If hipRTC is not installed, or gives up on the architecture.
    CompileError
        If it rejects the text; the error has its log.
    """
    library = _required_library()
    if not re.fullmatch(r"gfx[0-9a-f]+", arch):
        raise BackendError(f"{arch!r} is no AMD architecture; they are called gfx90a, gfx1100, ...")
    request = {
        "library": library,
        "comgr": _comgr_path() if disassemble else None,
        "text": text,
        "arch": arch,
        "options": list(options_for(arch)),
    }
    answer = _ask(json.dumps(request), arch, library)
    if answer["code"] is None:
        raise CompileError(
            f"hipRTC failed for {arch}: {_first_error(answer['log'])}", answer["log"]
        )
    code = base64.b64decode(answer["code"])
    assembly = answer["assembly"]
    if disassemble and assembly is None:
        assembly = _disassemble_with_llvm(code, arch)
    return CodeObject(arch, code, answer["log"], assembly)


def _ask(request: str, arch: str, library: str) -> dict[str, Any]:
    script = Path(__file__).with_name("hiprtc_process.py")
    # -I: nothing of the user's environment gets into the process.
    command = [sys.executable, "-I", str(script)]
    try:
        done = subprocess.run(
            command,
            input=request,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"hipRTC took more than {_TIMEOUT_SECONDS} s for {arch}") from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(
            f"hipRTC ({library}) gave up on {arch} with exit status {done.returncode}: {last}; a "
            "newer ROCm may know this architecture"
        ) from None
    return answer


def _disassemble_with_llvm(code: bytes, arch: str) -> str | None:
    program = shutil.which("llvm-objdump")
    if program is None:
        return None
    # Standard input as a file: the tool seeks in it.
    done = subprocess.run(
        [program, "-d", "--no-show-raw-insn", f"--mcpu={arch}", "-"],
        input=code,
        capture_output=True,
        check=False,
    )
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _first_error(log: str) -> str:
    lines = log.splitlines() or ["(no output)"]
    return next((line for line in lines if "error" in line), lines[0]).strip()
