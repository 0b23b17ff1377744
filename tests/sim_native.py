"""Kernels of ``tests/native`` built for the simulator, and launched with no package between."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

NATIVE = Path(__file__).parent / "native"
HEADERS = tuple(Path(__file__).parent.parent / name for name in ("cuda_src", "hip_src"))
FLAGS = ["-O1", "-std=c++17", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]


def find_compiler():
    names = [os.environ.get("NNKERNELS_CXX"), "c++", "g++", "clang++"]
    return next((path for path in (shutil.which(name) for name in names if name) if path), None)


COMPILER = find_compiler()


class SimLaunch(ctypes.Structure):
    _fields_ = [
        ("blocks", ctypes.c_longlong),
        ("shared_bytes", ctypes.c_longlong),
        ("shared_limit", ctypes.c_longlong),
        ("seed", ctypes.c_ulonglong),
        ("message_bytes", ctypes.c_longlong),
        ("message", ctypes.c_char_p),
    ]


def launch(
    library,
    symbol,
    out,
    data=None,
    n=0,
    *,
    blocks=1,
    shared=0,
    limit=65536,
    seed=0,
    message_bytes=2048,
):
    """Run an entry; returns its message, "" if all was well."""
    message = ctypes.create_string_buffer(message_bytes)
    call = SimLaunch(
        blocks, shared, limit, seed, message_bytes, ctypes.cast(message, ctypes.c_char_p)
    )
    pointers = [a.ctypes.data if a is not None else 0 for a in (out, data)]
    args = np.array([*pointers, n], np.int64)
    failed = getattr(library, symbol)(ctypes.c_void_p(args.ctypes.data), ctypes.byref(call))
    text = message.value.decode()
    assert failed == (text != "")
    return text


class Builds:
    """``builds(source, *flags)``: a loaded library, compiled at most once."""

    def __init__(self, folder):
        self.folder = folder
        self.libraries = {}

    def __call__(self, source, *flags, compiler=COMPILER):
        key = (compiler, source, *flags)
        if key not in self.libraries:
            path = self.folder / f"{len(self.libraries)}.so"
            includes = [f"-I{directory}" for directory in HEADERS]
            command = [compiler, *FLAGS, *includes, *flags, str(NATIVE / source), "-o", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            assert not done.stderr
            self.libraries[key] = ctypes.CDLL(str(path))
        return self.libraries[key]


def place(source, name):
    """The file:line that carries the mark ``at: name``."""
    path = NATIVE / source
    lines = [
        i
        for i, line in enumerate(path.read_text().splitlines(), 1)
        if line.endswith(f"// at: {name}")
    ]
    assert len(lines) == 1, name
    return f"{path}:{lines[0]}"
