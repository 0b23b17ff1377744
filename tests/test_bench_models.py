"""End-to-end rows of the bench are right, and so are its peer SciPy and what it tells of calls."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import bench_runs
import numpy as np
import pytest
from bench_runs import bench, module

from nnkernels.dispatch.machines import for_reference
from nnkernels.registry import all_ops

_ = bench, module  # fixtures


def small_bench(module, *peers):
    """Rows with warm caches, timed once."""
    once = module("timing").Settings(min_time=0.01, repeat=1, settle=0.0)
    return bench_runs.small_bench(
        module, list(peers), settings=once, warm_bytes=1 << 30, memory_bytes=lambda: 1 << 32
    )


def small_models(module):
    """A problem of each model, in float64, where a wrong formula cannot hide in rounding."""
    shapes = {"digits step": (6, 9), "transformer block": (2, 5, 128)}
    shapes["transformer step"] = shapes["transformer block"]
    problem = module("problems").Problem
    return [problem(name, shape, "float64") for name, shape in shapes.items()]


# ---- models --------------------------------------------------------------------------------


def test_models_are_those_of_pytorch(module):
    pytest.importorskip("torch")
    torch = module("peers").open_peer("torch", False, 1)
    for problem in small_models(module):
        row = module("measure").measure(problem, small_bench(module, torch))
        assert {name: t["status"] for name, t in row["timings"].items()} == {
            "nnkernels": "ok",
            "torch": "ok",
        }, row["timings"]
        assert row["family"] == "models"
        assert "GFLOP/s" in module("report").table([row], ["torch"])


@pytest.mark.parametrize("name", ["lenet", "resnet8"])
def test_steps_of_networks_are_those_of_pytorch(module, name):
    """By the references: tests/test_convergence.py has the kernels."""
    torch = pytest.importorskip("torch")
    problem = module("problems").Problem(f"{name} step", (3, 1, 4, 4), "float64")
    operands = module("problems").random_operands(problem, None)
    theirs = module("torch_vision").step(torch, problem.op)(*map(torch.tensor, operands))
    ours = problem.record.reference(*operands)
    assert len(ours) == len(theirs) == problem.record.outputs
    for got, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, right.numpy(), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("part", range(14))
def test_every_result_of_a_model_is_checked(module, part):
    measure = module("measure")
    problem = small_models(module)[2]
    operands = module("problems").random_operands(problem, None)
    results = problem.record.reference(*operands)
    assert len(results) == problem.record.outputs == 14
    assert [r.shape for r in results[1:]] == [x.shape for x in operands[1:]]
    changed = [r.copy() for r in results]
    changed[part].flat[-1] += 1e-6
    expected = ..., results
    assert measure._error(expected, list(results), problem) == 0
    assert measure._error(expected, changed, problem) > 1


def test_reference_is_made_of_references(module):
    models = module("models")
    problem = small_models(module)[1]
    operands = module("problems").random_operands(problem, None)
    seen = []

    def block(*arrays):
        seen.append(({x.dtype for x in arrays}, for_reference()))
        return arrays[0]

    result = models._reference(block)(*(x.astype(np.float32) for x in operands))
    assert seen == [({np.dtype(np.float64)}, True)]
    assert not for_reference()
    assert result.dtype == np.float32


def test_digits_step_is_that_of_the_example(module, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "examples"))
    digits, models = importlib.import_module("digits"), module("models")
    problem = small_models(module)[0]
    operands = dict(
        zip(
            problem.record.arrays,
            module("problems").random_operands(problem, None),
            strict=True,
        )
    )
    weights = [operands["weight1"].copy(), operands["weight2"].copy()]
    adam = digits.Adam(weights, models.RATE)
    adam.steps = models.STEPS - 1
    adam.means = [operands["mean1"].copy(), operands["mean2"].copy()]
    adam.squares = [operands["square1"].copy(), operands["square2"].copy()]
    cotangent = digits.loss_cotangents(np, operands["labels"], 6)
    np.testing.assert_allclose(operands["cotangent"], cotangent, rtol=1e-6)
    before = digits.evaluate(np, operands["images"], operands["labels"], weights)[0]
    adam.update(digits.gradients(operands["images"], operands["cotangent"], weights))

    loss, *state = models.digits_step(*operands.values())
    np.testing.assert_allclose(loss, [before], rtol=1e-12)
    expected = [weights[0], adam.means[0], adam.squares[0]]
    expected += [weights[1], adam.means[1], adam.squares[1]]
    for got, right in zip(state, expected, strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-12)


def test_operands_stay_as_they_are(module):
    for problem in small_models(module):
        operands = module("problems").random_operands(problem, None)
        before = [x.copy() for x in operands]
        problem.record.function(*operands)
        for x, y in zip(operands, before, strict=True):
            np.testing.assert_array_equal(x, y)


def test_flops_are_those_of_the_products(module):
    problem = module("problems").Problem("transformer block", (8, 128, 256))
    shapes = module("problems").operand_shapes(problem)
    rows, width = 8 * 128, 256
    products = rows * width * (3 * width + width + 4 * width + 4 * width)
    attention = 2 * 8 * 4 * 128 * 128 * 64
    assert problem.record.flops(shapes, {}) == 2 * (products + attention)


@pytest.mark.parametrize(
    ("name", "channels", "dense"), [("lenet", 1, 2450 * 500), ("resnet8", 3, 640)]
)
def test_flops_of_a_training_step(module, name, channels, dense):
    problem = module("problems").Problem(f"{name} step", (64, channels, 28, 28))
    convs = {
        "lenet": (1 * 20 * 25 * 784, 20 * 50 * 25 * 196),
        "resnet8": (
            *(3 * 16 * 9 * 784, 16 * 16 * 9 * 784, 16 * 16 * 9 * 784),
            *(16 * 32 * 9 * 196, 32 * 32 * 9 * 196, 16 * 32 * 196),
            *(32 * 64 * 9 * 49, 64 * 64 * 9 * 49, 32 * 64 * 49),
        ),
    }[name]
    products = sum(convs) + dense + (5000 if name == "lenet" else 0)
    shapes = module("problems").operand_shapes(problem)
    # Each has two gradients; the images have none.
    assert problem.record.flops(shapes, {}) == 2 * 64 * (3 * products - convs[0])


def test_suites_have_every_family(module):
    problems, suites = module("problems"), module("suites")
    overview = suites.problems_of("overview")
    assert not any(problems.obstacle(problem) for problem in overview)
    assert {p.record.family for p in overview} == {
        op.family for op in problems.known_ops().values()
    }
    assert {p.min_time for p in overview} == {suites.OVERVIEW_SECONDS}
    assert {p.op for p in suites.problems_of("models")} == set(module("models").OPS)


def test_make_bench_times_the_overview():
    makefile = (bench_runs.BENCH.parent / "Makefile").read_text()
    assert "BENCH_ARGS ?= --suite overview\n" in makefile


# ---- SciPy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_functions_of_scipy_are_the_same_functions(module, dtype):
    problems, measure, peers = module("problems"), module("measure"), module("peers")
    pytest.importorskip("scipy")
    scipy, compared = peers.open_peer("scipy", False, 1), set()
    for op in all_ops().values():
        shape = (2, 4, 8, 10) if op.family in ("conv", "windows", "pool", "norm") else (5, 6, 7)
        cases = [""]
        if op.name == "interpolate":
            cases = ["linear x2", "nearest x2", "linear x0.5", "linear x1.5", "cubic x2"]
        if op.name == "conv":
            cases = ["6 3x3", "6 1x1", "6 3x3/2", "4 3x3 g2"]
        for case in cases:
            problem = problems.Problem(op.name, shape, dtype, problems.default_axis(op), case=case)
            functions = scipy.functions(problem)
            if functions is None:
                continue
            operands = problems.random_operands(problem, lambda n, x: all_ops()[n].reference(x))
            expected = measure._expected(problem, operands)
            error = measure._error(expected, [functions.call(*operands)], problem)
            assert error <= 1, problem.label
            compared.add(problem.name)
            if functions.call_out is not None:
                out = np.full_like(expected[1][0], -77)
                functions.call_out(*operands, out=out)
                assert measure._error(expected, [out], problem) <= 1, problem.label
    if dtype == "bfloat16":
        assert not compared
        return
    assert {"softmax", "sigmoid", "gelu", "gelu_backward", "max_pool"} <= compared
    assert {"conv 6 3x3", "conv 6 1x1", "interpolate nearest x2"} <= compared
    assert not {"conv 6 3x3/2", "conv 4 3x3 g2", "interpolate cubic x2"} & compared


def test_scipy_is_no_peer_on_a_gpu(module):
    with pytest.raises(module("peers").Unavailable, match="scipy cannot take CuPy arrays"):
        module("peers").open_peer("scipy", True, 1)


# ---- what a first call, a check and the host cost ------------------------------------------


def test_time_of_a_cold_first_call(bench, tmp_path):
    path = tmp_path / "result.json"
    options = ["--op", "relu_backward", "--shape", "8x8", "--peer", "none", "--repeat", 1]
    status, out, _ = bench(*options, "--compile-time", "--json", path)
    assert status == 0
    assert "cold" in out
    (row,) = json.loads(path.read_text())["rows"]
    # It compiles: that is neither a warm call nor a minute.
    assert 0.05 < row["timings"]["nnkernels"]["cold_s"] < 60
    _, out, _ = bench(*options)
    assert "cold" not in out


def test_cold_call_of_every_kind_of_operand(module, monkeypatch, tmp_path):
    """The process makes the operands without a kernel; here with all of them at hand."""
    cold, problem = module("compile_time"), module("problems").Problem
    for op, axis in (("logsumexp_backward", -1), ("softmax_backward", -1), ("digits step", None)):
        fields = {"op": op, "shape": [4, 6], "dtype": "float64", "axis": axis}
        fields |= {"layout": "contiguous", "case": ""}
        assert problem(**fields).record
        assert cold._first_call(json.dumps(fields), "cpu", 2) > 0


def test_a_failed_first_call_shows_its_error(module, monkeypatch):
    monkeypatch.setattr(module("compile_time"), "_BENCH", Path("/nowhere"))
    problem = SimpleNamespace(op="nothing", shape=[1], dtype="", axis=None, layout="", case="")
    with pytest.raises(RuntimeError, match="KeyError: 'nothing'"):
        module("compile_time").cold_seconds(problem, "cpu", 1)


def test_the_host_has_a_column_where_it_is_not_the_time(module):
    report = module("report")
    timings = {
        "nnkernels": {"median_s": 1e-3, "host_median_s": 4e-6},
        "torch": {"median_s": 1e-3, "host_median_s": 6e-6},
        "cupy": {"status": "missing"},
    }
    peers = ["torch", "cupy"]
    assert report._host({"backend": "cupy", "timings": timings}, peers) == "4 us / 6 us / -"
    assert report._host({"backend": "cpu", "timings": timings}, peers) == ""


class Slow:
    """A library whose relu is right, and slow to the clock."""

    name = "slow"

    def __init__(self, seconds, clock):
        self.seconds, self.clock, self.calls = seconds, clock, 0

    def adopt(self, array):
        return array

    export = adopt

    def functions(self, problem):
        def relu(x):
            self.calls += 1
            self.clock.now += self.seconds
            return np.maximum(x, 0)

        return sys.modules["peers"].Functions(relu)


class Clock:
    """Stands for the module ``time``: it goes on by itself, a little, and by calls."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 2e-4
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(("seconds", "times"), [(10.0, 1), (0.5, 3)])
def test_the_call_that_is_checked_is_the_one_that_counts_if_it_is_slow(
    module, monkeypatch, seconds, times
):
    clock = Clock()
    monkeypatch.setattr(module("timing"), "time", clock)
    monkeypatch.setattr(module("measure"), "time", clock)
    slow = Slow(seconds, clock)
    row = module("measure").measure(
        module("problems").Problem("relu", (8, 8)), small_bench(module, slow)
    )
    assert row["timings"]["slow"]["median_s"] == pytest.approx(seconds, rel=1e-3)
    assert slow.calls == 1 if times == 1 else slow.calls >= times
    assert row["ratios"]["slow"] > 1


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8", "int64"])
@pytest.mark.parametrize("op", ["matmul", "gemm", "gemv", "linear"])
def test_sums_of_integers_are_checked_exactly(module, op, dtype):
    measure, peers = module("measure"), module("peers")
    problem = module("problems").Problem(op, (7, 300) if op == "gemv" else (7, 300, 5), dtype)
    operands = module("problems").random_operands(problem, None)
    index, references = measure._expected(problem, operands)
    # In 16 bits these sums wrap, and float64 would not.
    assert (references[0].dtype == np.float64) == (dtype != "int16")
    positional, options = problem.record.arguments(operands, problem.options)
    right = peers.as_tuple(problem.record.reference(*positional, **options))
    assert measure._error((index, references), list(right), problem) == 0
    right[0].flat[-1] += 1
    assert measure._error((index, references), list(right), problem) > 1
