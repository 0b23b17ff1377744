"""Options, Hypothesis profiles and the ``backend`` parameter of all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib

import pytest
from backends import BATCHES, Backend
from hypothesis import HealthCheck, settings

from nnkernels.compile.instance import Instance
from nnkernels.config import (
    conv_simt,
    conv_tensor,
    elementwise,
    gemv,
    matmul,
    matmul_atoms,
    matmul_small,
    matmul_tensor,
    matmul_tiles,
    rows,
)
from nnkernels.dispatch import machines

DEFAULT_BACKENDS = ("cpu", "sim:sm_80", "sim:sm_90", "sim:gfx90a", "sim:gfx1100")
# Its kernels are those of sm_90, but for the products that tests with the marker `warpgroups` make.
WARPGROUPS = "sim:sm_90a"

# Every launch on a CPU looks whether its kernel wrote past its scratch memory.
os.environ["NNKERNELS_GUARD_SCRATCH"] = "1"

# An example may compile a kernel, which takes as long as a thousand other examples.
_COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
# The same few examples in every run: what `make test` uses, and the default. It takes the place
# of Hypothesis's own profile of that name.
settings.register_profile("ci", max_examples=16, derandomize=True, database=None, **_COMMON)
# Hours: python -m pytest --hypothesis-profile=deep
settings.register_profile("deep", max_examples=3000, **_COMMON)
settings.load_profile("ci")

# Files of tests with many kernels for a CPU, and with properties of the source: in profile "ci"
# these are compiled with less optimization, which takes two thirds of the time. As users have them,
# kernels of the same templates are run by the tests of models, convergence, examples and selftest.
QUICKLY_COMPILED = {
    *("test_conv", "test_conv_complex", "test_conv_direct", "test_conv_joined", "test_conv_lines"),
    *("test_conv_pointwise", "test_conv_runs", "test_conv_weight", "test_conv_weight_lines"),
    *("test_conv_winograd", "test_conv_words", "test_epilogues", "test_matmul_dot"),
    *("test_matmul_regimes", "test_pool", "test_pool_large", "test_batch_norm", "test_elementwise"),
    *("test_norm", "test_norm_backward", "test_windows", "test_grid_sample", "test_vjp"),
    *("test_gemm", "test_interop_torch", "test_matmul", "test_matmul_small", "test_matmul_splits"),
    *("test_mlp", "test_rows", "test_functions_in_rows", "test_pool_options", "test_pool_pairs"),
    *("test_fuse", "test_gemv", "test_interop_autograd"),
}
CXXFLAGS = "NNKERNELS_CXXFLAGS"
# The second one lets GCC contract products and sums, as it does in kernels that users have: those
# of one function that differ in how they read memory give the same bits then.
QUICKLY = "-O1 -fexpensive-optimizations"


def pytest_addoption(parser):
    parser.addoption(
        "--backend",
        action="append",
        metavar="NAME[,NAME...]",
        help=f"machines to test: {', '.join(DEFAULT_BACKENDS)} (the default) or cupy",
    )
    parser.addoption(
        "--only-backend",
        action="store_true",
        help="only the tests that run on the machines of --backend",
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "dtypes(of=function): the dtypes to test, given the architecture of a machine"
    )
    config.addinivalue_line(
        "markers",
        "in_turn(by='warp'): on one simulated machine, or one of each width of a warp, another for "
        "another test, or on none (by='none'); what is tested is the same source on all of them. "
        "Profile deep, and machines that --backend names: on all",
    )
    config.addinivalue_line(
        "markers", "warpgroups: also on the simulated machine whose warps multiply four at a time"
    )
    if not os.environ.get(BATCHES):  # worker processes inherit it
        config.own_batches = os.environ[BATCHES] = tempfile.mkdtemp(prefix="nnkernels-batches-")
    # Tests of one file share compiled kernels: one worker runs them all, or two compile the same
    # kernel at once. Files in their order: those with the most tests are not the longest.
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False


def pytest_unconfigure(config):
    if hasattr(config, "own_batches"):
        shutil.rmtree(config.own_batches, ignore_errors=True)
        del os.environ[BATCHES]


def _backends(config):
    given = config.getoption("backend")
    if not given:
        return DEFAULT_BACKENDS
    return tuple(name for option in given for name in option.split(","))


def _parameter(name):
    marks = ()
    if name == "cupy":
        reason = _why_no_gpu()
        marks = (pytest.mark.skip(reason=reason),) if reason else ()
    return pytest.param(Backend(name), marks=marks, id=name)


def _why_no_gpu():
    try:
        import cupy
    except ImportError as error:
        return f"CuPy is not installed: {error}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy finds no GPU: {error}"
    return "" if count else "CuPy finds no GPU"


def pytest_generate_tests(metafunc):
    wanted = {
        "backend": lambda name: True,
        # The configuration of a GPU, whose blocks have many threads.
        "simulator": lambda name: name.startswith("sim"),
        "cpu": lambda name: name == "cpu",
    }
    for argument, belongs in wanted.items():
        if argument in metafunc.fixturenames:
            names = [name for name in _backends(metafunc.config) if belongs(name)]
            marked = metafunc.definition.get_closest_marker("warpgroups") is not None
            if marked and argument == "simulator" and not metafunc.config.getoption("backend"):
                names.append(WARPGROUPS)
            _parametrize(metafunc, argument, names)


def _parametrize(metafunc, argument, names):
    """By machines, or by those pairs of a machine and a dtype that a marker of the test names."""
    marker = metafunc.definition.get_closest_marker("dtypes")
    if marker is None:
        metafunc.parametrize(argument, [_parameter(name) for name in names])
        return
    backends = [Backend(name) for name in names]
    pairs = [(b, dtype) for b in backends for dtype in marker.kwargs["of"](b.device.arch)]
    ids = [f"{b.name}-{dtype}" for b, dtype in pairs]
    metafunc.parametrize((argument, "dtype"), pairs, ids=ids)


def pytest_collection_modifyitems(config, items):
    thins = settings.default.derandomize and not config.getoption("backend")
    left_out = [item for item in items if thins and not _is_its_turn(item)]
    if config.getoption("--only-backend"):
        left_out += [item for item in items if not _machine_of(item)]
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]


def _machine_of(item):
    """The machine that a test runs on, if it is of the parameter ``backend`` or like it."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    found = [parameters.get(name) for name in ("backend", "simulator", "cpu")]
    return next((machine for machine in found if isinstance(machine, Backend)), None)


def _is_its_turn(item):
    """Whether a test that is marked so runs on its machine; see the marker ``in_turn``."""
    marker, machine = item.get_closest_marker("in_turn"), _machine_of(item)
    if marker is None or not machine or not machine.name.startswith("sim"):
        return True
    if machine.name == WARPGROUPS:
        return True
    if marker.kwargs.get("by") == "none":
        return False
    names = [name for name in DEFAULT_BACKENDS if name.startswith("sim")]
    if marker.kwargs.get("by") == "warp":
        names = [name for name in names if Backend(name).device.warp == machine.device.warp]
    turn = zlib.crc32(item.nodeid.replace(machine.name, "").encode()) // 7
    return machine.name == names[turn % len(names)]


@pytest.fixture(autouse=True)
def small_products_by_warpgroups(request, monkeypatch):
    """Where warps multiply four at a time, also results of a few rows and columns."""
    machine = _machine_of(request.node)
    if machine is None or machine.name != WARPGROUPS:
        yield
        return
    monkeypatch.setattr(matmul_atoms, "_LEAST_OF_WARPGROUP", 16)
    machine.machine.plans.clear()
    yield
    machine.machine.plans.clear()


@pytest.fixture(scope="module", autouse=True)
def quickly_compiled(request):
    """Less optimization where QUICKLY_COMPILED says so; kernels are not mixed with others."""
    chosen = request.path.stem in QUICKLY_COMPILED and CXXFLAGS not in os.environ
    if not (chosen and settings.default.derandomize):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CXXFLAGS, QUICKLY)
        _forget_kernels()
        yield
    _forget_kernels()


def _forget_kernels():
    machine = machines.cpu_machine()
    machine.set_num_threads(machine.num_threads)
    machine._kernels._values.clear()


# ---- what is chosen ------------------------------------------------------------------------------


def _forget_plans(config):
    names = {"cpu", *_backends(config)} - ({"cupy"} if _why_no_gpu() else set())
    for name in names:
        Backend(name).machine.plans.clear()


@pytest.fixture
def chosen(monkeypatch, pytestconfig):
    """The configurations that calls choose; plans of earlier calls do not count."""
    found = []
    for module in (conv_simt, conv_tensor, elementwise, gemv, matmul, rows):

        def configure(problem, device, original=module.configure):
            choice = original(problem, device)
            if choice is not None:
                found.append(choice)
            return choice

        monkeypatch.setattr(module, "configure", configure)
    _forget_plans(pytestconfig)
    return found


@pytest.fixture
def kernels(monkeypatch, pytestconfig):
    """The names of the kernels that new plans ask for; plans of earlier calls do not count."""
    made = []
    original = Instance.__post_init__

    def note(self):
        original(self)
        made.append(self.kernel.partition("<")[0])

    monkeypatch.setattr(Instance, "__post_init__", note)
    _forget_plans(pytestconfig)
    return made


@pytest.fixture
def ordinary_products(monkeypatch, pytestconfig):
    """Products in slices by ordinary arithmetic, also where there is a kernel of another kind."""
    for module in (conv_tensor, matmul_tensor):
        monkeypatch.setattr(module, "configure", lambda problem, device: None)
    monkeypatch.setattr(matmul_tiles, "is_possible", lambda problem, device: False)
    monkeypatch.setattr(matmul_small, "is_small", lambda problem: False)
    _forget_plans(pytestconfig)
    yield
    _forget_plans(pytestconfig)
