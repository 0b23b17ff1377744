"""What is known of compiled instances, kept in the cache directory from one run to the next.

One file for each batch of kernels that was compiled together, sealed as the entries of compiled
code are, so that half of one is never believed.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from nnkernels.compile import cache
from nnkernels.inspection.result import Resources


def key_of(content: str, compiler: str) -> str:
    """Under which resources are kept: by hash of the content, and name and version of a compiler.

    >>> len(key_of("0123", "NVRTC 13.0"))
    32
    """
    return hashlib.sha256(f"{content} {compiler}".encode()).hexdigest()[:32]


def save(arch: str, found: dict[str, Resources]) -> None:
    """Keep the resources of some instances, by key.

    Raises
    ------
    BackendError
        If the cache directory cannot be written.
    """
    plain = {key: as_plain(resources) for key, resources in sorted(found.items())}
    text = json.dumps(plain, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    with cache.Workspace() as workspace:
        built = workspace.path / "resources.json"
        built.write_bytes(zlib.compress(text.encode()))
        cache.seal(built)
        workspace.publish(built, cache.directory() / f"{_prefix(arch)}{digest}.json")


def load(arch: str) -> dict[str, Resources]:
    """All that was kept for an architecture; what is damaged counts as absent."""
    found: dict[str, Resources] = {}
    for path in _files(arch):
        content = cache.content(path)
        if content is None:
            cache.discard(path)
            continue
        plain = json.loads(zlib.decompress(content))
        found.update((key, from_plain(fields)) for key, fields in plain.items())
    return found


def _prefix(arch: str) -> str:
    return f"inspect-{arch}-"


def _files(arch: str) -> list[Path]:
    return sorted(cache.directory().glob(f"{_prefix(arch)}*.json"))


def as_plain(resources: Resources) -> dict[str, Any]:
    """Resources as what JSON can hold."""
    return dict(vars(resources))


def from_plain(fields: dict[str, Any]) -> Resources:
    """Resources from what JSON gave back; its names of fields are strings.

    >>> from_plain(json.loads(json.dumps(as_plain(Resources(8, 0, 0, 0, {16: 2}))))).loads
    {16: 2}
    """
    numbers = {name: {int(k): n for k, n in fields[name].items()} for name in ("loads", "stores")}
    counters = {name: Counter(fields[name]) for name in ("mix", "loop")}
    return Resources(**{**fields, **numbers, **counters})
