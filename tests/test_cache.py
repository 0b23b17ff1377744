"""The cache of compiled kernels: damaged, missing, shared, stale or unwritable."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from processes import (
    REPOSITORY,
    SYSTEM_COMPILER,
    CountingCompiler,
    environment,
    finish,
    run_python,
    start_python,
    write_command,
)

import nnkernels as nnk
from nnkernels import BackendError
from nnkernels.compile import cache, cxx
from nnkernels.compile.sources import hash_of
from nnkernels.dispatch import machines
from nnkernels.launch.cpu import CpuMachine

pytestmark = pytest.mark.skipif(SYSTEM_COMPILER is None, reason="no C++ compiler")

# A source that compiles at once.
ANSWER = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'
RELU = """
import numpy as np, nnkernels as nnk
x = np.linspace(-1, 1, 1000, dtype=np.float32)
assert np.array_equal(nnk.relu(x), x.clip(0))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache directory of this test's own."""
    path = tmp_path / "cache"
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(path))
    return path


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    counting = CountingCompiler(tmp_path)
    monkeypatch.setenv("NNKERNELS_CXX", str(counting.path))
    return counting


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def relu_in(machine):
    """One kernel call on a machine that has loaded nothing yet."""
    x = np.linspace(-1, 1, 50, dtype=np.float32)
    with machines.use_machine(machine):
        assert np.array_equal(nnk.relu(x), x.clip(0))


# ---- one entry -----------------------------------------------------------------------------


def test_entry_is_made_once_and_used_again(folder, compiler):
    path = cxx.shared_library(ANSWER, "sim")
    assert names(folder) == [path.name]
    assert cache.is_whole(path)
    assert cxx.shared_library(ANSWER, "sim") == path
    assert cxx.load(ANSWER, "sim").answer() == 42
    assert compiler.count == 1


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_by_one_byte(path):
    path.write_bytes(path.read_bytes()[:-1])


def one_bit_in_the_code(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def one_bit_in_the_digest(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def unsealed(path):
    path.write_bytes(path.read_bytes()[: -len(cache._TRAILER) - cache._DIGEST_BYTES])


def emptied(path):
    path.write_bytes(b"")


def removed(path):
    path.unlink()


def in_its_place(make):
    def replace(path):
        path.unlink()
        make(path)

    replace.__name__ = make.__name__
    return replace


def a_directory(path):
    (path / "inside").mkdir(parents=True)


def a_dangling_link(path):
    path.symlink_to(path.parent / "nowhere")


def a_link_to_itself(path):
    path.symlink_to(path)


def a_pipe(path):
    os.mkfifo(path)  # to open it for reading would wait for ever


DAMAGES = [
    truncated,
    cut_by_one_byte,
    one_bit_in_the_code,
    one_bit_in_the_digest,
    unsealed,
    emptied,
    removed,
    *map(in_its_place, [a_directory, a_dangling_link, a_link_to_itself, a_pipe]),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_entry_is_rebuilt(folder, compiler, damage):
    path = cxx.shared_library(ANSWER, "sim")
    damage(path)
    assert not cache.is_whole(path)
    assert cxx.load(ANSWER, "sim").answer() == 42  # the first time that this process opens it
    assert compiler.count == 2
    assert path.is_file()
    assert cache.is_whole(path)
    assert names(folder) == [path.name]


def test_damaged_kernels_of_an_earlier_process(folder, compiler):
    run_python(RELU, NNKERNELS_CACHE_DIR=folder, NNKERNELS_CXX=compiler.path)
    entries = names(folder)
    assert compiler.count == len(entries) == 2  # the thread pool and the kernel
    run_python(RELU, NNKERNELS_CACHE_DIR=folder, NNKERNELS_CXX=compiler.path)
    assert compiler.count == 2
    for name in entries:
        truncated(folder / name)
    run_python(RELU, NNKERNELS_CACHE_DIR=folder, NNKERNELS_CXX=compiler.path)
    assert compiler.count == 4
    assert names(folder) == entries


def test_entry_that_vanishes_before_it_is_loaded(folder, compiler, monkeypatch):
    """Another process may clear the cache between the check and the load."""
    answers = iter([True])  # "it is whole", of a file that is gone
    is_whole = cache.is_whole
    monkeypatch.setattr(cache, "is_whole", lambda path: next(answers, None) or is_whole(path))
    assert cxx.load(ANSWER, "sim").answer() == 42
    assert compiler.count == 1


def test_entry_that_cannot_be_loaded_is_not_kept(folder, tmp_path, monkeypatch):
    """Such as one of a compiler for another processor."""
    script = write_command(
        tmp_path / "text-c++",
        'while [ "$1" != -o ]; do shift; done\necho "int answer" > "$2"',
    )
    monkeypatch.setenv("NNKERNELS_CXX", str(script))
    with pytest.raises(BackendError, match=r"cannot be loaded .*NNKERNELS_CXX") as caught:
        cxx.load(ANSWER, "sim")
    assert "NNKERNELS_CACHE_DIR" in str(caught.value)
    assert names(folder) == []


# ---- what makes another entry --------------------------------------------------------------


def test_key_holds_flags_machine_and_compiler(folder, compiler, monkeypatch):
    paths = [cxx.shared_library(ANSWER, "sim"), cxx.shared_library(ANSWER, "cpu")]
    paths.append(cxx.shared_library(ANSWER, "sim", ("-DNNK_SIM_WARP=64",)))
    monkeypatch.setenv("NNKERNELS_CXXFLAGS", "-O0")
    paths.append(cxx.shared_library(ANSWER, "sim"))
    monkeypatch.delenv("NNKERNELS_CXXFLAGS")
    # One program, as with ccache, and another compiler.
    monkeypatch.setenv("NNKERNELS_CXX", f"{compiler.path} -g")
    paths.append(cxx.shared_library(ANSWER, "sim"))
    assert len(set(paths)) == compiler.count == len(paths)


def test_edited_header_is_compiled_anew(tmp_path, compiler):
    copy = tmp_path / "copy"
    for tree in ("nnkernels", "cuda_src", "hip_src"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / tree, copy / tree, ignore=ignore)
    script = f"{RELU}\nassert nnk.__file__.startswith({str(copy)!r})"

    def run():
        before = compiler.count
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={
                **environment(NNKERNELS_CACHE_DIR=tmp_path / "cache"),
                "NNKERNELS_CXX": str(compiler.path),
                "PYTHONPATH": str(copy),
            },
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return compiler.count - before

    assert run() == 2
    assert run() == 0
    header = copy / "cuda_src" / "nnk" / "types.cuh"
    header.write_text(header.read_text() + "// edited\n")
    assert run() == 2
    assert run() == 0


# ---- directories that cannot be written ----------------------------------------------------


@pytest.mark.parametrize("below", ["a file", "a device", "a link to itself"])
def test_unwritable_directory(tmp_path, monkeypatch, below):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    path = {
        "a file": tmp_path / "file" / "cache",
        "a device": "/dev/null/cache",
        "a link to itself": tmp_path / "loop",
    }[below]
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(path))
    machine = CpuMachine()
    with pytest.raises(BackendError, match="NNKERNELS_CACHE_DIR") as caught:
        relu_in(machine)
    assert f"{path} cannot be written" in str(caught.value)
    # The next call looks again.
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path / "cache"))
    relu_in(machine)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_without_permission(folder):
    folder.mkdir(mode=0o555)
    with pytest.raises(BackendError, match="NNKERNELS_CACHE_DIR"):
        relu_in(CpuMachine())


def test_directory_of_nobody(monkeypatch):
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", "~nobody-of-this-name/cache")
    with pytest.raises(BackendError, match=r"NNKERNELS_CACHE_DIR is '~nobody-of-this-name/cache'"):
        relu_in(CpuMachine())


def test_full_disk(folder, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache, "seal", full)
    with pytest.raises(BackendError, match=r"cannot be written.*No space left") as caught:
        cxx.shared_library(ANSWER, "sim")
    assert "NNKERNELS_CACHE_DIR" in str(caught.value)
    assert names(folder) == []


def test_relative_directory(tmp_path, monkeypatch, compiler):
    """Another working directory is not another cache."""
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", "relative")
    cache._directory.cache_clear()
    monkeypatch.chdir(tmp_path)
    first = cxx.shared_library(ANSWER, "sim")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cxx.shared_library(ANSWER, "sim") == first == tmp_path / "relative" / first.name
    assert compiler.count == 1
    cache._directory.cache_clear()


# ---- several at once -----------------------------------------------------------------------

EIGHT_THREADS = """
import sys, threading, time
from pathlib import Path
import numpy as np, nnkernels as nnk

go, ready = Path(sys.argv[1]), Path(sys.argv[2])
x = np.linspace(-1, 1, 200_000, dtype=np.float32)
start = threading.Barrier(8)
wrong = []

def work():
    start.wait()
    try:
        if not np.array_equal(nnk.relu(x), x.clip(0)):
            wrong.append("result")
    except Exception as error:
        wrong.append(repr(error))

threads = [threading.Thread(target=work) for _ in range(8)]
ready.touch()
while not go.exists():
    time.sleep(0.001)
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not wrong, wrong
"""


def test_two_processes_with_eight_threads_each(tmp_path, folder, compiler):
    go, signs = tmp_path / "go", [tmp_path / "ready0", tmp_path / "ready1"]
    variables = {"NNKERNELS_CACHE_DIR": folder, "NNKERNELS_CXX": compiler.path}
    processes = [start_python(EIGHT_THREADS, go, sign, **variables) for sign in signs]
    while not all(sign.exists() for sign in signs):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.001)
    go.touch()
    for process in processes:
        finish(process)
    # One compile for each of the two libraries in each process, or fewer if the other was first.
    asked = compiler.processes
    assert 2 <= len(asked) <= 4
    assert all(asked.count(process) <= 2 for process in asked)
    assert len(names(folder)) == 2
    assert all(re.fullmatch(r"cpu-[0-9a-f]{32}\.so", name) for name in names(folder))
    assert all(cache.is_whole(folder / name) for name in names(folder))


def test_process_killed_in_a_compile(tmp_path, folder):
    """The next one builds the entry, and what the first left is swept away in time."""
    mark = tmp_path / "kill"
    mark.touch()
    script = write_command(
        tmp_path / "deadly-c++",
        f'if [ ! -e {mark} ]; then exec {SYSTEM_COMPILER} "$@"; fi\n'
        'while [ "$1" != -o ]; do shift; done\necho half > "$2"\nkill -KILL $PPID',
    )
    variables = {"NNKERNELS_CACHE_DIR": folder, "NNKERNELS_CXX": script}
    process = start_python(RELU, **variables)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    left = names(folder)
    assert left
    assert all(name.startswith("nnkernels-build-") for name in left)
    mark.unlink()
    run_python(RELU, **variables)
    assert set(left) < set(names(folder))  # it might still be at work
    for name in left:
        os.utime(folder / name, (time.time() - 3 * 24 * 3600,) * 2)
    run_python(RELU.replace("relu", "tanh").replace("x.clip(0)", "nnk.tanh(x)"), **variables)
    assert not set(left) & set(names(folder))


def test_only_old_build_directories_are_swept(folder):
    folder.mkdir()
    days = {"nnkernels-build-old": 2, "nnkernels-build-new": 0.5, "build-of-somebody": 9}
    for name, age in days.items():
        (folder / name).mkdir()
        (folder / name / "kernel.cc").write_text("")
        os.utime(folder / name, (time.time() - age * 24 * 3600,) * 2)
    path = cxx.shared_library(ANSWER, "sim")
    assert names(folder) == sorted(["nnkernels-build-new", "build-of-somebody", path.name])


# ---- clear_cache ---------------------------------------------------------------------------


def test_clear_cache(folder, compiler):
    machine = CpuMachine()
    relu_in(machine)
    entries = names(folder)
    others = ["notes.txt", "library.so", "build-debug", "cpu-notes.so"]
    for name in others:
        (folder / name).write_text("of somebody else")
    nnk.clear_cache()
    assert len(entries) == compiler.count == 2
    assert names(folder) == sorted(others)
    relu_in(machine)  # what is loaded stays in use
    assert compiler.count == 2
    relu_in(CpuMachine())
    assert compiler.count == 4
    assert names(folder) == sorted([*entries, *others])


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_clear_cache_without_a_cache(folder, kind):
    if kind == "a file":
        folder.write_text("not ours")
    nnk.clear_cache()
    assert folder.exists() == (kind == "a file")


def test_clear_cache_that_fails(folder, monkeypatch):
    cxx.shared_library(ANSWER, "sim")

    def refuse(self, missing_ok=False):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(BackendError, match="NNKERNELS_CACHE_DIR"):
        nnk.clear_cache()


def test_the_fingerprint_sees_names_and_contents_of_headers(tmp_path):
    header = tmp_path / "nnk" / "a.cuh"
    header.parent.mkdir()
    (tmp_path / "platform").mkdir()
    header.write_text("1")
    found = [hash_of([tmp_path])]
    (tmp_path / "nnk" / "notes.txt").write_text("of no interest")
    assert hash_of([tmp_path]) == found[0] == hash_of([str(tmp_path)])
    header.write_text("2")
    found.append(hash_of([tmp_path]))
    header.rename(tmp_path / "nnk" / "b.cuh")
    found.append(hash_of([tmp_path]))
    (tmp_path / "nnk" / "b.cuh").rename(tmp_path / "platform" / "b.cuh")
    found.append(hash_of([tmp_path]))
    (tmp_path / "platform" / "c.cc").write_text("")
    found.append(hash_of([tmp_path]))
    assert len(set(found)) == len(found)
