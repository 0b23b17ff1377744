"""Kernels of users: the helper that runs their text on either machine, and the example."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import threading
from pathlib import Path

import fake_cupy
import gpu_compilers
import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import own
from nnkernels.compile import cxx, hiprtc, nvrtc
from nnkernels.config.device import PROFILES
from nnkernels.inspection import amd, nvidia
from nnkernels.launch import simulated_cuda

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "own_kernel.py"

needs_compiler = pytest.mark.skipif(cxx.find_compiler() is None, reason="no C++ compiler")

# One text for all tests of what kernels may do, and must not: a compile costs more than a launch.
CODE = r"""
// A kernel with names of CUDA in comments: extern "C" __global__ void nothing(
extern "C" __global__ void axpy(float alpha, const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += alpha * x[i];
}
extern "C" __global__ void places(int* out) {
  const dim3 grid = gridDim;
  const int block = blockIdx.x + grid.x * (blockIdx.y + grid.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] = 100 * block + thread;
}
__device__ __forceinline__ float warp_sum(float x) {
  for (int mask = warpSize / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}
extern "C" __global__ void __launch_bounds__(64) language(const float4* x, double* out,
                                                          unsigned* bits, int* counts) {
  extern __shared__ __align__(16) unsigned char raw[];
  __shared__ float sums[2];
  float4* const kept = reinterpret_cast<float4*>(raw);
  kept[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const float4 v = kept[(threadIdx.x + 1) % blockDim.x];
  const float sum = warp_sum(v.x + v.y + v.z + v.w);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  out[threadIdx.x] = sums[0] + (blockDim.x > 32 ? sums[1] : 0.0f);
  bits[threadIdx.x] = __ballot_sync(0xffffffffu, threadIdx.x % 3 == 0);
  const int below = __shfl_up_sync(0xffffffffu, int(threadIdx.x), 1);
  const int above = __shfl_down_sync(0xffffffffu, int(threadIdx.x), 2, 16);
  if (threadIdx.x == 33) counts[1] = below, counts[2] = above;
  __syncwarp();
  atomicAdd(&counts[0], 1);
  atomicMax(counts + 3, int(threadIdx.x));
}
extern "C" __global__ void two_names(float* y) {
  extern __shared__ float memory[];
  memory[threadIdx.x] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = memory[blockDim.x - 1 - threadIdx.x];
}
struct Line { float slope, offset; };
extern "C" __global__ void along_line(Line line, float* y, bool negate) {
  y[threadIdx.x] = (line.slope * threadIdx.x + line.offset) * (negate ? -1.0f : 1.0f);
}
template <class T> __global__ void copy(const T* x, T* y) { y[threadIdx.x] = x[threadIdx.x]; }
__global__ void mangled(float* y) { y[0] = 1.0f; }

// ---- what is wrong ----
extern "C" __global__ void race(const float* x, float* y) {
  __shared__ float kept[64];
  kept[threadIdx.x] = x[threadIdx.x];     // at: race
  y[threadIdx.x] = kept[63 - threadIdx.x];  // at: race
}
extern "C" __global__ void divergent(float* y) {
  if (threadIdx.x < 5) __syncthreads();  // at: divergent
  y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void beyond_array(const float* x, float* y, int offset) {
  y[threadIdx.x] = x[threadIdx.x + offset];  // at: beyond_array
}
extern "C" __global__ void beyond_dynamic(float* y) {
  extern __shared__ float memory[];
  memory[threadIdx.x] = y[threadIdx.x];  // at: beyond_dynamic
  y[threadIdx.x] = memory[threadIdx.x];
}
extern "C" __global__ void unset(float* y, int n) {
  __shared__ float kept[64];
  if (threadIdx.x < n) kept[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = kept[threadIdx.x];
}
extern "C" __global__ void half_a_warp(int* y) {
  y[threadIdx.x] = __shfl_sync(0xffffu, 1, 0);  // at: half_a_warp
}
"""


def line_of(name):
    """The lines of the text with a mark."""
    lines = CODE.splitlines()
    return {i for i, line in enumerate(lines, 1) if line.endswith(f"// at: {name}")}


@pytest.fixture(scope="module")
def module():
    if cxx.find_compiler() is None:
        pytest.skip("no C++ compiler")
    return own.RawModule(CODE, name_expressions=["copy<short>"], path="mine.cu")


# ---- what kernels may do ------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 100, 257])
def test_numbers_and_arrays(module, n):
    x, y = np.arange(n, dtype=np.float32), np.ones(n, np.float32)
    module.get_function("axpy")((-(-n // 64),), (64,), (np.float32(2), x, y, np.int32(n)))
    np.testing.assert_array_equal(y, 2 * x + 1)


def test_three_axes_of_grid_and_block(module):
    out = np.zeros((24, 30), np.int32)
    module.get_function("places")((2, 3, 4), (5, 2, 3), (out,))
    np.testing.assert_array_equal(out, 100 * np.arange(24)[:, None] + np.arange(30))


@pytest.mark.parametrize("seed", range(3))
def test_words_of_the_language(module, seed):
    x = np.random.default_rng(seed).standard_normal((64, 4)).astype(np.float32)
    out, bits, counts = np.zeros(64), np.zeros(64, np.uint32), np.zeros(4, np.int32)
    with nnk.use_backend("sim:sm_80", seed=seed):
        module.get_function("language")((3,), (64,), (x, out, bits, counts), shared_mem=1024)
    np.testing.assert_allclose(out, x.sum(dtype=np.float64), rtol=1e-5, atol=1e-5)
    of_warp = [sum(1 << i for i in range(32) if (i + first) % 3 == 0) for first in (0, 32)]
    np.testing.assert_array_equal(bits, np.repeat(of_warp, 32))
    assert counts.tolist() == [3 * 64, 32, 35, 63]


def test_dynamic_shared_memory_has_any_name(module):
    assert simulated_cuda.dynamic_names(CODE) == ["raw", "memory"]
    y = np.zeros(32, np.float32)
    module.get_function("two_names")((1,), (32,), (y,), shared_mem=128)
    np.testing.assert_array_equal(y, np.arange(32)[::-1])


def test_structs_and_bools_by_value(module):
    line = np.zeros((), [("slope", np.float32), ("offset", np.float32)])[()]
    line["slope"], line["offset"] = 2, 1
    y = np.zeros(4, np.float32)
    module.get_function("along_line")((1,), (4,), (line, y, True))
    assert y.tolist() == [-1, -3, -5, -7]


def test_templates_by_expressions(module):
    x, y = np.arange(8, dtype=np.int16), np.zeros(8, np.int16)
    module.get_function("copy<short>")((1,), (8,), (x, y))
    np.testing.assert_array_equal(x, y)
    with pytest.raises(nnk.BackendError, match="not among the name_expressions"):
        module.get_function("copy<int>")


def test_launches_of_several_threads(module):
    kernel, found = module.get_function("two_names"), []

    def work(count):
        for _ in range(10):
            y = np.zeros(count, np.float32)
            kernel((4,), (count,), (y,), shared_mem=4 * count)
            found.append(np.array_equal(y, np.arange(count)[::-1]))

    threads = [threading.Thread(target=work, args=(32 * i,)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


def test_arrays_of_other_libraries(module):
    torch = pytest.importorskip("torch")
    x, y = torch.arange(8, dtype=torch.float32), torch.ones(8)
    module.get_function("axpy")((1,), (8,), (np.float32(1), x, y, 8))
    assert y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@needs_compiler
def test_own_headers_and_options(tmp_path):
    code = '#include "mine.cuh"\nextern "C" __global__ void f(int* y) { *y = NUMBER + MORE; }'
    found = []
    for number in (1, 2):
        (tmp_path / "mine.cuh").write_text(f"#define NUMBER {number}\n")
        module = own.RawModule(code, options=("-I", str(tmp_path), "-DMORE=10", "-lineinfo"))
        y = np.zeros(1, np.int32)
        module.get_function("f")((1,), (1,), (y,))
        found.append(int(y[0]))
    assert found == [11, 12]


# ---- what they must not -------------------------------------------------------------------------

WRONG = {
    "race": ("data race", lambda: (floats(64), floats(64))),
    "divergent": ("divergent barrier", lambda: (floats(64),)),
    "beyond_array": ("outside of all arguments", lambda: (floats(64), floats(64), 1)),
    "beyond_dynamic": ("of 252 of dynamic shared memory", lambda: (floats(64),)),
    "half_a_warp": ("of a part of a warp", lambda: (np.zeros(64, np.int32),)),
}


def floats(n):
    return np.zeros(n, np.float32)


@pytest.mark.parametrize("name", WRONG)
def test_bugs_are_found_where_they_stand(module, name):
    text, arguments = WRONG[name]
    with pytest.raises(nnk.BackendError, match=text) as caught:
        module.get_function(name)((1,), (64,), arguments(), shared_mem=252)
    lines = {int(n) for n in re.findall(r"mine\.cu:(\d+)", str(caught.value))}
    assert lines == line_of(name)


def test_correct_launches_of_the_same_kernels(module):
    """What finds them says nothing of kernels that keep within bounds."""
    module.get_function("beyond_array")((1,), (64,), (floats(64), floats(64), 0))
    module.get_function("beyond_array")((1,), (63,), (floats(64), floats(63), 1))
    module.get_function("beyond_dynamic")((1,), (63,), (floats(64),), shared_mem=252)
    module.get_function("divergent")((1,), (4,), (floats(4),))


def test_shared_memory_is_poisoned(module):
    y = floats(64)
    for _ in range(2):  # nothing is left of the first launch, or of the block before
        module.get_function("unset")((2,), (64,), (y, 40))
        assert (y[:40] == 1).all()
        assert np.isnan(y[40:]).all()


# ---- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((np.float32(1), floats(4), floats(4)), "has 4 parameters; got 3 arguments"),
        ((1.0, floats(4), floats(4), 4), r"argument 0 .* must be float32, .* np.float32\(1.0\)"),
        ((2, floats(4), floats(4), 4), r"argument 0 .* must be float32, and a Python int"),
        ((np.float64(1), floats(4), floats(4), 4), "argument 0 .* must be float32; got float64"),
        ((floats(1), floats(4), floats(4), 4), "argument 0 .* must be float32; got an array"),
        (
            (np.float32(1), np.zeros(4), floats(4), 4),
            "argument 1 .* a pointer to const float32; got an array of float64",
        ),
        ((np.float32(1), 7, floats(4), 4), "argument 1 .* must be an array"),
        ((np.float32(1), floats(4), floats(4), 2**31), "argument 3 .* must be int32; got 2147483"),
        ((np.float32(1), floats(4), floats(4), "4"), "argument 3 .* got str"),
        ((np.float32(1), floats(4), np.broadcast_to(floats(1), 4), 4), "argument 2 .* read-only"),
    ],
)
def test_arguments_are_checked(module, arguments, text):
    with pytest.raises(nnk.DTypeError, match=text):
        module.get_function("axpy")((1,), (4,), arguments)


def test_numbers_that_do(module):
    x = floats(4)
    x.flags.writeable = False
    for n in (np.int32(4), np.uint32(4), 4):
        module.get_function("axpy")((1,), (4,), (np.float32(1), x, floats(4), n))


@pytest.mark.parametrize(
    ("grid", "block", "shared", "kind", "text"),
    [
        (1, (4,), 0, TypeError, "grid must be a tuple"),
        ((1,), (4.0,), 0, TypeError, "block must be a tuple"),
        ((0,), (4,), 0, ValueError, "grid must be between 1 and"),
        ((1,), (64, 32), 0, ValueError, "at most 1024 threads"),
        ((1,), (4,), -1, ValueError, "shared_mem must not be negative"),
        ((1,), (4,), 300_000, nnk.BackendError, "more than a block of sim:sm_90 may have"),
    ],
)
def test_launches_are_checked(module, grid, block, shared, kind, text):
    with pytest.raises(kind, match=text):
        module.get_function("two_names")(grid, block, (floats(4),), shared_mem=shared)


# ---- texts --------------------------------------------------------------------------------------


def test_kernels_that_are_not_there(module):
    with pytest.raises(nnk.BackendError, match=r"there is no kernel 'nothing' in mine\.cu"):
        module.get_function("nothing")((1,), (1,), ())
    with pytest.raises(nnk.BackendError, match='is not extern "C"'):
        module.get_function("mangled")((1,), (1,), (floats(1),))


@needs_compiler
def test_a_text_that_does_not_compile():
    code = '\nextern "C" __global__ void f(float* y) {\n  y[0] = missing;\n}\n'
    kernel = own.RawKernel(code, "f", path="mine.cu")
    with pytest.raises(nnk.CompileError, match=r"mine.cu:3.*missing") as caught:
        kernel((1,), (1,), (floats(1),))
    assert "missing" in caught.value.log
    assert code in Path(caught.value.source_path).read_text()
    Path(caught.value.source_path).unlink()


def test_names_of_kernels():
    assert simulated_cuda.kernel_names(CODE)[:3] == ["axpy", "places", "language"]
    assert "copy" not in simulated_cuda.kernel_names(CODE)
    with pytest.raises(nnk.DTypeError, match="code must be a str"):
        own.RawModule(b"")


# ---- through CuPy -------------------------------------------------------------------------------


class RecordedModule:
    """``cupy.RawModule``, which writes down what it is asked."""

    calls: list

    def __init__(self, *, code, options, name_expressions=()):
        self.calls.append((code, options, name_expressions))

    def get_function(self, name):
        return RecordedKernel(self.calls, name)


class RecordedKernel:
    def __init__(self, calls, name):
        self.__dict__.update(calls=calls, name=name)

    def __setattr__(self, name, value):
        self.calls.append((name, value))

    def __call__(self, grid, block, args, *, shared_mem=0):
        self.calls.append((self.name, grid, block, args, shared_mem))


def test_arrays_of_cupy_go_to_cupy():
    with fake_cupy.installed() as cupy:
        cupy.RawModule = type("RawModule", (RecordedModule,), {"calls": []})
        module = own.RawModule(CODE, options=("-DX=1",), name_expressions=["copy<short>"])
        x, y = cupy.asarray(floats(4)), cupy.asarray(floats(4))
        kernel = module.get_function("axpy")
        for shared in (0, 60000, 50000):
            kernel((1,), (4,), (np.float32(1), x, y, 4), shared_mem=shared)
        (code, options, names), *launches = cupy.RawModule.calls
        assert code is module.code
        assert names == ("copy<short>",)
        assert set(own.compile_options()) | {"-DX=1"} < set(options)
        asked, launches = launches.pop(1), launches
        assert asked == ("max_dynamic_shared_size_bytes", 60000)
        assert [launch[4] for launch in launches] == [0, 60000, 50000]
        assert launches[0][:3] == ("axpy", (1, 1, 1), (4, 1, 1))
        assert launches[0][3][1] is x
        with pytest.raises(nnk.DTypeError, match="argument 1 of kernel axpy"):
            kernel((1,), (4,), (np.float32(1), x, floats(4), 4))


# ---- the example --------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("options", [(), ("--machine", "sim:gfx90a", "--dtype", "float16")])
def test_example(options):
    command = [sys.executable, EXAMPLE, "--points", "70", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    error = float(re.search(r"largest error against NumPy (\S+)", done.stdout)[1])
    assert 0 < error < (1e-2 if options else 1e-6)
    assert "3 templates in one kernel" in done.stdout


def test_example_of_a_machine_that_is_none():
    command = [sys.executable, EXAMPLE, "--machine", "abacus"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "no backend is called 'abacus'" in done.stderr
    assert "Traceback" not in done.stderr


def example_code(element):
    spec = importlib.util.spec_from_file_location("own_kernel_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return f"#define ELEMENT {element}\n{module.CODE}"


@pytest.mark.parametrize("element", ["float", "nnk::half"])
@pytest.mark.parametrize("arch", [gpu_compilers.parameter(a) for a in ("sm_80", "sm_90", "gfx90a")])
def test_example_as_a_gpu_gets_it(arch, element):
    """With the options that compile_options() and CuPy give."""
    code = example_code(element)
    compiler = nvrtc if PROFILES[arch].machine == "cuda" else hiprtc
    assert set(own.compile_options()) < set(compiler.options_for(arch))
    resources = (nvidia if compiler is nvrtc else amd).resources(code, arch)["classify"]
    if arch == "gfx90a":
        # Masks of ROCm 5's Clang. (Scalar registers spill to vector registers, not to memory.)
        assert resources.local_bytes <= 16
    else:
        assert resources.spill_bytes == resources.local_bytes == 0
