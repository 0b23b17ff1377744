"""Multilayer perceptrons on every machine: any widths, depths, layouts and activations."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

import gpu_compilers
import numpy as np
import pytest
from backends import Backend
from comparing import assert_close, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from layouts import place
from strategies import examples, layouts, make_numbers

import nnkernels as nnk
from nnkernels import DTypeError, ShapeError, registry
from nnkernels.compile.instance import Instance
from nnkernels.config import mlp as config
from nnkernels.config.device import PROFILES
from nnkernels.config.mlp import MlpProblem
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.dispatch.packing import pointer_struct
from nnkernels.inspection.inspect import choices, compile_all
from nnkernels.inspection.record import launches
from nnkernels.registry.mlp import network

FORWARD, BACKWARD = registry.find("mlp"), registry.find("mlp_backward")
# Below, at and above steps of matrix cores and vectors.
WIDTHS = (1, 2, 3, 8, 15, 16, 17, 31, 33, 48, 64, 65, 100, 128)
BATCHES = ((0,), (1,), (3,), (), (47,), (2, 3), (64,), (131,))
DTYPES = ("float16", "bfloat16", "float32", "float64")
# Of whole numbers: whole numbers. Their gradients need the result or, of the last one, the operand.
EXACT = (None, "relu", "relu6", partial(nnk.hard_tanh, min=-3.0, max=5.0))
SMOOTH = ("tanh", "gelu", "silu", "softplus", partial(nnk.elu, alpha=0.5), None)


def sparse_weight(generator, outputs, inputs):
    """At most two ones or minus ones in a row or a column."""
    weight = np.zeros((outputs, inputs))
    few = min(outputs, inputs)
    for _ in range(2):
        rows, columns = generator.permutation(outputs)[:few], generator.permutation(inputs)[:few]
        weight[rows, columns] = generator.choice([-1.0, 1.0], few)
    return weight


def whole_network(generator, batch, widths, dtype):
    """Arrays of small whole numbers, so that no layer of the network rounds anything."""
    x, *rest = network(batch, widths)
    layers = len(widths) - 1
    arrays = [generator.integers(-2, 3, x).astype(float)]
    arrays += [sparse_weight(generator, *shape) for shape in rest[:layers]]
    arrays += [generator.integers(-1, 2, shape).astype(float) for shape in rest[layers:]]
    return [a.astype(numpy_dtype(dtype)) for a in arrays]


def real_network(generator, batch, widths, dtype):
    """Arrays of normal numbers, whose activations stay of size 1."""
    arrays = [make_numbers(generator, shape, "float64") for shape in network(batch, widths)]
    layers = len(widths) - 1
    for weight in arrays[1 : 1 + layers]:
        weight /= 2 * np.sqrt(max(weight.shape[1], 1))
    return [a.astype(numpy_dtype(dtype)) for a in arrays]


@st.composite
def calls(draw, backend, make, activations, dtypes, most_layers=4):
    """Arrays at any place, and options."""
    dtype = draw(st.sampled_from(dtypes))
    batch = draw(st.sampled_from(BATCHES))
    widths = tuple(draw(st.lists(st.sampled_from(WIDTHS), min_size=2, max_size=most_layers + 1)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = make(generator, batch, widths, dtype)
    dy = generator.integers(-2, 3, (*batch, widths[-1])).astype(arrays[0].dtype)
    itemsize = arrays[0].dtype.itemsize
    placed = [
        place(array, draw(layouts(array.shape, itemsize, byte_shifts=backend.is_cpu)))
        for array in (*arrays, dy)
    ]
    layers = len(widths) - 1
    x, weights, biases = placed[0], placed[1 : 1 + layers], placed[1 + layers : -1]
    given_biases = [b if draw(st.integers(0, 3)) else None for b in biases]
    options = {
        "activation": draw(st.sampled_from(activations)),
        "output_activation": draw(st.sampled_from(activations)),
    }
    return placed, (x, weights, given_biases if draw(st.integers(0, 3)) else None), options


def views(value, convert=lambda x: x):
    """The views of placed arrays."""
    if isinstance(value, (list, tuple)):
        return [views(part, convert) for part in value]
    return None if value is None else convert(value.view)


def same_numbers(actual, expected, what):
    assert actual.shape == expected.shape, what
    assert actual.dtype == expected.dtype, what
    np.testing.assert_array_equal(
        actual.astype(np.float64), expected.astype(np.float64), err_msg=what
    )


# ---- any layout, exactly ------------------------------------------------------------------------


@pytest.mark.in_turn
def test_results_of_any_layout_are_exact_where_nothing_rounds(backend):
    @examples(0.3)
    @given(calls(backend, whole_network, EXACT, DTYPES), st.integers(0, 99), st.data())
    def right(call, seed, data):
        placed, arguments, options = call
        expected = FORWARD.reference(*views(arguments), **options)
        out, to = {}, None
        if expected.size and data.draw(st.booleans()):
            layout = data.draw(layouts(expected.shape, expected.dtype.itemsize, writable=True))
            to = place(np.zeros(expected.shape, expected.dtype), layout)
            out = {"out": backend.array(to.view)}
        with backend.context(seed):
            y = nnk.mlp(*views(arguments, backend.array), **options, **out)
        if backend.recording:
            return
        assert all(p.is_unchanged for p in placed)
        assert to is None or to.is_unchanged_outside
        same_numbers(backend.numpy(y), expected, "y")

    backend.precompiled(right)


@pytest.mark.in_turn
def test_gradients_of_any_layout_are_exact_where_nothing_rounds(backend):
    check_gradients(backend, calls(backend, whole_network, EXACT, DTYPES, 3), same_numbers)


@pytest.mark.in_turn
def test_gradients_of_smooth_activations(backend):
    def close(actual, expected, what):
        assert_close(actual, expected, 4 * 128, what=what)

    check_gradients(
        backend, calls(backend, real_network, SMOOTH, ("float32", "float64"), 2), close, 0.1
    )


def check_gradients(backend, strategy, compare, share=0.1):
    @examples(share)
    @given(strategy, st.integers(0, 99))
    def right(call, seed):
        placed, arguments, options = call
        dy = placed[-1].view
        with backend.context(seed):
            y, pullback = nnk.vjp(nnk.mlp, *views(arguments, backend.array), **options)
            found = pullback(backend.array(dy))
            again = nnk.mlp_backward(backend.array(dy), *views(arguments, backend.array), **options)
        if backend.recording:
            return
        assert all(p.is_unchanged for p in placed)
        compare(backend.numpy(y), FORWARD.reference(*views(arguments), **options), "y")
        assert len(found) == 3
        expected = BACKWARD.reference(dy, *views(arguments), **options)
        if arguments[2] is None:
            assert again[2] is None
            assert found[2] is None
        names = ["dx", *(f"dweights[{i}]" for i in range(len(arguments[1])))]
        names += [f"dbiases[{i}]" for i in range(len(arguments[1]))]
        for name, a, b, e in zip(
            names, *map(registry.flat, (found, again, expected)), strict=False
        ):
            if e is None:
                assert a is None
                assert b is None
                continue
            compare(backend.numpy(a), e, name)
            assert_same_bits(backend.numpy(b), backend.numpy(a), name)

    backend.precompiled(right)


@pytest.mark.parametrize("width", [6, 130], ids=["one kernel", "layers"])
def test_what_is_not_wanted_is_not_made(cpu, monkeypatch, width):
    from nnkernels.dispatch import matmul_gradients

    generator = np.random.default_rng(4)
    x, *rest = whole_network(generator, (9,), (4, width, 3), "float64")
    weights, biases, dy = rest[:2], [rest[2], None], np.ones((9, 3))
    made = []
    product = matmul_gradients._product
    monkeypatch.setattr(
        matmul_gradients, "_product", lambda *a, **k: made.append(1) or product(*a, **k)
    )
    between = width > 128  # where layers are kernels of their own, a product goes back through each

    def body():
        everything = nnk.mlp_backward(dy, x, weights, biases)
        for wrt, wanted in (
            (0, {0}),
            ((1,), {1}),
            ([-1], {2}),
            ((0, 2), {0, 2}),
            (None, {0, 1, 2}),
        ):
            made.clear()
            _, pullback = nnk.vjp(nnk.mlp, x, weights, biases=biases, wrt=wrt)
            found = pullback(dy)
            assert {i for i, g in enumerate(found) if g is not None} == wanted
            assert len(made) == 2 * (1 in wanted) + between * (1 + (0 in wanted))
            for i in wanted:
                for a, b in zip(*map(registry.flat, (found[i], everything[i])), strict=True):
                    assert cpu.recording or a is b is None or np.array_equal(a, b)

    cpu.precompiled(body)
    with pytest.raises(ValueError, match="position 2"):
        nnk.vjp(nnk.mlp, x, weights, wrt=2)


# ---- which kernels run --------------------------------------------------------------------------


def problem(rows, widths, dtype):
    """Of dense, aligned arrays."""
    element = {"float16": "half", "float32": "float", "float64": "double"}[dtype]
    size = numpy_dtype(dtype).itemsize
    strides = tuple((n * size, size) for n in (widths[0], widths[-1]))
    return MlpProblem(
        rows, widths, element, size, max(size, 4), strides, (16, 16), rows * max(widths) * size
    )


MANY = 2**18
# What is chosen: math, rows of a tile, its width, whether weights are kept, terms of a slice.
CHOICES = {
    ("cpu", "float32", MANY, (64,) * 7): ("simd", 48, 64, True, 64),
    ("cpu", "float32", MANY, (128,) * 20): ("simd", 384, 128, False, 128),
    ("cpu", "float32", MANY, (16, 16)): ("simd", 56, 16, True, 16),
    ("sm_80", "float16", MANY, (64,) * 7): ("tensor", 128, 64, True, 64),
    ("sm_80", "float16", MANY, (128,) * 7): ("tensor", 128, 128, False, 128),
    ("sm_80", "float16", 900, (64,) * 7): ("tensor", 32, 64, True, 64),
    ("sm_80", "float32", MANY, (64,) * 7): ("simt", 128, 64, False, 64),
    ("sm_80", "float32", MANY, (16,) * 3): ("simt", 128, 16, True, 16),
    ("sm_80", "float64", MANY, (128,) * 3): ("simt", 64, 128, False, 64),
    ("gfx90a", "float16", MANY, (16,) * 3): ("tensor", 128, 32, True, 32),
    ("gfx90a", "float16", MANY, (128,) * 7): ("tensor", 128, 128, False, 64),
    ("gfx90a", "float64", MANY, (128,) * 3): ("simt", 32, 128, False, 16),
    ("gfx1100", "float16", MANY, (64,) * 7): ("tensor", 128, 64, False, 64),
}


@pytest.mark.parametrize("key", CHOICES, ids=str)
def test_choice(key):
    arch, dtype, rows, widths = key
    device = Backend("cpu").device if arch == "cpu" else PROFILES[arch]
    if arch == "cpu" and device.vector_bytes != 64:
        pytest.skip("micro-tiles are those of AVX-512")
    chosen = config.configure(problem(rows, widths, dtype), device)
    math = "simd" if chosen.micro_m else "simt" if chosen.atom is None else "tensor"
    assert (math, chosen.rows, chosen.width, chosen.kept, chosen.slice) == CHOICES[key]
    assert arch == "cpu" or chosen.shared_bytes <= device.shared_limit


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("arch", PROFILES)
def test_every_width_and_depth_has_tiles(arch, dtype):
    for width in (1, 16, 17, 64, 128):
        for layers in (1, 2, 9, 32):
            for rows in (1, 1000, MANY):
                chosen = config.configure(
                    problem(rows, (width,) * (layers + 1), dtype), PROFILES[arch]
                )
                assert chosen.shared_bytes <= PROFILES[arch].shared_limit
                assert chosen.capacity >= layers


def test_blocks_are_as_many_as_there_is_room_for():
    """By registers, on NVIDIA's matrix cores, and by shared memory."""
    for arch, width, dtype, rows, blocks in (
        ("sm_90a", 64, "float16", MANY, 3),
        ("sm_90a", 128, "float16", MANY, 1),
        ("sm_90a", 128, "float32", MANY, 2),
        ("gfx90a", 128, "float16", MANY, 1),
        ("sm_90a", 128, "float16", 129, 0),
    ):
        device = PROFILES[arch]
        chosen = config.configure(problem(rows, (width,) * 7, dtype), device)
        assert chosen.blocks == (blocks * device.processors or -(-rows // chosen.rows))


def kernels(widths, batch=(40,), name="mlp", dtype="float32"):
    """Headers of the kernels of a call on the CPU."""
    op = FORWARD if name == "mlp" else BACKWARD
    shapes = network(batch, widths)
    shapes = shapes if name == "mlp" else ((*batch, widths[-1]), *shapes)
    arrays = [np.zeros(shape, numpy_dtype(dtype)) for shape in shapes]
    first, layers = len(arrays) - 2 * (len(widths) - 1), len(widths) - 1
    lists = [arrays[first : first + layers], arrays[first + layers :]]
    found = launches(op.function, [*arrays[:first], *lists], {}, Backend("cpu").device)
    return [launch.instance.header for launch in found]


def test_narrow_networks_are_one_kernel_and_others_go_layer_by_layer():
    assert kernels((7, 128, 128, 5)) == ["mlp"]
    assert kernels((7, *(16,) * 31, 5)) == ["mlp"]
    for widths in ((129, 8, 8), (8, 129, 8), (8, 8, 129), (0, 8, 8), (8,) * 34):
        found = kernels(widths)
        assert found
        assert all(header.startswith(("matmul", "gemv")) for header in found)
    assert kernels((7, 16, 5), name="mlp_backward")[:2] == ["mlp", "mlp_backward"]


@pytest.mark.in_turn
@pytest.mark.parametrize(
    ("arch", "layers", "dtype"),
    [("sim:sm_80", 3, "float16"), ("sim:sm_80", 7, "float32"), ("sim:gfx90a", 3, "float16"),
     ("sim:gfx90a", 2, "float64"), ("cpu", 20, "float32")],
)  # fmt: skip
def test_large_tiles(arch, layers, dtype, monkeypatch):
    """Tiles of many rows, that small batches do not get: with kept and with reread weights."""
    backend = Backend(arch)
    generator = np.random.default_rng(layers)
    width = 64 if dtype == "float32" and layers == 7 else 128
    x, *rest = whole_network(generator, (150,), (width,) * (layers + 1), dtype)
    arguments = x, rest[:layers], rest[layers:]
    if not backend.is_cpu:
        original = config._for_gpu
        monkeypatch.setattr(config, "_for_gpu", lambda p, d: original(p, replace(d, processors=1)))
    backend.machine.plans.clear()
    with backend.context(1):
        y = nnk.mlp(*arguments, activation="relu6")
    backend.machine.plans.clear()
    same_numbers(y, FORWARD.reference(*arguments, activation="relu6"), "y")


def test_rows_have_the_same_bits_in_any_batch_and_layout(cpu):
    generator = np.random.default_rng(5)
    x, *rest = real_network(generator, (300,), (19, 64, 50, 7), "float32")
    weights, biases = rest[:3], rest[3:]
    with cpu.context():
        y = nnk.mlp(x, weights, biases, activation="gelu")
        part = nnk.mlp(x[17:20], weights, biases, activation="gelu")
        turned = nnk.mlp(
            np.asfortranarray(x), [np.asfortranarray(w) for w in weights], biases, activation="gelu"
        )
    assert_same_bits(part, y[17:20], "part of the rows")
    assert_same_bits(turned, y, "another layout")


def rows_as(kind, rows):
    """The same rows, at other distances from each other."""
    count, columns = rows.shape
    if kind == "turned":
        return rows[::-1].copy()[::-1]
    padded = np.full((count, 4096 // rows.itemsize if kind == "page" else columns + 3), np.nan)
    padded = padded.astype(rows.dtype)
    padded[:, :columns] = rows
    return padded[:, :columns]


# A kernel of the CPU for each width and dtype takes seconds to compile: each of both once at least.
@pytest.mark.parametrize(
    ("width", "dtype"),
    [(16, "float32"), (16, "float64"), (64, "float32"), (64, "float16"), (128, "float32")],
)
def test_rows_in_place_have_the_bits_of_copied_ones(cpu, dtype, width):
    """Whole micro-tiles are read and written where they lie, others by way of the tile."""
    count = 168  # of tiles of 48 and 56 rows, some are whole
    generator = np.random.default_rng(width)
    x, *rest = real_network(generator, (count,), (width, width, 24, width), dtype)
    x[3, 2], x[50, 1] = np.nan, np.inf
    weights, biases = rest[:3], rest[3:]
    with cpu.context():
        for activation in ("relu", "gelu"):
            options = {"activation": activation, "output_activation": activation}
            copied = nnk.mlp(np.asfortranarray(x), weights, biases, **options)
            for kind in ("dense", "padded", "page", "turned"):
                given = x if kind == "dense" else rows_as(kind, x)
                to = rows_as(kind, np.zeros_like(x)) if kind != "dense" else np.zeros_like(x)
                nnk.mlp(given, weights, biases, out=to, **options)
                assert_same_bits(to, copied, f"{kind}, {activation}")
                assert kind in ("dense", "turned") or np.isnan(to.base[:, width:]).all()
            some = nnk.mlp(x[: count - 1], weights, biases, **options)
            assert_same_bits(some, copied[: count - 1], "a micro-tile that is not whole")


def test_relu_of_sums_of_nothing_is_no_negative_zero(cpu):
    x = np.array([[-0.0, np.nan, -np.nan, -np.inf, np.inf, -1e-45]], np.float32)
    with cpu.context():
        y = nnk.relu(x)
        layer = nnk.mlp(np.zeros((1, 1), np.float32), [np.zeros((6, 1), np.float32)], [x[0]],
                        output_activation="relu")  # fmt: skip
    expected = np.array([[0.0, np.nan, np.nan, 0.0, np.inf, 0.0]])
    for actual in (y, layer):
        np.testing.assert_array_equal(actual, expected)
        assert not np.signbit(actual[~np.isnan(actual)]).any()


def test_what_is_written_of_layers_goes_past_small_caches(cpu, monkeypatch):
    found, original = [], config._for_cpu

    def chosen(problem, device):
        found.append((problem.kept, original(problem, replace(device, cache_bytes=limit[0]))))
        return found[-1][1]

    monkeypatch.setattr(config, "_for_cpu", chosen)
    generator = np.random.default_rng(4)
    x, *rest = real_network(generator, (100,), (16, 17, 64, 5), "float32")
    weights, biases, dy = rest[:3], rest[3:], np.ones((100, 5), np.float32)
    limit, gradients = [1 << 30], []
    with cpu.context():
        for limit[0] in (1 << 30, 100 * (5 * 4 + 80 + 256), 100 * (5 * 4 + 80 + 256) + 1):
            cpu.machine.plans.clear()
            gradients.append(nnk.mlp_backward(dy, x, weights, biases, activation="silu"))
        cpu.machine.plans.clear()
    # z of two layers; dz of three and h of two of them. Rows of 17 numbers are 80 bytes apart.
    assert {kept for kept, _ in found} == {100 * (80 + 256), 100 * (2 * (80 + 256) + 32)}
    assert [c.streaming for _, c in found] == [False, False, True, True, False, True]
    for other in gradients[1:]:
        for a, b in zip(registry.flat(other), registry.flat(gradients[0]), strict=True):
            assert_same_bits(a, b, "past the caches")


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(arch) for arch in ("sm_80", "gfx90a")])
@gpu_compilers.needs_nvdisasm
def test_machine_code(arch):
    """Matrix cores multiply, nothing spills, and rows are read and written 16 bytes at a time."""

    def wanted(dtype, problem):
        return problem.label in ("width 64", "width 128")

    found = [c for op in (FORWARD, BACKWARD) for c in choices(op, ("float16",), arch, wanted)]
    found = [c for c in found if c.launch.instance.header.startswith("mlp")]
    assert len(found) >= 4
    compiled = compile_all(found, arch)
    for choice in found:
        code = compiled[choice.launch.instance.symbol]
        assert code.spill_bytes == code.local_bytes == 0, choice.launch.instance.kernel
        if arch == "sm_80":
            width = 64 if choice.problem.label == "width 64" else 128
            assert code.registers <= config._REGISTERS_OF_THREAD[width]
        assert any(name.startswith(("HMMA", "v_mfma")) for name in code.mix)
        assert code.loads[16] >= 2  # rows and weights
        assert code.stores[16] >= 1


OWN_KERNEL = """
struct OwnMlp {
  using Math = MlpMath<float, 32, 32, 64>;
  struct Args {
    const float* x;
    float* y;
    const float *weight0, *bias0, *weight1;
  };
  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const float* const none = nullptr;
    const auto memory = Math::memory(group, 0, 2);
    const MlpNet<float, 2> net = {
        {dense_layer(args.weight0, args.bias0, 5, 20), dense_layer(args.weight1, none, 20, 3)}};
    Math::load(group, memory, net);
    const int columns = Math::padded(5);
    for (int i = group.rank(); i < 32 * columns; i += Math::threads) {
      const int row = i / columns, column = i % columns;
      memory.rows.store(Math::slot(row, column), column < 5 ? args.x[row * 5 + column] : 0.0f);
    }
    mlp_block<Math, Relu>(group, memory, net, none, none, 32);
    for (int i = group.rank(); i < 32 * 3; i += Math::threads)
      args.y[i] = memory.rows.load(Math::slot(i / 3, i % 3));
  }
};
"""


@pytest.mark.in_turn
@pytest.mark.parametrize("arch", ["cpu", "sim:sm_80", "sim:gfx90a"])
def test_block_in_a_kernel_of_ones_own(arch):
    generator = np.random.default_rng(3)
    x, *rest = whole_network(generator, (32,), (5, 20, 3), "float32")
    y = np.full((32, 3), np.nan, np.float32)
    arrays = x, y, rest[0], rest[2], rest[1]
    backend = Backend(arch)
    threads = 1 if backend.is_cpu else 64
    instance = Instance("mlp_block", "OwnMlp", threads, ("activations",), (OWN_KERNEL,))
    start = backend.machine.prepare(instance, 1, 48 * 1024, 0)
    start(pointer_struct(len(arrays)).pack(*(a.ctypes.data for a in arrays)))
    same_numbers(y, FORWARD.reference(x, rest[:2], [rest[2], None]), "y")


# ---- accuracy -----------------------------------------------------------------------------------


def float16_sums(x, weights, biases):
    """The network with float16 accumulation: every sum is rounded after every term."""
    h = x
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        sums = np.zeros((len(h), len(weight)), np.float16)
        for k in range(weight.shape[1]):
            products = h[:, k : k + 1].astype(np.float32) * weight[:, k].astype(np.float32)
            sums = (sums.astype(np.float32) + products).astype(np.float16)
        h = (sums + bias).astype(np.float16)
        h = h if i == len(weights) - 1 else np.maximum(h, np.float16(0))
    return h


@pytest.mark.parametrize("arch", ["cpu", "sim:sm_80"])
def test_float32_sums_are_more_accurate_than_float16_ones(arch):
    generator = np.random.default_rng(0)
    x, *rest = real_network(generator, (256,), (64,) * 6, "float16")
    weights = [(w * 2.8).astype(np.float16) for w in rest[:5]]
    biases = rest[5:]
    with Backend(arch).context():
        y = nnk.mlp(x, weights, biases)
    wide = [[a.astype(np.float64) for a in part] for part in ([x], weights, biases)]
    exact = FORWARD.reference(wide[0][0], *wide[1:])

    def error(result):
        return np.sqrt(np.mean((result.astype(np.float64) - exact) ** 2) / np.mean(exact**2))

    assert error(y) < 0.5 * error(float16_sums(x, weights, biases))


# ---- wrong calls --------------------------------------------------------------------------------

X = np.zeros((3, 4), np.float32)
W = [np.zeros((5, 4), np.float32), np.zeros((2, 5), np.float32)]
B = [np.zeros(5, np.float32), np.zeros(2, np.float32)]
WRONG = {
    "chain": (
        lambda: nnk.mlp(X, [W[0], W[0]]), ShapeError,
        "weights[1] has shape (5, 4), so that it takes 4 inputs, which are not the 5 outputs of "
        "weights[0], of shape (5, 4)",
    ),
    "x": (
        lambda: nnk.mlp(X[:, :3], W), ShapeError,
        "weights[0] has shape (5, 4), so that it takes 4 inputs, which are not the 3 of the last "
        "axis of x, of shape (3, 3)",
    ),
    "no matrix": (lambda: nnk.mlp(X, [B[0]]), ShapeError, "weights[0] has shape (5,)"),
    "bias": (
        lambda: nnk.mlp(X, W, [B[0], B[0]]), ShapeError,
        "biases[1] has shape (5,) and weights[1] (2, 5); the bias must have the shape (2,)",
    ),
    "count": (lambda: nnk.mlp(X, W, [None]), ShapeError, "there are 2 weights and 1 biases"),
    "empty": (lambda: nnk.mlp(X, []), ShapeError, "weights is empty"),
    "scalar": (lambda: nnk.mlp(np.float32(1), W), ShapeError, "x has shape ()"),
    "array": (lambda: nnk.mlp(X, W[0]), TypeError, "weights must be a list or tuple"),
    "dtypes": (
        lambda: nnk.mlp(X, [W[0], W[1].astype(np.float16)]), DTypeError,
        "weights[1] has dtype float16 and x float32",
    ),
    "integers": (lambda: nnk.mlp(X.astype(int), W), DTypeError, "x has dtype int64"),
    "list": (lambda: nnk.mlp(X, [W[0], [1.0]]), DTypeError, "weights[1] must be an array"),
    "activation": (lambda: nnk.mlp(X, W, activation="rule"), ValueError, "activation must be"),
    "output": (
        lambda: nnk.mlp(X, W, output_activation=3), TypeError, "output_activation must be"
    ),
    "out": (lambda: nnk.mlp(X, W, out=X), ShapeError, "out has shape (3, 4)"),
    "overlap": (
        lambda: nnk.mlp(W[1][:, :4], W, out=W[1][:, :2]), ShapeError, "out shares memory"
    ),
    "cotangent": (lambda: nnk.mlp_backward(X, X, W), ShapeError, "dy has shape (3, 4)"),
    "cotangent dtype": (
        lambda: nnk.mlp_backward(X[:, :2].astype(np.float64), X, W), DTypeError,
        "dy has dtype float64",
    ),
    "pullback": (
        lambda: nnk.vjp(nnk.mlp, X, W)[1](X), ShapeError, "dy has shape (3, 4)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("machine", ["cpu", "reference"])
def test_wrong_calls(name, machine):
    call, error, words = WRONG[name]
    with nnk.use_backend(machine), pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert words in str(caught.value)


def test_reference_backend_and_keywords():
    generator = np.random.default_rng(1)
    x, *rest = whole_network(generator, (9,), (4, 6, 3), "float32")
    weights, biases = rest[:2], [rest[2], None]
    dy = np.ones((9, 3), np.float32)
    expected = nnk.mlp(x, weights, biases), nnk.mlp_backward(dy, x, weights, biases)
    with nnk.use_backend("reference"):
        out = np.zeros((9, 3), np.float32)
        assert nnk.mlp(x, weights, biases=biases, out=out) is out
        again = out, nnk.mlp_backward(dy, x, weights, biases=biases)
    for a, b in zip(registry.flat(expected), registry.flat(again), strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)


def test_networks_that_are_no_plain_chain_of_axes():
    """A vector is a row, and empty batches have gradients of zeros."""
    generator = np.random.default_rng(2)
    x, *rest = whole_network(generator, (), (4, 6, 3), "float64")
    weights, biases = rest[:2], rest[2:]
    assert nnk.mlp(x, weights, biases).shape == (3,)
    gradients = nnk.mlp_backward(np.ones((0, 3)), np.ones((0, 4)), weights, biases)
    assert gradients[0].shape == (0, 4)
    assert not any(np.any(g) for g in registry.flat(gradients[1:]))
    assert prod(gradients[1][0].shape) == 24
