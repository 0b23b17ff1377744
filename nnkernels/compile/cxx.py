"""The system's C++ compiler: finding it, and making shared libraries for ``cpu`` and ``sim``."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nnkernels.compile import cache as disk
from nnkernels.compile.sources import fingerprint, include_options
from nnkernels.errors import BackendError, CompileError

# subprocess, tempfile, shlex and signal are imported where they are used: a kernel that is in the
# cache needs none of them.
if TYPE_CHECKING:
    import subprocess

# -fno-math-errno and -fno-trapping-math let loops with mathematics vectorise while inf and NaN
# stay what IEEE 754 says; -ffast-math would not leave them so.
_COMMON = (
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-Wall",
    "-Wno-psabi",
    "-fno-math-errno",
    "-fno-trapping-math",
)
_FOR_MACHINE = {
    "cpu": ("-O3", "-march=native", "-ffp-contract=fast", "-fvisibility=hidden"),
    # The simulator looks for wrong kernels, not for speed: compile time is what counts. -Og takes a
    # quarter less of it than -O1, and twice as long to run; -O0 four times as long.
    "sim": ("-Og", "-ffp-contract=fast", "-fvisibility=hidden"),
}
_LINK = ("-lpthread", "-lm")


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler command, and what tells this version of it from others."""

    command: tuple[str, ...]
    identity: str

    def version(self) -> str:
        """The first line of ``--version``."""
        import subprocess

        done = subprocess.run(
            [*self.command, "--version"], capture_output=True, text=True, check=False
        )
        return (done.stdout or done.stderr).strip().partition("\n")[0]


def find_compiler() -> Compiler | None:
    """``$NNKERNELS_CXX``, then ``c++``, ``g++``, ``clang++``, then the ``ziglang`` package.

    Raises
    ------
    BackendError
        If ``$NNKERNELS_CXX`` names something that is no command.
    """
    return _find_compiler(os.environ.get("NNKERNELS_CXX"), os.environ.get("PATH", ""))


@cache
def _find_compiler(override: str | None, _path: str) -> Compiler | None:
    if override:
        words = _words("NNKERNELS_CXX", override)
        found = _command(words[0]) if words else None
        if found is None:
            raise BackendError(
                f"NNKERNELS_CXX is {override!r}, which is no command on this machine; name a C++17 "
                "compiler, or unset it to search for c++, g++ and clang++"
            )
        # "ccache g++" and "ccache clang++" are one program and two compilers.
        return Compiler((found, *words[1:]), " ".join([_identity(found), *words[1:]]))
    for name in ("c++", "g++", "clang++"):
        found = _command(name)
        if found is not None:
            return Compiler((found,), _identity(found))
    zig = find_spec("ziglang")
    if zig is not None and zig.origin is not None:
        return Compiler((sys.executable, "-m", "ziglang", "c++"), _identity(zig.origin))
    return None


def _words(variable: str, text: str) -> list[str]:
    """The words of an environment variable, split as a shell does."""
    if not text:
        return []
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise BackendError(
            f"{variable} is {text!r}, which cannot be split into words ({error})"
        ) from error


def _command(name: str) -> str | None:
    found = shutil.which(name)
    # Absolute, because PATH may hold a relative directory and the working directory may change.
    return None if found is None else os.path.abspath(found)


def _identity(program: str) -> str:
    # Asking a compiler for its version costs a process (about 5 ms) at every start; a new
    # version is a new file.
    path = Path(program).resolve()
    status = path.stat()
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"


@cache
def cpu_model() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(line for line in lines if line.startswith(wanted))


def flags_for(machine: str, defines: tuple[str, ...]) -> list[str]:
    """All options of a compile but the names of its files."""
    extra = _words("NNKERNELS_CXXFLAGS", os.environ.get("NNKERNELS_CXXFLAGS", ""))
    return [*_COMMON, *_FOR_MACHINE[machine], *defines, *include_options(), *extra]


def target_macros() -> frozenset[str] | None:
    """Names of the compiler's own macros where ``$NNKERNELS_CXXFLAGS`` may name another processor.

    None where kernels for a CPU are compiled for this one, or nothing can be found out.

    Raises
    ------
    BackendError
        If the variable cannot be split into words.
    """
    compiler = find_compiler() if os.environ.get("NNKERNELS_CXXFLAGS") else None
    if compiler is None:
        return None
    import subprocess

    command = [*compiler.command, *flags_for("cpu", ()), "-dM", "-E", "-x", "c++", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:  # a kernel will say why
        return None
    return frozenset(line.split()[1] for line in done.stdout.splitlines() if line.count(" ") >= 1)


def load(text: str, machine: str, defines: tuple[str, ...] = ()) -> ctypes.CDLL:
    """A source text as a loaded library: from the cache, or compiled now.

    Raises
    ------
    BackendError
        If there is no compiler, or the cache cannot be written or its files not be loaded.
    CompileError
        If the compiler fails.
    """
    path = shared_library(text, machine, defines)
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        # Another process may have cleared the cache since the entry was verified.
        disk.discard(path)
    path = shared_library(text, machine, defines)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        disk.discard(path)
        raise BackendError(
            f"a compiled kernel cannot be loaded ({error}); is the compiler for this machine, and "
            "may programs run from the cache directory? Set the environment variables "
            "NNKERNELS_CXX and NNKERNELS_CACHE_DIR to others"
        ) from error


def shared_library(text: str, machine: str, defines: tuple[str, ...] = ()) -> Path:
    """The path of a verified shared library made from a source text, from the cache if it is there.

    Raises
    ------
    BackendError
        If there is no compiler, or the cache cannot be written.
    CompileError
        If the compiler fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BackendError(
            "no C++ compiler was found (tried $NNKERNELS_CXX, c++, g++, clang++ and the ziglang "
            "package); install one of them"
        )
    flags = flags_for(machine, defines)
    material = [text, fingerprint(), compiler.identity, cpu_model(), *flags]
    key = hashlib.sha256("\0".join(material).encode()).hexdigest()[:32]
    entry = disk.entry(machine, key)
    if not disk.is_whole(entry):
        _compile(compiler, flags, text, entry)
    return entry


def _compile(compiler: Compiler, flags: list[str], text: str, entry: Path) -> None:
    with disk.Workspace() as workspace:
        source = workspace.path / "kernel.cc"
        built = workspace.path / "kernel.so"
        command = [*compiler.command, *flags, str(source), "-o", str(built), *_LINK]
        try:
            source.write_text(text, encoding="utf-8")
            done = _run(command, text)
            if done.returncode != 0 or not built.is_file():
                raise _failure(command, done, text)
            disk.seal(built)
        except OSError as error:  # the disk is full, or somebody has deleted the directory
            raise disk.unwritable(entry.parent, error) from error
        workspace.publish(built, entry)


def _run(command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    """Run a compiler, its messages in English."""
    import shlex
    import subprocess

    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        raise CompileError(
            f"the C++ compiler could not be started: {error}\ncommand: {shlex.join(command)}",
            str(error),
            _keep(text),
        ) from error


def _failure(command: list[str], done: subprocess.CompletedProcess[str], text: str) -> CompileError:
    import shlex

    log = (done.stderr or "") + (done.stdout or "")
    lines = [line for line in log.splitlines() if "error" in line] or log.splitlines()
    kept = _keep(text)
    return CompileError(
        f"{Path(command[0]).name} {_outcome(done.returncode)} on a generated kernel: "
        f"{lines[0].strip() if lines else '(no output)'}\nsource: {kept or '(could not be kept)'}\n"
        f"command: {shlex.join(command)}",
        log,
        kept,
    )


def _outcome(status: int) -> str:
    if status > 0:
        return f"failed with exit status {status}"
    if status == 0:
        return "reported success but wrote no file"
    import signal

    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _keep(text: str) -> str:
    """Write a source text to a file that outlives the build; its path, or "" if that fails."""
    try:
        import tempfile

        handle, kept = tempfile.mkstemp(prefix="nnkernels-failed-", suffix=".cc")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return ""
    return kept
