"""What a library with kernels for a CPU does when it is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nnkernels.compile import cxx

TABLE = """
#include "platform/cpu.cuh"

// Constants that nothing reads: 64 pages of them.
extern "C" __attribute__((visibility("default"))) const int table[1 << 16] = {1, 2, 3};
extern "C" __attribute__((visibility("default"))) int answer() { return 42; }
"""


def mappings(path):
    """Rights of each part of a file that is mapped, and KiB of it in all, and in memory."""
    found, own = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            own = words[-1] == str(path)
            if own:
                found.append([words[1]])
        elif own and words[0] in ("Size:", "Rss:"):
            found[-1].append(int(words[1]))
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's list of mappings")
@pytest.mark.skipif(cxx.find_compiler() is None, reason="no C++ compiler: set NNKERNELS_CXX")
@pytest.mark.skipif(sys.maxsize < 2**32, reason="pages are read on 64-bit machines")
def test_all_pages_are_there(tmp_path, monkeypatch):
    """Or a load whose mask leaves one out takes 400 cycles, every time."""
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path))
    library = cxx.load(TABLE, "cpu")
    assert library.answer() == 42
    found = mappings(cxx.shared_library(TABLE, "cpu"))
    assert sum(size for _, size, _ in found) > 256
    for rights, size, in_memory in found:
        assert in_memory == size, rights
