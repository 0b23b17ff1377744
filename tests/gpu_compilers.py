"""Which of the GPU compilers are here, and marks that skip what needs one that is not."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache

import pytest

from nnkernels.compile import hiprtc, nvrtc
from nnkernels.compile.sources import include_options
from nnkernels.config.device import PROFILES


def _why_not(arch: str) -> str:
    if PROFILES[arch].machine == "hip":
        return "" if hiprtc.library_path() else "hipRTC is not installed"
    if nvrtc.library_path() is None:
        return "NVRTC is not installed"
    if arch.rstrip("a") not in nvrtc.architectures():
        return f"this NVRTC cannot compile for {arch}"
    return ""


def parameter(arch: str, *more: object) -> object:
    """A test parameter that is skipped, with a reason, where the compiler is missing."""
    reason = _why_not(arch)
    marks = (pytest.mark.skip(reason=reason),) if reason else ()
    return pytest.param(arch, *more, marks=marks)


needs_nvdisasm = pytest.mark.skipif(
    nvrtc.nvdisasm_path() is None, reason="nvdisasm is not installed"
)


# ---- Clang, for AMD architectures that an old hipRTC does not know -------------------------------

_CLANG_FLAGS = (
    *("-x", "hip", "--cuda-device-only", "-nogpuinc", "-nogpulib", "-std=c++17", "-O3"),
    # A loop that NNK_UNROLL_SOME wishes unrolled, and that is not.
    "-Wno-pass-failed",
)


@cache
def clang() -> str | None:
    """A Clang that knows gfx942 and gfx1100 (version 17 or later) and can compile for them."""
    for name in ("clang++", *(f"clang++-{n}" for n in range(25, 16, -1)),
                 *(f"clang-{n}" for n in range(25, 16, -1)), "amdclang++"):  # fmt: skip
        program = shutil.which(name)
        if program is None:
            continue
        version = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=False
        )
        number = re.search(r"clang version (\d+)", version.stdout)
        if number is None or int(number[1]) < 17:
            continue
        try:
            clang_assembly("", "gfx1100", program)
        except AssertionError:  # built without this target
            continue
        return program
    return None


def clang_assembly(text: str, arch: str, program: str | None = None) -> str:
    """A translation unit of HIP as assembler text; any message is an error."""
    command = [program or clang(), *_CLANG_FLAGS, f"--offload-arch={arch}", *include_options()]
    done = subprocess.run(
        [*command, "-S", "-", "-o", "-"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def clang_kernels(assembly: str) -> dict[str, list[str]]:
    """Names of instructions, by kernel."""
    found: dict[str, list[str]] = {}
    for line in assembly.splitlines():
        if label := re.match(r"(\w+):", line):
            current = found.setdefault(label[1], [])
        elif instruction := re.match(r"\s+([a-z]\w+)", line):
            current.append(instruction[1])
    return found


needs_clang = pytest.mark.skipif(
    clang() is None, reason="no Clang of version 17 or later for AMD GPUs is installed"
)
