"""Fresh Python processes, and compilers that count or fail, for tests of caches and compilers."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SECONDS = 120  # after which a process that should have ended counts as hung


def environment(**changes):
    """The environment with some variables set, or with None removed; nnkernels can be imported."""
    result = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for name in ("NNKERNELS_CXX", "NNKERNELS_CXXFLAGS", "NNKERNELS_NUM_THREADS"):
        result.pop(name, None)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = str(value)
    return result


def start_python(script, *arguments, **variables):
    """A running process of a script."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, seconds=SECONDS):
    """What a process printed; it must end by itself, and well."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        raise AssertionError(f"no end after {seconds} s\n{errors}") from None
    assert process.returncode == 0, f"exit status {process.returncode}\n{errors}"
    return output


def run_python(script, *arguments, seconds=SECONDS, **variables):
    """What a script prints in a process of its own."""
    return finish(start_python(script, *arguments, **variables), seconds)


def _system_compiler():
    words = shlex.split(os.environ.get("NNKERNELS_CXX", ""))
    if words:
        return shlex.join(words)
    return next((path for path in map(shutil.which, ("c++", "g++", "clang++")) if path), None)


# The command of the compiler that nnkernels would find, or None. Found before any test sets the
# variable.
SYSTEM_COMPILER = _system_compiler()


def write_command(path, text):
    """A shell script as an executable file."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class CountingCompiler:
    """The system's compiler, with one line in a log for every compile."""

    def __init__(self, folder):
        self._log = folder / "compiles.log"
        self._log.touch()
        self.path = write_command(
            folder / "counting-c++", f'echo "$PPID" >> {self._log}\nexec {SYSTEM_COMPILER} "$@"'
        )

    @property
    def processes(self):
        """The process that asked, for each compile so far."""
        return self._log.read_text().split()

    @property
    def count(self):
        return len(self.processes)
