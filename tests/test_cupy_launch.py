"""The way of CuPy arrays from a public function to a launch, on a stand-in for CuPy.

No GPU is needed: see fake_cupy.py. What a kernel computes is tested elsewhere; here it is that the
right kernel gets the right arguments, on the right device.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import fake_cupy
import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import registry
from nnkernels.compile.instance import Instance
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.errors import BackendError, CompileError, DTypeError, ShapeError
from nnkernels.launch import gpu
from nnkernels.reference.tolerance import assert_close


@pytest.fixture
def cupy(monkeypatch) -> Iterator[Any]:
    """A device whose kernels CuPy compiles; others: `warpgroups`."""
    monkeypatch.setenv("NNKERNELS_GPU_ARCH", "sm_90")
    with fake_cupy.installed() as module:
        yield module


def numbers(shape, dtype="float32", seed=0):
    drawn = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(drawn).astype(numpy_dtype(dtype))


# Views as functions of a dense array, so that both libraries can take them.
VIEWS = {
    "dense": lambda x: x,
    "transposed": lambda x: x.swapaxes(-1, -2),
    "strided": lambda x: x[:, ::2],
    "reversed": lambda x: x[::-1, ::-1],
    # 4 bytes after an aligned address, and rows that are no multiple of 16 bytes apart.
    "misaligned": lambda x: x[:, 1:],
}
ONE_ARRAY = (
    *(("relu", {}, view) for view in VIEWS),
    *(("softmax", {"axis": -1}, view) for view in VIEWS),
    ("softmax", {"axis": 0}, "strided"),
    ("gelu", {"approximate": "tanh"}, "dense"),
    ("log_softmax", {"axis": (0, 1)}, "transposed"),
    ("logsumexp", {"axis": 0, "keepdims": True}, "reversed"),
)
SEVERAL_ARRAYS = (
    ("swiglu", 2, {}), ("tanh_backward", 2, {}), ("softmax_backward", 2, {"axis": -1}),
    ("log_softmax_backward", 2, {"axis": 0}), ("geglu_backward", 3, {}), ("matmul", 2, {}),
)  # fmt: skip


@pytest.mark.parametrize(("name", "options", "view"), ONE_ARRAY, ids=str)
def test_one_array(cupy, name, options, view):
    host = numbers((12, 18))
    view = VIEWS[view]
    result = getattr(nnk, name)(view(cupy.asarray(host)), **options)
    assert type(result) is cupy.ndarray
    assert cupy.recorded.launches
    expected = registry.find(name).reference(view(host), **options)
    assert_close(result.get(), expected, 12 * 18)


@pytest.mark.parametrize(("name", "count", "options"), SEVERAL_ARRAYS, ids=str)
def test_several_arrays(cupy, name, count, options):
    host = [numbers((16, 16), seed=seed) for seed in range(count)]
    results = getattr(nnk, name)(*(cupy.asarray(x) for x in host), **options)
    expected = registry.find(name).reference(*host, **options)
    check_all(cupy, results, expected)
    # and each argument in another layout
    square = [numbers((17, 33), seed=seed) for seed in range(count)]
    cut = [lambda x: x[:16, :16], lambda x: x[::-1, :16][:16], lambda x: x[1:, 1:17]]
    mixed = [cut[i % 3] for i in range(count)]
    results = getattr(nnk, name)(
        *(f(cupy.asarray(x)) for f, x in zip(mixed, square, strict=True)), **options
    )
    expected = registry.find(name).reference(
        *(f(x) for f, x in zip(mixed, square, strict=True)), **options
    )
    check_all(cupy, results, expected)


def check_all(cupy, results, expected):
    if not isinstance(results, tuple):
        results, expected = (results,), (expected,)
    for result, wanted in zip(results, expected, strict=True):
        assert type(result) is cupy.ndarray
        assert_close(result.get(), wanted, 64)


# Ops whose kernels look into tables, which are brought to the GPU with the plan.
TABLED = (
    ("pad", (2, 3, 8, 9), (((0, 0), (0, 0), (1, 2), (0, 3)),), {"mode": "wrap"}),
    ("unfold", (2, 3, 8, 9), (3,), {"padding": 1}),
    ("fold", (2, 12, 7), (8, 2), {}),
    ("interpolate", (2, 3, 8, 9), ((5, 20),), {"mode": "cubic"}),
    ("interpolate_backward", (2, 3, 5, 20), ((2, 3, 8, 9),), {"mode": "linear"}),
)


@pytest.mark.parametrize(("name", "shape", "arguments", "options"), TABLED, ids=str)
def test_tables_of_axes(cupy, name, shape, arguments, options):
    host = numbers(shape)
    expected = registry.find(name).reference(host, *arguments, **options)
    for device in (0, 1, 0):
        with cupy.cuda.Device(device):
            x = cupy.asarray(host)
        result = getattr(nnk, name)(x, *arguments, **options)
        assert type(result) is cupy.ndarray
        assert result.device.id == device
        assert_close(result.get(), expected, 64)


def test_points_of_a_grid(cupy):
    x, grid, dy = (
        numbers((2, 3, 8, 9)),
        numbers((2, 4, 5, 2), seed=1),
        numbers((2, 3, 4, 5), seed=2),
    )
    arrays = [cupy.asarray(a) for a in (dy, x, grid)]
    y = nnk.grid_sample(*arrays[1:])
    check_all(cupy, y, registry.find("grid_sample").reference(x, grid))
    gradients = nnk.grid_sample_backward(*arrays)
    check_all(cupy, gradients, registry.find("grid_sample_backward").reference(dy, x, grid))


@pytest.mark.parametrize("name", ["relu", "softmax", "matmul", "swiglu"])
def test_a_repeated_call_makes_no_device_objects(cupy, name, monkeypatch):
    """Which is what `array.device` does in CuPy."""
    arrays = [
        cupy.asarray(numbers((16, 16), seed=i)) for i in range(len(registry.find(name).arrays))
    ]
    function = getattr(nnk, name)
    wanted = function(*arrays).get()
    # Those of the stand-in's own memory are made before.
    memory = cupy.empty(16 * 16, "f4")
    monkeypatch.setattr(cupy, "empty", lambda shape, dtype: memory.view(dtype))
    made = []
    monkeypatch.setattr(cupy.cuda.Device, "__init__", lambda self, *_: made.append(self))
    result = function(*arrays)
    assert not made
    assert np.array_equal(result.get().reshape(wanted.shape), wanted)


def test_repeated_launches_are_one_call_of_the_driver(cupy):
    """But for the first one of a thread, and those of a device that is not the current one."""
    host = numbers((5, 16))
    x = cupy.asarray(host)
    counts = []

    def call():
        counts.append(cupy.recorded.by_driver)
        assert np.array_equal(nnk.relu(x).get(), np.maximum(host, 0))
        counts[-1] = cupy.recorded.by_driver - counts[-1]

    for _ in range(3):
        call()
    thread = threading.Thread(target=lambda: (call(), call()))
    thread.start()
    thread.join()
    with cupy.cuda.Device(1):
        call()
    call()
    assert counts == [0, 1, 1, 0, 1, 0, 1]
    assert len(cupy.recorded.launches) == len(counts)
    assert {launch.shared for launch in cupy.recorded.launches} == {0}


def test_threads_do_not_share_arguments(cupy, monkeypatch):
    """The driver takes those of one launch from a place that all launches of a kernel have."""
    stream = cupy.cuda.get_current_stream
    # Other threads run in the meantime.
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: (time.sleep(1e-5), stream())[1])
    nnk.relu(cupy.asarray(numbers((6, 8))))  # makes the plan that all have
    hosts = [numbers((6, 8), seed=seed) for seed in range(4)]
    wrong: list[int] = []

    def call(seed):
        x = cupy.asarray(hosts[seed])
        for _ in range(50):
            if not np.array_equal(nnk.relu(x).get(), np.maximum(hosts[seed], 0)):
                wrong.append(seed)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cupy.recorded.by_driver == 4 * 49  # and the first of each thread


def test_hip_launches_through_cupy():
    with fake_cupy.installed(hip=True) as cupy:
        x = cupy.asarray(numbers(8))
        for _ in range(3):
            nnk.relu(x)
        assert cupy.recorded.by_driver == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes(cupy, dtype):
    host = numbers((6, 40), dtype)
    for name in ("relu", "softmax"):
        result = getattr(nnk, name)(cupy.asarray(host))
        assert result.dtype == numpy_dtype(dtype)
        assert_close(result.get(), registry.find(name).reference(host), 40)


def test_out(cupy):
    host = numbers((8, 12))
    x = cupy.asarray(host)
    buffer = cupy.empty((12, 8), np.float32)
    out = buffer.T
    assert nnk.softmax(x, out=out) is out
    assert_close(buffer.get().T, registry.find("softmax").reference(host), 12)
    in_place = cupy.asarray(host)
    assert nnk.relu(in_place, out=in_place) is in_place
    assert_close(in_place.get(), np.maximum(host, 0))


def test_out_must_fit(cupy):
    x = cupy.asarray(numbers((8, 12)))
    with pytest.raises(ShapeError, match=r"out has shape \(8, 11\)"):
        nnk.relu(x, out=cupy.empty((8, 11), np.float32))
    with pytest.raises(DTypeError, match="out has dtype float64"):
        nnk.relu(x, out=cupy.empty((8, 12), np.float64))
    with pytest.raises(ShapeError, match="shares memory with x"):
        nnk.relu(x[:, :8], out=x[:, 2:10])
    with pytest.raises(DTypeError, match="out"):
        nnk.relu(x, out=np.empty((8, 12), np.float32))


def test_rows_cut_into_parts(cupy):
    # Two launches, and a workspace between them.
    host = numbers((1, 70_000))
    result = nnk.softmax(cupy.asarray(host))
    first, second = cupy.recorded.launches
    assert first.grid[0] > 1
    assert first.symbol != second.symbol
    assert_close(result.get(), registry.find("softmax").reference(host), 70_000)


def test_more_shared_memory_is_asked_for(cupy):
    # 40000 float32 numbers in shared memory; a row for each processor, so that no row is cut.
    host = numbers((8, 40_000))
    result = nnk.softmax(cupy.asarray(host))
    (launch,) = cupy.recorded.launches
    assert launch.shared > fake_cupy.DEFAULT_SHARED
    assert_close(result.get(), registry.find("softmax").reference(host), 40_000)


def test_no_rows_and_no_columns(cupy):
    empty = cupy.empty((0, 4), np.float32)
    assert nnk.relu(empty).shape == (0, 4)
    assert nnk.softmax(empty).shape == (0, 4)
    nothing = nnk.logsumexp(cupy.empty((3, 0), np.float32))
    assert nothing.get().tolist() == [-np.inf] * 3
    assert cupy.recorded.launches == []


# ---- devices ------------------------------------------------------------------------------------


def test_work_stays_on_the_device_of_the_array(cupy):
    host = numbers((5, 9))
    with cupy.cuda.Device(1):
        x = cupy.asarray(host)
    assert cupy.cuda.runtime.getDevice() == 0
    for name in ("relu", "softmax", "log_softmax"):
        result = getattr(nnk, name)(x)
        assert result.device.id == 1
        assert_close(result.get(), registry.find(name).reference(host), 9)
    assert nnk.swiglu(x, 2.0).device.id == 1  # a Python scalar goes where the array is
    with cupy.cuda.Device(1):
        nothing = cupy.empty((3, 0), np.float32)
    assert nnk.logsumexp(nothing).device.id == 1
    assert {launch.device for launch in cupy.recorded.launches} == {1}
    assert cupy.cuda.runtime.getDevice() == 0


def test_each_device_has_its_own_kernels(cupy):
    host = numbers((4, 4))
    on_0 = cupy.asarray(host)
    with cupy.cuda.Device(1):
        on_1 = cupy.asarray(host)
    nnk.relu(on_0), nnk.relu(on_1), nnk.relu(on_0)
    assert [launch.device for launch in cupy.recorded.launches] == [0, 1, 0]
    assert [device for device, _ in cupy.recorded.compiled] == [0, 1]


def test_arrays_on_two_devices_are_refused(cupy):
    on_0 = cupy.asarray(numbers((4, 4)))
    with cupy.cuda.Device(1):
        on_1 = cupy.asarray(numbers((4, 4)))
    with pytest.raises(BackendError, match=r"x1 is on .* and x2 on"):
        nnk.matmul(on_0, on_1)
    with pytest.raises(BackendError, match=r"x is on .* and gate on"):
        nnk.swiglu(on_0, on_1)
    with pytest.raises(BackendError, match="out"):
        nnk.relu(on_0, out=on_1)
    with pytest.raises(BackendError, match="out"):
        nnk.softmax(on_0, out=on_1)
    with pytest.raises(BackendError, match="out"):
        nnk.matmul(on_0, on_0, out=on_1)


def test_two_libraries_are_refused(cupy):
    x, y = cupy.asarray(numbers((4, 4))), numbers((4, 4))
    for first, second in ((x, y), (y, x)):
        with pytest.raises(DTypeError, match="of cupy"):
            nnk.matmul(first, second)
        with pytest.raises(DTypeError, match="of cupy"):
            nnk.swiglu(first, second)


def test_backends_for_numpy_arrays_do_not_concern_cupy(cupy):
    x = cupy.asarray(numbers((4, 4)))
    for backend in ("reference", "sim:gfx90a", "cpu"):
        with nnk.use_backend(backend):
            assert type(nnk.relu(x)) is cupy.ndarray
    assert len(cupy.recorded.launches) == 3


# ---- what is remembered -------------------------------------------------------------------------


def test_a_kernel_is_compiled_once_and_looked_up_once(cupy):
    for seed in range(3):
        for shape in ((4, 32), (7, 32), (9, 32)):
            nnk.softmax(cupy.asarray(numbers(shape, seed=seed)))
    assert len(cupy.recorded.launches) == 9
    assert len(cupy.recorded.compiled) == 1
    assert len(cupy.recorded.looked_up) == 1


def test_another_alignment_is_another_kernel(cupy):
    # The plan of an aligned array must not serve one of the same shape and strides beside it.
    base = cupy.asarray(numbers(4 * 256 + 1))
    aligned, beside = base[:-1], base[1:]
    assert aligned.strides == beside.strides
    for x in (aligned, beside):
        assert_close(nnk.relu(x).get(), np.maximum(x.get(), 0))
    wide, narrow = cupy.recorded.launches
    assert wide.symbol != narrow.symbol


def test_precompiled_kernels_are_not_compiled_again(cupy):
    x = cupy.asarray(numbers((6, 32)))
    nnk.softmax(x), nnk.relu(x)
    instances = tuple(gpu.machine_of(0)._kernels._values)
    gpu._machines.clear()
    cupy.recorded.compiled.clear()
    gpu.machine_of(0).precompile(instances)
    nnk.softmax(x), nnk.relu(x)
    ((_, text),) = cupy.recorded.compiled
    assert all(instance.symbol in text for instance in instances)


def test_threads_share_one_compile(cupy):
    x, failures = cupy.asarray(numbers((6, 48))), []

    def call():
        try:
            assert_close(nnk.softmax(x).get(), registry.find("softmax").reference(x.get()), 48)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(cupy.recorded.compiled) == 1


# ---- what goes wrong ----------------------------------------------------------------------------


def test_a_kernel_that_does_not_compile(cupy):
    with pytest.raises(CompileError, match="NoSuchKernel") as caught:
        gpu.machine_of(0).prepare(Instance("softmax", "NoSuchKernel<1>", 32), 1, 0, 0)
    assert "NoSuchKernel" in caught.value.log


def test_no_nvrtc(cupy, monkeypatch):
    def fail(self):
        raise RuntimeError("Failed to find CUDA headers.")

    monkeypatch.setattr(cupy.RawModule, "_module", fail)
    with pytest.raises(BackendError, match=r"CuPy cannot compile for cuda:0: Failed to find CUDA"):
        nnk.relu(cupy.asarray(numbers((4, 4))))


def test_a_grid_that_is_too_large(cupy):
    machine = gpu.machine_of(0)
    with pytest.raises(BackendError, match="2147483648 blocks of 32 threads"):
        machine.prepare(Instance("softmax", "Any", 32), 2**31, 0, 0)


def test_a_device_of_an_unknown_architecture(cupy, monkeypatch):
    monkeypatch.delenv("NNKERNELS_GPU_ARCH")
    properties = cupy.cuda.runtime.getDeviceProperties(0) | {"major": 15, "minor": 3}
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda index: properties)
    device = gpu.machine_of(0).device
    assert (device.arch, device.warp, device.shared_limit) == ("sm_153", 32, 232448)
    assert_close(nnk.relu(cupy.asarray(numbers(9))).get(), np.maximum(numbers(9), 0))


# ---- AMD ----------------------------------------------------------------------------------------


def test_hip():
    with fake_cupy.installed(hip=True) as cupy:
        host = numbers((7, 600))
        for name in ("relu", "softmax"):
            result = getattr(nnk, name)(cupy.asarray(host))
            assert_close(result.get(), registry.find(name).reference(host), 600)
        device = gpu.machine_of(0).device
        assert (device.machine, device.arch, device.warp) == ("hip", "gfx90a", 64)
        assert device.shared_limit == 65536


def test_hip_never_asks_for_shared_memory():
    # CuPy has no such call on HIP, and a block may have 64 KiB without one.
    with fake_cupy.installed(hip=True) as cupy:
        nnk.relu(cupy.asarray(numbers(8)))
        machine = gpu.machine_of(0)
        (instance,) = machine._kernels._values
        machine.prepare(instance, 1, 60 * 1024, 0)
        with pytest.raises(BackendError, match="more than hip:0 can do"):
            machine.prepare(instance, 2**32 // instance.threads, 0, 0)


# ---- an architecture that CuPy does not name -----------------------------------------------------


@pytest.fixture
def warpgroups(monkeypatch):
    """A device for which kernels with the instructions of warpgroups are compiled."""
    monkeypatch.delenv("NNKERNELS_GPU_ARCH", raising=False)
    with fake_cupy.installed() as module:
        yield module


def test_kernels_of_warpgroups_are_compiled_for_their_architecture(warpgroups):
    a, b = numbers((96, 80), "float16"), numbers((80, 128), "float16", seed=1)
    y = nnk.matmul(warpgroups.asarray(a), warpgroups.asarray(b))
    expected = registry.find("matmul").reference(a, b)
    assert_close(y.get(), expected, 80)
    assert gpu.machine_of(0).device.arch == "sm_90a"
    for options in warpgroups.recorded.programs:
        assert "-arch=sm_90a" in options
    (launch,) = warpgroups.recorded.launches
    assert launch.shared > 48 * 1024  # and was granted
    assert not warpgroups.recorded.looked_up  # by RawModule


def test_what_was_compiled_for_it_is_kept(warpgroups, monkeypatch, tmp_path):
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path))
    for _ in range(2):  # in another process the second time
        gpu._machines.clear()
        nnk.relu(warpgroups.asarray(numbers(8)))
    assert len(warpgroups.recorded.programs) == 1
    assert len(warpgroups.recorded.launches) == 2


def test_a_kernel_that_its_compiler_rejects(warpgroups):
    instance = Instance("softmax", "Any", 32, definitions=("#error",))
    with pytest.raises(CompileError, match=r"NVRTC failed: .*: the log of") as caught:
        gpu.machine_of(0).prepare(instance, 1, 0, 0)
    assert caught.value.log.startswith("the log of")


def test_an_architecture_that_the_device_is_not_of(cupy, monkeypatch):
    monkeypatch.setenv("NNKERNELS_GPU_ARCH", "sm_80")
    with pytest.raises(BackendError, match="is 'sm_80', and this device runs sm_90 and sm_90a"):
        gpu.machine_of(0)
    monkeypatch.setenv("NNKERNELS_GPU_ARCH", "sm_90")
    assert gpu.machine_of(0).device.arch == "sm_90"
