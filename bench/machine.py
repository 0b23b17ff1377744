"""Which machine, which versions, which settings: what a measurement is worth nothing without."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import nnkernels
from nnkernels.compile.cxx import find_compiler

# Set on some machines to make results repeatable; they choose slower kernels for the peers.
SLOWS_PEERS = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
)
_RECORDED_PREFIXES = (
    "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "ATEN_", "DNNL_", "NPY_",
    "NNKERNELS_", "CUPY_", "CUDA_VISIBLE", "HIP_VISIBLE", "MALLOC_", "GLIBC_TUNABLES",
)  # fmt: skip
_SIMD_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_fp16", "avx512_bf16",
    "avx512_vnni", "amx_tile", "asimd", "asimdhp", "bf16", "sve", "sve2",
)  # fmt: skip
_PACKAGES = ("numpy", "ml_dtypes", "torch", "cupy", "cupy-cuda12x", "cupy-cuda13x", "matplotlib")


@dataclass(frozen=True)
class Caches:
    """Sizes in bytes. ``private`` is what belongs to the cores (level 2), all together."""

    private: int
    last_level: int


def caches() -> Caches:
    """From Linux's /sys; 1 MiB a core and 32 MiB where that says nothing."""
    levels: dict[int, int] = {}
    processors = _processors()
    for entry in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (entry / "type").read_text().strip() == "Instruction":
            continue
        size = (entry / "size").read_text().strip()  # such as 2048K
        scale = {"K": 1024, "M": 1 << 20}.get(size[-1], 1)
        size_bytes = int(size.rstrip("KM")) * scale
        level = int((entry / "level").read_text())
        sharing = max(1, _count((entry / "shared_cpu_list").read_text()))
        levels[level] = size_bytes * max(1, processors // sharing)
    if not levels:
        return Caches(processors << 20, 32 << 20)
    return Caches(levels.get(2, processors << 20), levels[max(levels)])


def _processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _count(cpu_list: str) -> int:
    """How many processors a list such as 0-3,8 names."""
    ranges = [part.split("-") for part in cpu_list.strip().split(",") if part]
    return sum(int(r[-1]) - int(r[0]) + 1 for r in ranges)


def free_memory() -> int:
    """Bytes that can be had without swapping; 4 GiB where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30


def describe(gpu: dict[str, Any] | None) -> dict[str, Any]:
    """The machine, for a result file."""
    model, flags = _cpu()
    sizes = caches()
    return {
        "cpu": model,
        "simd": [flag for flag in _SIMD_FLAGS if flag in flags],
        "processors": os.cpu_count(),
        "processors_allowed": _processors(),
        "level_2_bytes": sizes.private,
        "last_level_bytes": sizes.last_level,
        "memory_free_bytes": free_memory(),
        "load_average": list(os.getloadavg()),
        "system": platform.platform(),
        "transparent_hugepages": _first_line("/sys/kernel/mm/transparent_hugepage/enabled"),
        "gpu": gpu,
    }


def _cpu() -> tuple[str, set[str]]:
    model = platform.processor() or platform.machine()
    flags: set[str] = set()
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return model, flags
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        elif name.strip() in ("flags", "Features"):
            flags = set(value.split())
    return model, flags


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "nnkernels": nnkernels.__version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def compiler() -> str | None:
    """The C++ compiler that nnkernels uses, and its version."""
    found = find_compiler()
    if found is None:
        return None
    text = _output([*found.command, "--version"])
    return text.splitlines()[0] if text else Path(found.command[0]).name


def commit() -> dict[str, Any] | None:
    """The commit of the checkout that nnkernels came from; None outside a checkout."""
    checkout = Path(nnkernels.__file__).resolve().parent.parent
    git = ["git", "-C", str(checkout)]
    if _output([*git, "rev-parse", "--show-toplevel"]).strip() != str(checkout):
        return None
    revision = _output([*git, "rev-parse", "HEAD"]).strip()
    changes = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    return {"hash": revision, "changed_files": len(changes.splitlines())}


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def environment() -> dict[str, str]:
    """The environment variables that change speed."""
    return {name: os.environ[name] for name in sorted(os.environ) if _matters(name)}


def _matters(name: str) -> bool:
    # Where a cache lies does not change speed, and a path is nobody else's business.
    return name.startswith(_RECORDED_PREFIXES) and not name.endswith("_DIR")


def warnings() -> list[str]:
    """What makes the numbers of this run doubtful."""
    found = [
        f"{name}={os.environ[name]} is set and can slow a peer down; unset it for a fair comparison"
        for name in SLOWS_PEERS
        if name in os.environ
    ]
    load = os.getloadavg()[0]
    if load > 0.5:
        found.append(f"the load average is {load:.1f}: something else is running")
    return found
