"""What a person gets who installs nnkernels, away from the repository and without a network."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

import nnkernels
from nnkernels.registry import all_ops

ROOT = Path(__file__).resolve().parent.parent
HEADER_TREES = ("cuda_src", "hip_src")


def run(*command, cwd, timeout=600, **variables):
    """Run a command in `cwd` with more environment variables; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | {name: str(value) for name, value in variables.items()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def not_source(directory, names):
    """Return the names that a fresh clone would not have, for shutil.copytree."""
    made = {"build", "dist", "__pycache__", ".git"}
    return [
        name
        for name in names
        if name in made
        or name.endswith((".egg-info", "_cache", ".pyc"))
        or (Path(directory) / name / "pyvenv.cfg").is_file()
    ]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build the source distribution, and the wheel from it: a file missing there fails here.

    In a copy, because setuptools leaves `build/` behind and would pack its stale files.
    """
    directory = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, directory / "source", ignore=not_source)
    run(
        *(sys.executable, "-m", "build", "--no-isolation"),
        *("--outdir", directory / "dist", directory / "source"),
        cwd=directory,
    )
    (source,) = (directory / "dist").glob("*.tar.gz")
    (wheel,) = (directory / "dist").glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def wheel_names(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def source_names(distributions):
    with tarfile.open(distributions[0]) as source:
        return {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in source.getnames()}


@pytest.fixture
def installed(distributions, tmp_path):
    """Install the wheel; return a runner of Python in an empty directory that sees it."""
    target, empty = tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-index", "--target", target, distributions[1]),
        cwd=empty,
    )

    def python(*arguments):
        # The target comes before site-packages and before an editable install's import hook.
        cache = tmp_path / "cache"
        return run(
            sys.executable, *arguments, cwd=empty, PYTHONPATH=target, NNKERNELS_CACHE_DIR=cache
        )

    python.target = target
    return python


def headers():
    """Return the paths of all headers, from the top of the repository."""
    found = [p for tree in HEADER_TREES for p in (ROOT / tree).rglob("*") if p.is_file()]
    assert len(found) > 10, "the header trees have moved"
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


# ---- what the archives hold ------------------------------------------------------------


def test_wheel_holds_every_header(wheel_names):
    packed = {name for name in wheel_names if name.startswith(("nnkernels/cuda", "nnkernels/hip"))}
    assert packed == {f"nnkernels/{path}" for path in headers()}


def test_wheel_holds_every_module(wheel_names):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nnkernels").rglob("*.py")}
    packed = {name for name in wheel_names if name.endswith(".py")}
    assert packed == modules, "name every package under `packages` in setup.cfg"
    assert "nnkernels/py.typed" in wheel_names


def test_wheel_holds_nothing_else(wheel_names):
    tops = {PurePosixPath(name).parts[0] for name in wheel_names}
    assert tops == {"nnkernels", f"nnkernels-{nnkernels.__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_source_distribution_can_be_tested(source_names):
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    expected = {*tests, *headers(), "Makefile", "setup.cfg", "pyproject.toml", "LICENSE"}
    expected |= {"examples/digits.py", ".clang-format", ".ci/run"}
    assert not expected - source_names
    assert not [name for name in source_names if "__pycache__" in name]


# ---- the wheel at work -----------------------------------------------------------------


def test_installed_wheel_runs(installed):
    assert nnkernels.__version__ in installed("-m", "nnkernels", "info")
    # An op of each family: all of them run in other tests, from headers that are the same.
    families = {op.family: op.name for op in reversed(all_ops().values())}
    assert len(families) > 5
    ops = ",".join(families.values())
    tested = installed("-m", "nnkernels", "selftest", "--quick", "--op", ops)
    assert f"{len(families)} of {len(families)} ops are right" in tested


def test_installed_wheel_uses_its_own_headers(installed):
    printed = installed(
        "-c", "import nnkernels; print(nnkernels.__file__); print(nnkernels.get_include())"
    )
    module, include = map(Path, printed.splitlines())
    assert module.is_relative_to(installed.target)
    assert include.is_relative_to(installed.target)
    assert (include / "nnk" / "types.cuh").is_file()


# ---- the installed metadata ------------------------------------------------------------


def test_version_is_the_same_in_metadata():
    assert metadata.version("nnkernels") == nnkernels.__version__


def test_import_leaves_optional_libraries_alone(tmp_path):
    heavy = {"cupy", "torch", "jax", "scipy", "hypothesis", "pytest", "matplotlib", "sklearn"}
    printed = run(
        *(sys.executable, "-c", "import sys, nnkernels; print(*sys.modules)"), cwd=tmp_path
    )
    loaded = set(printed.split())
    assert "nnkernels" in loaded
    assert not loaded & heavy
