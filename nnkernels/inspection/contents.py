"""A hash of all that decides the machine code of an instance: text, headers, and how it is read.

Only the headers that an instance includes, by whatever way, count, and of these neither comments
nor layout. So an edit of a header of convolutions leaves the hashes of other kernels as they are.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from nnkernels.compile import hiprtc, nvrtc
from nnkernels.compile.instance import Instance, source_text
from nnkernels.compile.sources import include_directories
from nnkernels.config.device import PROFILES

# What is counted in machine code, and how: to be raised where a change of nvidia.py, amd.py or
# loops.py gives other numbers for the same code, so that nothing older is taken for new.
METHOD = 1

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_HASH_DIGITS = 16


def content_hash(instance: Instance, arch: str) -> str:
    """Hash of everything but the compiler that decides the machine code of an instance.

    >>> relu = Instance("row_sum", "RowSum<...>", 128)
    >>> content_hash(relu, "sm_90") == content_hash(relu, "sm_80")
    False
    """
    machine = PROFILES[arch].machine
    text = source_text((instance,), machine)
    parts = (str(METHOD), text, *_options(arch), headers_hash(tuple(_INCLUDE.findall(text))))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_HASH_DIGITS]


def _options(arch: str) -> list[str]:
    """Those of the compiler, without the fingerprint of all headers and where they are."""
    machine = PROFILES[arch].machine
    options = (nvrtc if machine == "cuda" else hiprtc).options_for(arch)
    return [option for option in options if not option.startswith(("-DNNK_FINGERPRINT=", "-I"))]


@cache
def headers_hash(names: tuple[str, ...]) -> str:
    """Hash of some headers and of all that they include."""
    texts: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in texts:
            continue
        path = _found(name)
        texts[name] = "" if path is None else bare(path.read_text())
        waiting += _INCLUDE.findall(texts[name])
    digest = hashlib.sha256()
    for name, text in sorted(texts.items()):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()


def _found(name: str) -> Path | None:
    """The file that a compiler takes for a name between quotes; None for one of the system."""
    paths = (directory / name for directory in include_directories())
    return next((path for path in paths if path.is_file()), None)


def bare(text: str) -> str:
    r"""C++ without comments, empty lines and indentation.

    >>> bare("int a;  // one\n\n  /* two */ int  b;\n")
    'int a;\nint b;'
    """
    lines = (" ".join(line.split()) for line in _COMMENT.sub(" ", text).splitlines())
    return "\n".join(line for line in lines if line)
