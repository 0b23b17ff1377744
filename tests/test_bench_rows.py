"""A row of the bench is right: its peers compute the same, and what is wrong has no time."""

import json
import math

import bench_runs
import numpy as np
import pytest
from bench_runs import module

from nnkernels.registry import all_ops

_ = module  # fixtures

# ---- peers ----------------------------------------------------------------------------------


@pytest.fixture
def open_peer(module):
    def open_it(name):
        if not bench_runs.importable(name):
            pytest.skip(f"needs {name}")
        threads = None
        if name == "torch":
            import torch

            threads = torch.get_num_threads()
        return module("peers").open_peer(name, on_gpu=False, threads=threads)

    return open_it


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("peer", ["numpy", "torch"])
def test_functions_of_peers_are_the_same_functions(module, open_peer, peer, dtype, layout):
    problems, measure = module("problems"), module("measure")
    library, compared = open_peer(peer), 0
    for op in all_ops().values():
        problem = bench_runs.small_problem(module, op, dtype, layout=layout)
        functions = library.functions(problem)
        if functions is None:
            continue
        operands = problems.random_operands(problem, bench_runs.reference_result)
        arrays = [library.adopt(problems.laid_out(np, x, layout)) for x in operands]
        expected = measure._expected(problem, operands)
        results = module("peers").as_tuple(functions.call(*arrays))
        error = measure._error(expected, [library.export(part) for part in results], problem)
        assert error <= 1, op.name
        compared += 1
        if functions.call_out is None:
            continue
        (reference,) = expected[1]
        out = np.full_like(reference, -77)
        functions.call_out(*arrays, out=library.adopt(out))
        assert measure._error(expected, [out], problem) <= 1, f"{op.name} with out="
    assert compared >= 30


def test_torch_sees_the_memory_itself(module, open_peer):
    library = open_peer("torch")
    x = np.arange(6, dtype=np.float32).reshape(2, 3).T
    tensor = library.adopt(x)
    assert tensor.data_ptr() == x.ctypes.data
    assert tensor.stride() == (1, 3)


def test_layouts_are_those_of_their_names(module):
    values = np.arange(15, dtype=np.float32).reshape(3, 5)
    strides = {"contiguous": (20, 4), "transposed": (4, 12), "strided": (40, 8)}
    for layout, expected in strides.items():
        array = module("problems").laid_out(np, values, layout)
        assert array.strides == expected
        assert (array == values).all()
    image = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    array = module("problems").laid_out(np, image, "channels_last")
    assert array.strides == (240, 4, 60, 12)
    assert (array == image).all()


# ---- one row --------------------------------------------------------------------------------


class Doubtful:
    """A library whose relu is NumPy's, changed by a function."""

    def __init__(self, name, change):
        self.name, self.change = name, change

    def adopt(self, array):
        return array

    export = adopt

    def functions(self, problem):
        from peers import Functions

        return Functions(lambda x: self.change(np.maximum(x, 0)))


def _spoiled(y):
    y.flat[7] = math.nan
    return y


def _fails(y):
    raise ValueError("not today")


def test_wrong_and_failing_providers_are_not_timed(module):
    peers = [
        Doubtful("right", lambda y: y),
        Doubtful("inaccurate", lambda y: y * (1 + 1e-5)),
        Doubtful("nan", _spoiled),
        Doubtful("short", lambda y: y[:-1]),
        Doubtful("failing", _fails),
    ]
    problem = module("problems").Problem("relu", (8, 8))
    row = module("measure").measure(problem, bench_runs.small_bench(module, peers))
    statuses = {name: timing["status"] for name, timing in row["timings"].items()}
    assert statuses == {
        "nnkernels": "ok",
        "right": "ok",
        "inaccurate": "wrong",
        "nan": "wrong",
        "short": "wrong",
        "failing": "failed",
    }
    assert set(row["ratios"]) == {"right"}
    assert row["timings"]["failing"]["message"] == "ValueError: not today"
    json.dumps(row, allow_nan=False)
    text = module("report").table([row], [peer.name for peer in peers])
    assert text.count("WRONG") == 3
    assert text.count("FAILED") == 1


def test_a_sample_of_a_large_result_includes_its_ends(module):
    def last_wrong(y):
        y[-1, -1] += 1
        return y

    problem = module("problems").Problem("relu", (1024, 1024))
    bench = bench_runs.small_bench(module, [Doubtful("at the end", last_wrong)])
    row = module("measure").measure(problem, bench)
    assert row["timings"]["at the end"]["status"] == "wrong"
    assert row["timings"]["nnkernels"]["status"] == "ok"


@pytest.mark.parametrize("out", [False, True])
def test_buffers_exceed_the_cache(module, out):
    used = []

    class Watching(Doubtful):
        def functions(self, problem):
            from peers import Functions

            def call(x, out=None):
                used.append((x.ctypes.data, 0 if out is None else out.ctypes.data))
                return np.maximum(x, 0, out=out)

            return Functions(call, call)

    problem = module("problems").Problem("relu", (64, 64))
    bench = bench_runs.small_bench(module, [Watching("watching", None)], out=out)
    row = module("measure").measure(problem, bench)
    # 32 KiB each; together twice the cache of 64 KiB, and one more.
    assert row["sets"] == 5
    assert row["sets_bytes"] == 5 * 2 * 64 * 64 * 4
    assert row["caches"] == "exceeded"
    assert row["timings"]["watching"]["out"] is out
    assert len({x for x, _ in used}) == 5
    assert len({y for _, y in used}) == (5 if out else 1)
    assert row["copy_share"] == pytest.approx(row["bytes_per_s"] / 1e9)


@pytest.mark.parametrize(("op", "shape"), [("gemv", (64, 64)), ("matmul", (64, 64, 64))])
def test_products_with_a_vector_have_a_share_of_the_read_bandwidth(module, op, shape):
    measure, report = module("measure"), module("report")
    row = measure.measure(module("problems").Problem(op, shape), bench_runs.small_bench(module, []))
    (line,) = report.table([row], []).splitlines()[2:3]
    if op == "gemv":
        assert row["read_share"] == pytest.approx(row["bytes_per_s"] / 2e9)
        assert f"{100 * row['read_share']:.0f}%" in line
    else:
        assert row["read_share"] is None


def test_small_problem_is_warm_and_has_no_share(module):
    row = module("measure").measure(
        module("problems").Problem("relu", (8, 8)), bench_runs.small_bench(module, [])
    )
    assert row["sets"] == 1
    assert row["caches"] == "warm"
    assert row["copy_share"] is None


def test_target_is_judged(module):
    problems, measure = module("problems"), module("measure")
    for kind, limit, met in [
        ("times torch", 1.5, True),
        ("times torch", 2.5, False),
        ("times best", 1.5, True),
        ("times best", 1.75, False),
        ("seconds", 2e-3, True),
        ("seconds", 5e-4, False),
    ]:
        problem = problems.Problem("relu", (8, 8), target=problems.Target(kind, limit))
        timings = {"nnkernels": {"median_s": 1e-3}}
        row = {"ratios": {"torch": 2.0, "numpy": 1.5}, "ratio": 1.5, "timings": timings}
        measure.judge(row, problem)
        assert row["target"]["met"] is met
    row = {"ratios": {}, "ratio": None, "timings": {"nnkernels": {"status": "wrong"}}}
    measure.judge(row, problem)
    assert row["target"]["met"] is None


def test_means_are_of_groups_and_geometric(module):
    measure, problems, report = module("measure"), module("problems"), module("report")
    target = problems.Target("times torch", 1.0)

    def row(ratio, **changes):
        mean = problems.Mean("forward", target)
        problem = problems.Problem("conv", (1, 3, 8, 8), mean=mean, **changes)
        made = measure._described(problem, bench_runs.small_bench(module, []), 0, 1, 0)
        made["ratios"] = {} if ratio is None else {"torch": ratio}
        measure.judge(made, problem, [])
        return made

    rows = [row(0.5), row(4.0), row(0.25, layout="channels_last")]
    good, bad = measure.means(rows)
    assert (good["measured"], good["least"], good["met"]) == (pytest.approx(2**0.5), 0.5, True)
    assert (bad["measured"], bad["met"], bad["layout"]) == (0.25, False, "channels_last")
    (unsure,) = measure.means([*rows[:2], row(None)])
    assert unsure["met"] is None
    assert unsure["measured"] == pytest.approx(2**0.5)
    text = report.means_table([good, bad, unsure])
    assert "1.41x" in text
    assert "1x torch: met" in text
    assert "MISSED" in text
    assert "2 of 3" in text
    json.dumps([good, bad, unsure], allow_nan=False)
    assert measure.means([]) == []


def test_a_layout_is_compared_with_contiguous_arrays(module):
    measure, problems = module("measure"), module("problems")
    target = problems.Target("times contiguous", 0.9)

    def row(seconds, earlier, **changes):
        problem = problems.Problem("conv", (1, 3, 8, 8), target=target, **changes)
        made = measure._described(problem, bench_runs.small_bench(module, []), 0, 1, 0)
        made["timings"]["nnkernels"] = {"status": "ok", "median_s": seconds}
        measure.judge(made, problem, earlier)
        return made

    contiguous = row(1.0, [], case="4 3")
    assert row(1.1, [contiguous], case="4 3", layout="channels_last")["target"]["met"]
    assert not row(1.2, [contiguous], case="4 3", layout="channels_last")["target"]["met"]
    assert row(1.1, [contiguous], case="5 3", layout="channels_last")["target"]["met"] is None
    assert row(1.1, [], case="4 3", layout="channels_last")["target"]["met"] is None


@pytest.mark.parametrize(
    ("op", "shape", "dtype"),
    [
        ("matmul", (700, 9, 11), "float16"),
        ("matmul", (700, 9, 11), "int8"),
        ("linear", (700, 9, 11), "float32"),
        ("mlp", (700, 5, 8, 3), "float16"),
    ],
)
def test_products_of_many_rows_are_checked_by_some_of_them(module, op, shape, dtype):
    measure, problems = module("measure"), module("problems")
    problem = problems.Problem(op, shape, dtype)
    operands = problems.random_operands(problem, None)
    rows, (part,) = measure._expected(problem, operands)
    assert len(rows) < len(operands[0]) == 700
    assert (rows[0], rows[-1]) == (0, 699)
    positional, options = problem.record.arguments(operands, problem.options)
    result = problem.record.function(*positional, **options)
    assert np.isfinite(result.astype(np.float64)).all()
    assert measure._error((rows, (part,)), [result], problem) <= 1
    for row in rows[[0, 7, -1]]:
        spoiled = result.copy()
        spoiled[row, -1] += 100
        assert measure._error((rows, (part,)), [spoiled], problem) > 1
