"""Where the headers are, and a fingerprint of all that is in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from nnkernels.errors import BackendError


@cache
def include_directories() -> tuple[Path, Path]:
    """``cuda_src`` and ``hip_src``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for root in (package, package.parent):
        directories = (root / "cuda_src", root / "hip_src")
        if all((d / "platform").is_dir() for d in directories):
            return directories
    raise BackendError(
        f"the kernel headers are missing: no cuda_src and hip_src in {package} or beside it; "
        "install nnkernels again"
    )


@cache
def fingerprint() -> str:
    """Hash of every file of both source trees.

    CuPy's disk cache does not see the contents of included headers, so this goes into the
    compiler options: an edited header is a new key.
    """
    return hash_of(include_directories())


def hash_of(directories: Iterable[str | Path]) -> str:
    """Hash of the sources below some directories: of their names and what is in them.

    By `os.walk`: with `pathlib` it was most of the first call from a warm cache.
    """
    digest = hashlib.sha256()
    for directory in map(str, directories):
        paths = [
            os.path.join(parent, name)
            for parent, _, names in os.walk(directory)
            for name in names
            if name.endswith((".cuh", ".cc"))
        ]
        for path in sorted(paths):
            with open(path, "rb", buffering=0) as file:
                digest.update(path[len(directory) :].encode() + b"\0" + file.readall())
    return digest.hexdigest()[:16]


def include_options() -> list[str]:
    """The options that make ``#include "nnk/..."`` and ``"platform/..."`` work."""
    return [f"-I{directory}" for directory in include_directories()]


def get_include() -> str:
    """The directory of the kernel headers, for ``-I``: it holds ``nnk/`` and ``platform/``.

    Returns
    -------
    str
        For NVIDIA GPUs and CPUs. AMD's platform header is beside it, in ``hip_src``.

    Examples
    --------
    >>> import os
    >>> import nnkernels as nnk
    >>> os.path.isfile(os.path.join(nnk.get_include(), "nnk", "softmax.cuh"))
    True
    """
    return str(include_directories()[0])
