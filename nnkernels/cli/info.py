"""``python -m nnkernels info``: versions, compilers, devices and caches."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nnkernels import __version__
from nnkernels.compile import cache, cxx, hiprtc, nvrtc
from nnkernels.compile.sources import fingerprint, include_directories


def add_parser(commands: Any) -> None:
    """Describe the command to argparse."""
    parser = commands.add_parser(
        "info",
        help="versions, compilers, devices and caches",
        description="Print what nnkernels finds on this machine. Always ends with exit status 0: "
        "what is missing is said.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command; its exit status."""
    facts = [(name, _safely(fact)) for name, fact in _FACTS]
    width = max(len(name) for name, _ in facts)
    for name, lines in facts:
        for number, line in enumerate(lines):
            print(f"{name if number == 0 else '':<{width}}  {line}")
    return 0


def _safely(fact: Callable[[], Iterator[str]]) -> list[str]:
    # The command is for when something is wrong; one broken part must not hide the others.
    try:
        return list(fact())
    except Exception as error:
        return [f"cannot tell: {type(error).__name__}: {error}"]


def _version() -> Iterator[str]:
    yield f"{__version__}, in {Path(__file__).resolve().parent.parent}"


def _python() -> Iterator[str]:
    yield f"{platform.python_version()} ({sys.executable})"


def _numpy() -> Iterator[str]:
    yield np.__version__


def _cupy() -> Iterator[str]:
    try:
        import cupy
    except ImportError as error:
        yield f"not installed ({error})"
        return
    runtime = cupy.cuda.runtime
    kind = "ROCm" if runtime.is_hip else "CUDA"
    yield f"{cupy.__version__}, for {kind} {_dotted(runtime.runtimeGetVersion())}"
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        yield f"no device: {error}"
        return
    from nnkernels.launch.gpu import machine_of

    for index in range(count):
        properties = runtime.getDeviceProperties(index)
        device = machine_of(index).device
        memory = properties["totalGlobalMem"] / 2**30
        yield (
            f"device {index}: {properties['name'].decode()}, {device.arch}, {device.processors} "
            f"processors, {memory:.0f} GiB, {device.shared_limit // 1024} KiB of shared memory"
        )


def _dotted(version: int) -> str:
    # CUDA's 13020 is 13.2; ROCm's 60443483 is 6.4.
    if version >= 1_000_000:
        return f"{version // 10_000_000}.{version // 100_000 % 100}"
    return f"{version // 1000}.{version // 10 % 100}"


def _compiler() -> Iterator[str]:
    found = cxx.find_compiler()
    if found is None:
        yield (
            "none ($NNKERNELS_CXX, c++, g++, clang++ and ziglang were tried): NumPy arrays go "
            "through the slow references"
        )
        return
    yield f"{' '.join(found.command)} ({found.version()})"


def _cpu() -> Iterator[str]:
    from nnkernels.dispatch.machines import cpu_machine

    machine = cpu_machine()
    model = next(
        (line for line in cxx.cpu_model().splitlines() if line.startswith("model name")), ""
    )
    name = model.partition(":")[2].strip() or platform.processor() or platform.machine()
    yield (
        f"{name}, {8 * machine.device.vector_bytes}-bit SIMD, {machine.num_threads} of "
        f"{os.cpu_count()} threads"
    )


def _cache() -> Iterator[str]:
    directory = cache.directory()
    if not directory.is_dir():
        yield f"{directory} (not there yet)"
        return
    sizes = [path.stat().st_size for path in directory.iterdir() if path.is_file()]
    yield f"{directory}, {len(sizes)} kernels, {sum(sizes) / 2**20:.1f} MiB"


def _nvrtc() -> Iterator[str]:
    path = nvrtc.library_path()
    if path is None:
        yield "not found"
        return
    major, minor = nvrtc.version()
    yield f"{major}.{minor}, {path}, for {' '.join(nvrtc.architectures())}"


def _nvdisasm() -> Iterator[str]:
    yield nvrtc.nvdisasm_path() or "not found"


def _hiprtc() -> Iterator[str]:
    yield hiprtc.library_path() or "not found"


def _headers() -> Iterator[str]:
    for directory in include_directories():
        yield str(directory)
    yield f"fingerprint {fingerprint()}"


_FACTS: tuple[tuple[str, Callable[[], Iterator[str]]], ...] = (
    ("nnkernels", _version),
    ("Python", _python),
    ("NumPy", _numpy),
    ("CuPy", _cupy),
    ("C++ compiler", _compiler),
    ("CPU", _cpu),
    ("kernel cache", _cache),
    ("NVRTC", _nvrtc),
    ("nvdisasm", _nvdisasm),
    ("hipRTC", _hiprtc),
    ("headers", _headers),
)
