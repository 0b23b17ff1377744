"""The cache of compiled code on disk: verified when read, replaced in one step when written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from nnkernels._version import __version__
from nnkernels.errors import BackendError

# An entry is the compiled code followed by this trailer and the SHA-256 of the code. The dynamic
# loader ignores what follows an ELF image; a truncated image, though, would kill the process
# with SIGBUS when loaded, so every entry is checked first.
_TRAILER = b"\nnnkernels entry\n"
_DIGEST_BYTES = 32

# Everything here has a name that nobody else gives: the directory may be one that the user has
# other things in.
_ENTRY_NAME = re.compile(r"[a-z]+-[0-9a-f]{32}\.so|inspect-[a-z0-9_]+-[0-9a-f]{32}\.json")
_BUILD_PREFIX = "nnkernels-build-"
# A compile takes seconds: a build directory this old was left by a process that was killed.
_STALE_SECONDS = 24 * 3600.0


def directory() -> Path:
    """The cache directory: ``$NNKERNELS_CACHE_DIR``, or the user's cache directory.

    Raises
    ------
    BackendError
        If the variable begins with the home directory of a user that does not exist.
    """
    return _directory(os.environ.get("NNKERNELS_CACHE_DIR"))


@cache
def _directory(override: str | None) -> Path:
    if override:
        try:
            # Absolute: a program may change its working directory between two kernels.
            return Path(override).expanduser().absolute()
        except RuntimeError as error:
            raise BackendError(
                f"NNKERNELS_CACHE_DIR is {override!r}, which is no path on this machine ({error}); "
                "set it to a directory that can be written"
            ) from error
    # Here, because it takes 5 ms, and not every program compiles for the CPU.
    import platformdirs

    return Path(platformdirs.user_cache_dir("nnkernels", appauthor=False)) / __version__


def writable_directory() -> Path:
    """The cache directory, made if it is not there.

    Raises
    ------
    BackendError
        If it cannot be made or written.
    """
    path = directory()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def unwritable(path: Path, error: OSError) -> BackendError:
    """Make the error for a cache directory that cannot be written."""
    return BackendError(
        f"the kernel cache directory {path} cannot be written ({error.strerror or error}); set the "
        "environment variable NNKERNELS_CACHE_DIR to a directory that can"
    )


def entry(machine: str, key: str) -> Path:
    """The path of an entry: `key` is 32 hexadecimal digits."""
    return directory() / f"{machine}-{key}.so"


def is_whole(path: Path) -> bool:
    """Whether an entry exists and holds what was written to it."""
    return content(path) is not None


def content(path: Path) -> bytes | None:
    """What was written to an entry; None if there is none, or only a part of it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            return None
        whole = path.read_bytes()
    except OSError:
        return None
    code, digest = whole[:-_DIGEST_BYTES], whole[-_DIGEST_BYTES:]
    if not code.endswith(_TRAILER) or hashlib.sha256(code).digest() != digest:
        return None
    return code[: -len(_TRAILER)]


def seal(path: Path) -> None:
    """Append the trailer and the digest to freshly compiled code."""
    code = path.read_bytes() + _TRAILER
    path.write_bytes(code + hashlib.sha256(code).digest())


class Workspace:
    """A private directory inside the cache, in which one entry is built.

    On the same file system as the entries, so that :meth:`publish` is a rename: whoever reads
    sees the old file, the new one or none, and never half of one. Two processes that build the
    same entry publish the same thing, one after the other.
    """

    def __enter__(self) -> Workspace:
        parent = writable_directory()
        try:
            import tempfile

            self.path = Path(tempfile.mkdtemp(prefix=_BUILD_PREFIX, dir=parent))
        except OSError as error:
            raise unwritable(parent, error) from error
        _sweep(parent)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def publish(self, built: Path, target: Path) -> None:
        """Move a finished file to its place in the cache, whatever is there now."""
        try:
            try:
                os.replace(built, target)
            except IsADirectoryError:
                shutil.rmtree(target)
                os.replace(built, target)
        except OSError as error:
            raise unwritable(target.parent, error) from error


def _children(parent: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a directory; nothing if it is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(parent) as found:
        yield from found


def _sweep(parent: Path) -> None:
    """Delete build directories that killed processes have left."""
    oldest = time.time() - _STALE_SECONDS
    for child in _children(parent):
        # Another process may be sweeping too.
        with contextlib.suppress(OSError):
            ours = child.name.startswith(_BUILD_PREFIX)
            if ours and child.stat(follow_symlinks=False).st_mtime < oldest:
                shutil.rmtree(child.path, ignore_errors=True)


def discard(path: Path) -> None:
    """Delete an entry that is of no use, if that is possible."""
    with contextlib.suppress(OSError):
        path.unlink()


def clear() -> None:
    """Delete every entry of the cache on disk, and nothing else that is in the directory.

    Raises
    ------
    BackendError
        If one cannot be deleted.
    """
    path = directory()
    try:
        for child in _children(path):
            if not _ENTRY_NAME.fullmatch(child.name):
                continue
            if child.is_dir(follow_symlinks=False):
                shutil.rmtree(child.path)
            else:
                Path(child.path).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    _sweep(path)
