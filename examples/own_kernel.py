"""A CUDA kernel of one's own that calls three templates of nnkernels in one launch.

    python examples/own_kernel.py
    python examples/own_kernel.py --points 1000000 --dtype float16
    python examples/own_kernel.py --machine sim:gfx90a

Points of the plane are encoded by Fourier features, pass through a multilayer perceptron, and come
out as probabilities of ten classes; nothing but coordinates, weights and probabilities touches
global memory. On a GPU the kernel is compiled by CuPy's RawModule. Without one, the same text runs
in the simulator of thread blocks, slowly, with all that it finds wrong reported by file and line.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, NamedTuple

import numpy as np

import nnkernels as nnk
from nnkernels import own

Array = Any  # a NumPy or a CuPy array

DIMENSIONS, OCTAVES, WIDTH, CLASSES = 2, 6, 64, 10
SIZES = (2 * OCTAVES * DIMENSIONS, WIDTH, WIDTH, CLASSES)

# The kernel. ELEMENT is the type of the weights: with half, products run on matrix cores.
CODE = r"""
#include "platform/gpu.cuh"

#include "nnk/activations.cuh"
#include "nnk/block/fourier_features.cuh"
#include "nnk/block/softmax_row.cuh"
#include "nnk/mlp_block.cuh"
#include "nnk/mlp_tensor.cuh"

using Element = ELEMENT;
constexpr int dimensions = 2, octaves = 6, width = 64, classes = 10, layers = 3;
constexpr int features = 2 * octaves * dimensions;
constexpr int rows = 32;  // points of a block at a time

// By the ordinary arithmetic in 128 threads, or on matrix cores in two warps of 32 x 32 sums.
template <class T> struct Choice {
  using Math = nnk::MlpMath<T, rows, width, 128>;
};
template <> struct Choice<nnk::half> {
  using Core = nnk::MatrixCore<nnk::half>;
  using Math = nnk::MlpTensor<nnk::half, Core, rows, width, width, 32, 32, true>;
};
using Math = Choice<Element>::Math;

// Where the weights of a layer are: (outputs, inputs), and behind them its biases.
struct Net {
  const Element* weights;

  static __device__ int count() { return layers; }
  __device__ nnk::MlpLayer<Element> layer(int i) const {
    const int inputs = i == 0 ? features : width, outputs = i == layers - 1 ? classes : width;
    const int before = i == 0 ? 0 : (features + 1) * width + (i - 1) * (width + 1) * width;
    const Element* own = weights + before;
    return nnk::dense_layer(own, own + inputs * outputs, inputs, outputs);
  }
};

// What the host has to know of a launch.
extern "C" __global__ void requirements(int* threads_and_bytes) {
  threads_and_bytes[0] = Math::threads;
  threads_and_bytes[1] = Math::bytes(layers);
}

extern "C" __global__ void __launch_bounds__(Math::threads)
classify(const float* points, const Element* weights, float* probabilities, int count) {
  extern __shared__ __align__(16) unsigned char bytes[];
  const nnk::Group<Math::threads> group;
  const auto memory = Math::memory(group, 0, layers);
  const Net net{weights};
  Math::load(group, memory, net);

  // The rows begin at byte 0 of the dynamic shared memory.
  Math::Element* row = reinterpret_cast<Math::Element*>(bytes);
  for (int first = blockIdx.x * rows; first < count; first += gridDim.x * rows) {
    const int there = min(rows, count - first);
    __syncthreads();  // before the next points take the place of these
    for (int i = threadIdx.x; i < rows * Math::pitch; i += blockDim.x)
      row[i] = nnk::convert_scalar<Math::Element>(0.0f);
    nnk::fourier_features(group, nnk::matrix(points + first * dimensions, there, dimensions),
                          nnk::matrix(row, there, features, Math::pitch), octaves);
    nnk::mlp_block<Math, nnk::Relu>(group, memory, net, nullptr, nullptr, there);
    nnk::softmax_rows<4>(group, nnk::matrix(row, there, classes, Math::pitch),
                         nnk::matrix(probabilities + first * classes, there, classes));
  }
}
"""


class Net(NamedTuple):
    """Weights (outputs, inputs) and biases of each layer."""

    weights: list[np.ndarray]
    biases: list[np.ndarray]

    def packed(self) -> np.ndarray:
        """All of them, one after the other, as the kernel takes them."""
        parts = [
            p.reshape(-1) for pair in zip(self.weights, self.biases, strict=True) for p in pair
        ]
        return np.concatenate(parts)


def random_net(dtype: str, seed: int = 0) -> Net:
    """Return weights that keep the size of their inputs, and small biases."""
    random = np.random.default_rng(seed)
    shapes = list(zip(SIZES[1:], SIZES[:-1], strict=True))
    weights = [random.normal(0, (2 / n) ** 0.5, (m, n)).astype(dtype) for m, n in shapes]
    return Net(weights, [random.normal(0, 0.1, m).astype(dtype) for m, _ in shapes])


def expected(points: np.ndarray, net: Net) -> np.ndarray:
    """Return what the kernel should give: the same in float64 with NumPy."""
    angles = np.pi * np.ldexp(points.astype(np.float64)[:, :, None], np.arange(OCTAVES))
    h = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(points), -1)
    for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        h = h @ w.astype(np.float64).T + b
        if i < len(net.weights) - 1:
            h = np.maximum(h, 0)
    e = np.exp(h - h.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class Classifier:
    """The kernel, compiled for some type of weights, and how it is launched."""

    def __init__(self, xp: Any, dtype: str) -> None:
        element = {"float32": "float", "float16": "nnk::half"}[dtype]
        self.xp = xp
        module = own.RawModule(CODE, options=(f"-DELEMENT={element}",), path="own_kernel.cu")
        requirements = xp.zeros(2, np.int32)
        module.get_function("requirements")((1,), (1,), (requirements,))
        self.threads, self.shared = (int(n) for n in requirements)
        self.kernel = module.get_function("classify")

    def __call__(self, points: Array, weights: Array, blocks: int) -> Array:
        probabilities = self.xp.empty((len(points), CLASSES), np.float32)
        # Numbers are NumPy scalars of the very type of the parameter.
        arguments = (points, weights, probabilities, np.int32(len(points)))
        self.kernel((blocks,), (self.threads,), arguments, shared_mem=self.shared)
        return probabilities


def seconds(xp: Any, function: Any) -> tuple[float, Array]:
    """Return how long a call took, and its result."""
    start = time.perf_counter()
    result = function()
    if xp is not np:
        xp.cuda.get_current_stream().synchronize()
    return time.perf_counter() - start, result


def to_numpy(x: Array) -> np.ndarray:
    """Return an array on the host."""
    return x if isinstance(x, np.ndarray) else x.get()


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--points", type=int, help="how many; by default 262144 on a GPU, and 300 without")
    add("--dtype", choices=["float32", "float16"], default="float32", help="of the weights")
    add(
        "--machine",
        default="auto",
        help="auto is the GPU, or sim:sm_90 where there is none; sim:sm_80, sim:gfx90a, ...",
    )
    options = parser.parse_args(arguments)
    if options.points is not None and not 1 <= options.points <= 10_000_000:
        parser.error("--points must be from 1 to 10 million")
    return options


def main() -> None:
    """Run the kernel, compare it with NumPy and report."""
    options = parse_options()
    xp = own.array_library() if options.machine == "auto" else np
    machine = "sim:sm_90" if options.machine == "auto" else options.machine
    count = options.points or (300 if xp is np else 2**18)
    random = np.random.default_rng(1)
    points = random.uniform(-1, 1, (count, DIMENSIONS)).astype(np.float32)
    net = random_net(options.dtype)
    given = xp.asarray(points), xp.asarray(net.packed())
    blocks = min(-(-count // 32), 4 if xp is np else 528)
    try:
        with nnk.use_backend(machine):
            first, classify = seconds(xp, lambda: Classifier(xp, options.dtype))
            seconds(xp, lambda: classify(*given, blocks))
            elapsed, probabilities = seconds(xp, lambda: classify(*given, blocks))
    except nnk.BackendError as error:
        sys.exit(f"own_kernel.py: {error}")
    largest = np.abs(to_numpy(probabilities) - expected(points, net)).max()
    limit = {"float32": 1e-5, "float16": 1e-2}[options.dtype]
    where = f"in the simulator ({machine})" if xp is np else "on the GPU"
    print(f"{count} points through 3 templates in one kernel, {where}, {options.dtype} weights")
    print(f"  {blocks} blocks of {classify.threads} threads, {classify.shared} bytes shared memory")
    print(f"  compiled in {first:.1f} s, ran in {elapsed * 1e3:.2f} ms")
    print(f"  largest error against NumPy {largest:.1e} (at most {limit:.0e} is right)")
    if not largest <= limit:
        sys.exit("own_kernel.py: the kernel is wrong")


if __name__ == "__main__":
    main()
