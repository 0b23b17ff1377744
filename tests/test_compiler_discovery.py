"""Finding a C++ compiler, one that fails, another one than usual, and none at all."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from processes import SYSTEM_COMPILER, run_python, write_command

import nnkernels as nnk
from nnkernels import BackendError, CompileError
from nnkernels.compile import cxx
from nnkernels.dispatch import machines
from nnkernels.launch.cpu import CpuMachine

X = np.linspace(-1, 1, 50, dtype=np.float32)

needs_compiler = pytest.mark.skipif(SYSTEM_COMPILER is None, reason="no C++ compiler")


@pytest.fixture
def bin_directory(tmp_path, monkeypatch):
    """An empty directory as the only one in which commands are looked for."""
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.delenv("NNKERNELS_CXX", raising=False)
    monkeypatch.setenv("PATH", str(path))
    return path


@pytest.fixture(autouse=True)
def own_directories(tmp_path, monkeypatch):
    """Cache and temporary directory of this test's own."""
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def relu_in(machine):
    with machines.use_machine(machine):
        return nnk.relu(X)


# ---- which one -----------------------------------------------------------------------------


def test_order(bin_directory, monkeypatch):
    zig = SimpleNamespace(origin=__file__)
    monkeypatch.setattr(cxx, "find_spec", lambda name: zig if name == "ziglang" else None)
    commands = [write_command(bin_directory / name, "exit 0") for name in ("c++", "g++", "clang++")]
    for command in commands:
        cxx._find_compiler.cache_clear()
        assert cxx.find_compiler().command == (str(command),)
        command.unlink()
    cxx._find_compiler.cache_clear()
    assert cxx.find_compiler().command == (sys.executable, "-m", "ziglang", "c++")
    monkeypatch.setattr(cxx, "find_spec", lambda name: None)
    cxx._find_compiler.cache_clear()
    assert cxx.find_compiler() is None
    cxx._find_compiler.cache_clear()


def test_variable_comes_first(bin_directory, monkeypatch):
    for name in ("c++", "mine"):
        write_command(bin_directory / name, "echo version 7; echo more")
    monkeypatch.setenv("NNKERNELS_CXX", "mine -m32 '-DX=a b'")
    found = cxx.find_compiler()
    assert found.command == (str(bin_directory / "mine"), "-m32", "-DX=a b")
    assert found.version() == "version 7"
    monkeypatch.setenv("NNKERNELS_CXX", "mine")
    assert cxx.find_compiler().identity != found.identity


def test_relative_path(bin_directory, tmp_path, monkeypatch):
    """The command must be found when the working directory is another one."""
    write_command(bin_directory / "c++", "exit 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "bin")
    cxx._find_compiler.cache_clear()
    assert cxx.find_compiler().command == (str(bin_directory / "c++"),)
    cxx._find_compiler.cache_clear()


@pytest.mark.parametrize("value", ["no-such-compiler", " ", "/", "/dev/null", "g++ 'unbalanced"])
def test_variable_that_names_nothing(monkeypatch, value):
    monkeypatch.setenv("NNKERNELS_CXX", value)
    with pytest.raises(BackendError, match="NNKERNELS_CXX is") as caught:
        relu_in(CpuMachine())
    assert repr(value) in str(caught.value)


# A convolution needs more scratch memory where registers have fewer lanes.
OLDER_PROCESSOR = """
import numpy as np
import nnkernels as nnk
from nnkernels.dispatch import machines
x = np.random.default_rng(0).integers(-4, 5, (2, 19, 9, 10)).astype(np.complex64)
w = np.random.default_rng(1).integers(-4, 5, (7, 19, 3, 3)).astype(np.complex64)
y = nnk.conv(x, w, padding=1)
with nnk.use_backend("reference"):
    assert (nnk.conv(x, w, padding=1) == y).all()
print(machines.machine_named("cpu").device.vector_bytes)
"""


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of processors of x86")
@pytest.mark.parametrize(("processor", "most"), [("x86-64-v3", 32), ("x86-64-v2", 16)])
def test_registers_are_those_that_the_flags_name(processor, most):
    flags = f"-O1 -march={processor}"
    found = run_python(OLDER_PROCESSOR, NNKERNELS_CXXFLAGS=flags, NNKERNELS_GUARD_SCRATCH="1")
    assert int(found) == min(most, CpuMachine().device.vector_bytes)


def test_flags_that_cannot_be_split(monkeypatch):
    monkeypatch.setenv("NNKERNELS_CXXFLAGS", '-DX="')
    with pytest.raises(BackendError, match="NNKERNELS_CXXFLAGS is"):
        relu_in(CpuMachine())


# ---- one that fails ------------------------------------------------------------------------

BROKEN = {
    "fails": (
        "echo 'kernel.cc:7: error: no such thing' >&2; exit 1",
        ["failed with exit status 1", "kernel.cc:7: error: no such thing"],
    ),
    "fails in silence": ("exit 3", ["failed with exit status 3", "(no output)"]),
    "crashes": ("echo at work; kill -SEGV $$", ["was killed by SIGSEGV", "at work"]),
    "writes nothing": ("exit 0", ["reported success but wrote no file"]),
    "prints no text": (
        r"printf 'error: \377\376' >&2; exit 1",
        ["error: \N{REPLACEMENT CHARACTER}"],
    ),
    "asks": ("read answer || echo 'error: nobody answers' >&2; exit 1", ["nobody answers"]),
}


@needs_compiler
@pytest.mark.parametrize(("script", "says"), BROKEN.values(), ids=BROKEN)
def test_broken_compiler(tmp_path, monkeypatch, script, says):
    command = write_command(tmp_path / "broken-c++", script)
    monkeypatch.setenv("NNKERNELS_CXX", str(command))
    machine = CpuMachine()
    with pytest.raises(CompileError) as caught:
        relu_in(machine)
    error = caught.value
    for words in (*says, "broken-c++", "source: ", "command: "):
        assert words in str(error)
    source = Path(error.source_path)
    assert f"source: {source}" in str(error)
    assert source.parent == tmp_path / "temporary"
    # Either library may fail first: they are compiled side by side.
    assert "NNK_ENTRY" in source.read_text() or "nnk_run" in source.read_text()
    assert isinstance(error.log, str)
    assert ("error" in error.log) == ("error" in script)
    assert not list((tmp_path / "cache").iterdir())
    # The compiler is repaired, under the same name, and the same machine goes on.
    write_command(command, f'exec {SYSTEM_COMPILER} "$@"')
    assert np.array_equal(relu_in(machine), X.clip(0))


def test_command_that_cannot_start(tmp_path, monkeypatch):
    command = tmp_path / "no-program"
    command.write_bytes(b"\x7fELF and no more")
    command.chmod(0o755)
    monkeypatch.setenv("NNKERNELS_CXX", str(command))
    with pytest.raises(CompileError, match=r"could not be started.*no-program") as caught:
        cxx.load("int x;", "sim")
    assert Path(caught.value.source_path).read_text() == "int x;"


def test_source_that_cannot_be_kept(tmp_path, monkeypatch):
    """Where even the temporary directory is full, the compiler's message still arrives."""
    monkeypatch.setenv("NNKERNELS_CXX", str(write_command(tmp_path / "broken", "exit 1")))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(CompileError, match="exit status 1") as caught:
        cxx.load("int x;", "sim")
    assert caught.value.source_path == ""


# ---- none ----------------------------------------------------------------------------------

WITHOUT_COMPILER = """
import json, sys, warnings
import numpy as np
import nnkernels as nnk
from nnkernels.compile import cxx

cxx.find_spec = lambda name: None  # nor the ziglang package
x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    first = nnk.softmax(x)
    out = np.empty_like(x)
    assert nnk.relu(x, out=out) is out
    y, pullback = nnk.vjp(nnk.logsumexp, x, axis=0)
    (gradient,) = pullback(np.ones(4, np.float32))
    product = nnk.matmul(x, x.T)
    threads = []
    import threading
    for _ in range(4):
        threads.append(threading.Thread(target=nnk.tanh, args=(x,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
assert np.allclose(first, np.exp(x) / np.exp(x).sum(-1, keepdims=True), rtol=1e-6)
assert np.array_equal(out, x.clip(0))
assert np.allclose(y, np.log(np.exp(x).sum(0)), rtol=1e-6)
assert np.allclose(gradient, np.exp(x) / np.exp(x).sum(0), rtol=1e-6)
assert np.allclose(product, x @ x.T, rtol=1e-6)
try:
    nnk.softmax(x, axis=5)
except nnk.ShapeError as error:
    refused = str(error)
try:
    with nnk.use_backend("cpu"):
        nnk.relu(x)
except nnk.BackendError as error:
    cpu = str(error)
print(json.dumps({
    "warnings": [(w.category.__name__, str(w.message), w.filename) for w in caught],
    "refused": refused, "cpu": cpu,
}))
"""


def test_no_compiler(tmp_path):
    (tmp_path / "empty").mkdir()
    said = json.loads(run_python(WITHOUT_COMPILER, PATH=tmp_path / "empty"))
    ((category, message, filename),) = said["warnings"]
    assert category == "RuntimeWarning"
    assert "no C++ compiler" in message
    assert "reference" in message
    assert filename == "<string>"  # the caller, not nnkernels
    assert "axis 5 is out of range" in said["refused"]
    assert "no C++ compiler" in said["cpu"]


def test_no_compiler_with_warnings_as_errors(tmp_path):
    """The warning is raised once; after it, the references work."""
    (tmp_path / "empty").mkdir()
    run_python(
        """
import warnings, numpy as np, nnkernels as nnk
from nnkernels.compile import cxx
cxx.find_spec = lambda name: None
warnings.simplefilter("error")
x = np.ones(3)
try:
    nnk.relu(x)
except RuntimeWarning:
    assert nnk.relu(x).tolist() == [1, 1, 1]
else:
    raise AssertionError("no warning")
""",
        PATH=tmp_path / "empty",
    )


# ---- others --------------------------------------------------------------------------------

SMOKE = """
import numpy as np
import nnkernels as nnk
from nnkernels import registry
from nnkernels.compile.cxx import find_compiler
from nnkernels.reference.tolerance import assert_close

import sys
assert sys.argv[1] in " ".join(find_compiler().command), find_compiler()
rng = np.random.default_rng(5)

def arrays(dtype, *shapes):
    return [rng.uniform(-2, 2, shape).astype(dtype) for shape in shapes]

calls = [
    (nnk.gelu, arrays("f4", (300, 70)), {}),
    (nnk.tanh, arrays("f2", (40, 50)), {}),
    (nnk.relu, [np.arange(-50, 50, dtype="i1")], {}),
    (nnk.softmax, arrays("f4", (30, 400)), {}),
    (nnk.log_softmax, arrays("f8", (30, 40)), {"axis": 0}),
    (nnk.matmul, arrays("f4", (20, 30), (30, 25)), {}),
]
# A compile takes a second or two: not all of them for every machine.
chosen = {"cpu": calls, "sim:sm_90": calls[3::2], "sim:gfx90a": calls[4:5]}
if sys.argv[1] == "ziglang":  # which takes ten
    chosen = {"cpu": calls[3::2]}
for backend in chosen:
    with nnk.use_backend(backend):
        for function, operands, options in chosen[backend]:
            result = function(*operands, **options)
            wanted = registry.find(function.__name__).reference(*operands, **options)
            assert_close(result, wanted, 30, what=f"{function.__name__} on {backend}")
print("fine")
"""


def clang():
    names = ["clang++", *(f"clang++-{version}" for version in range(22, 10, -1))]
    return next((name for name in names if shutil.which(name)), None)


@pytest.mark.skipif(clang() is None, reason="no clang++ is installed")
def test_clang(tmp_path):
    printed = run_python(
        SMOKE, "clang", NNKERNELS_CXX=clang(), NNKERNELS_CACHE_DIR=tmp_path / "cache"
    )
    assert printed == "fine\n"


@pytest.mark.skipif(find_spec("ziglang") is None, reason="the ziglang package is not installed")
def test_ziglang(tmp_path):
    (tmp_path / "empty").mkdir()
    printed = run_python(
        SMOKE,
        "ziglang",
        seconds=900,  # its first compile builds a C++ library
        PATH=tmp_path / "empty",
        NNKERNELS_CACHE_DIR=tmp_path / "cache",
        ZIG_GLOBAL_CACHE_DIR=os.environ.get("ZIG_GLOBAL_CACHE_DIR", tmp_path / "zig"),
    )
    assert printed == "fine\n"
