"""Every header compiles with nothing before it but a platform header, on each machine."""

from __future__ import annotations

import re
import subprocess
import zlib
from pathlib import Path

import gpu_compilers
import pytest
from hypothesis import settings

from nnkernels.compile import clang, cxx, hiprtc, nvrtc
from nnkernels.compile.sources import include_directories

CUDA_SRC, HIP_SRC = include_directories()
ALGORITHMS = sorted(
    path.relative_to(root / "nnk").with_suffix("").as_posix()
    for root in (CUDA_SRC, HIP_SRC)
    for path in (root / "nnk").rglob("*.cuh")
)
# `gpu` is one of the others, and the simulator with CUDA's words.
PLATFORMS = ("cpu", "sim", "cuda", "hip", "gpu")
# A kernel of nothing: hipRTC does not like a text without one.
EMPTY_KERNEL = 'extern "C" __global__ void nothing() {}\n'


def included(platform: str) -> set[str]:
    """The headers of ``platform/`` that a platform header brings along."""
    found: set[str] = set()
    todo = [f"{platform}.cuh"]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            path = next(
                d / "platform" / name
                for d in include_directories()
                if (d / "platform" / name).is_file()
            )
            todo += re.findall(r'#include "platform/(\w+\.cuh)"', path.read_text())
    return found


def text_for(platform: str, header: str) -> str:
    # Twice: a second inclusion must be harmless.
    line = f'#include "{header}"\n'
    return f'#include "platform/{platform}.cuh"\n{line}{line}'


def drawn(of):
    """Profile deep: each header with all of them. Elsewhere with one, so that each has many."""
    if not settings.default.derandomize:
        return [(header, one) for header in ALGORITHMS for one in of]
    return [(header, of[zlib.crc32(header.encode()) % len(of)]) for header in ALGORITHMS]


def check_cxx(platform: str, header: str, *defines: str) -> None:
    compiler = cxx.find_compiler()
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    flags = [f for f in cxx.flags_for(platform, defines) if f != "-shared"]
    command = [*compiler.command, *flags, "-Werror", "-fsyntax-only", "-x", "c++", "-"]
    text = text_for(platform, header)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("header", ALGORITHMS)
def test_cpu(header):
    check_cxx("cpu", f"nnk/{header}.cuh")


@pytest.mark.parametrize(("header", "warp"), drawn((32, 64)))
def test_sim(header, warp):
    check_cxx("sim", f"nnk/{header}.cuh", f"-DNNK_SIM_WARP={warp}")


@pytest.mark.parametrize(
    ("arch", "header"),
    [gpu_compilers.parameter(arch, header) for header, arch in drawn(("sm_80", "sm_90", "sm_120"))],
)
def test_cuda(arch, header):
    log = nvrtc.compile_cubin(text_for("cuda", f"nnk/{header}.cuh") + EMPTY_KERNEL, arch).log
    assert "warning" not in log


@pytest.mark.parametrize("arch", [gpu_compilers.parameter("gfx90a")])
@pytest.mark.parametrize("header", ALGORITHMS)
def test_hip(header, arch):
    compiled = hiprtc.compile_code_object(text_for("hip", f"nnk/{header}.cuh") + EMPTY_KERNEL, arch)
    assert "warning" not in compiled.log


@pytest.mark.parametrize("arch", ["gfx942", "gfx1100"])
@gpu_compilers.needs_clang
def test_hip_by_clang(arch):
    """All headers at once, and the platform's stand-in for those of HIP."""
    lines = [f'#include "nnk/{header}.cuh"\n' for header in ALGORITHMS]
    clang.compile_assembly('#include "platform/hip.cuh"\n' + "".join(lines), arch)


def test_parts_of_platforms():
    """Headers of ``platform/`` belong to a platform header that brings all they need."""
    reached = {name for platform in PLATFORMS for name in included(platform)}
    there = {path.name for d in (CUDA_SRC, HIP_SRC) for path in (d / "platform").glob("*.cuh")}
    assert reached == there


@pytest.mark.parametrize("platform", ["cpu", "sim"])
def test_parts_again(platform):
    for name in sorted(included(platform)):
        check_cxx(platform, f"platform/{name}")


def test_every_header_guards_itself():
    for directory in (CUDA_SRC, HIP_SRC):
        for path in sorted(directory.rglob("*.cuh")):
            lines = [line for line in path.read_text().splitlines() if line and line[:2] != "//"]
            assert lines[0] == "#pragma once", path


def test_algorithms_include_no_platform():
    """An algorithm that names a platform is not the same text on every machine."""
    for header in ALGORITHMS:
        root = next(d for d in (CUDA_SRC, HIP_SRC) if (d / "nnk" / f"{header}.cuh").is_file())
        text = Path(root, "nnk", f"{header}.cuh").read_text()
        assert not re.findall(r'#include\s*(?:<|"(?!nnk/))', text), header
