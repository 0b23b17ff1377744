"""Clang for AMD architectures that hipRTC here does not know: a translation unit to assembly."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache

from nnkernels.compile.sources import include_options
from nnkernels.errors import BackendError, CompileError

# The first one that knows gfx942.
_OLDEST = 17
_FLAGS = (
    *("-x", "hip", "--cuda-device-only", "-nogpuinc", "-nogpulib", "-std=c++17", "-O3"),
    "-fgpu-flush-denormals-to-zero",  # as CuPy has hipRTC do
    # A loop that NNK_UNROLL_SOME wishes unrolled, and that is not.
    "-Wno-pass-failed",
)
_TIMEOUT_SECONDS = 600


@cache
def program() -> str | None:
    """Path of a Clang of version 17 or later that was built for AMD GPUs, if there is one."""
    numbers = range(25, _OLDEST - 1, -1)
    names = ("clang++", *(f"clang++-{n}" for n in numbers), *(f"clang-{n}" for n in numbers))
    for name in (*names, "amdclang++"):
        path = shutil.which(name)
        if path is None or _version(path) < (_OLDEST,):
            continue
        try:
            _compile(path, "", "gfx1100")
        except BackendError:  # built without this target
            continue
        return path
    return None


def _version(path: str) -> tuple[int, ...]:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"clang version (\d+(?:\.\d+)*)", done.stdout)
    return tuple(map(int, found[1].split("."))) if found else ()


def version_text() -> str:
    """Its version.

    Raises
    ------
    BackendError
        If there is none.
    """
    return "Clang " + ".".join(map(str, _version(_required())))


def _required() -> str:
    path = program()
    if path is None:
        raise BackendError(f"no Clang of version {_OLDEST} or later for AMD GPUs is installed")
    return path


def compile_assembly(text: str, arch: str) -> str:
    """Compile a translation unit of HIP for an architecture; its assembler text.

    Raises
    ------
    BackendError
        If there is no Clang for AMD GPUs.
    CompileError
        If it rejects the text, or warns of something; the error has its log.
    """
    return _compile(_required(), text, arch)


def _compile(path: str, text: str, arch: str) -> str:
    command = [path, *_FLAGS, f"--offload-arch={arch}", *include_options(), "-S", "-", "-o", "-"]
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"Clang took more than {_TIMEOUT_SECONDS} s for {arch}") from error
    if done.returncode != 0 or done.stderr:
        lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise CompileError(f"Clang failed for {arch}: {first.strip()}", done.stderr)
    return done.stdout
