"""The bench measures what it says, reports it, and explains bad requests."""

import importlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nnkernels.registry import all_ops

BENCH = Path(__file__).resolve().parent.parent / "bench"


def importable(name):
    return importlib.util.find_spec(name) is not None


PEERS = [name for name in ("numpy", "torch") if importable(name)]


@pytest.fixture
def module(monkeypatch):
    """A module of the bench by name."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.fixture
def bench(module, monkeypatch, capsys):
    """Run the bench in this process: its exit status, output and messages."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench.py", *map(str, arguments)])
        try:
            status = module("bench").main()
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def run_script(*arguments, **environment):
    return subprocess.run(
        [sys.executable, BENCH / "bench.py", *map(str, arguments)],
        env={**os.environ, **environment},
        cwd=BENCH.parent.parent,  # anywhere but the checkout
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


# ---- one run, as a user starts it ----------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "result.json"
    done = run_script(
        *("--op", "relu", "--backward", "--shape", "6x8,40", "--threads", "1"),
        *("--dtype", "float32", "--layout", "contiguous,strided"),
        *("--peer", ",".join(PEERS), "--min-time", "0.01", "--json", path),
        OPENBLAS_CORETYPE="Haswell",
    )
    assert done.returncode == 0, done.stderr
    return done, json.loads(path.read_text())


def test_result_file_names_its_circumstances(run):
    _, result = run
    assert result["schema"] == 1
    assert result["complete"]
    assert result["threads"] == 1
    assert result["peers"] == PEERS
    assert {"python", "numpy", "nnkernels"} <= set(result["versions"])
    assert result["machine"]["cpu"]
    assert result["machine"]["last_level_bytes"] >= 1 << 16
    assert result["environment"]["OPENBLAS_CORETYPE"] == "Haswell"
    assert result["environment"]["OMP_NUM_THREADS"] == "1"


def test_result_file_can_be_read_again(run, module, tmp_path):
    _, result = run
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    read = module("results_files").read_result(path)
    assert [row.ratios for row in read.rows] == [row["ratios"] for row in result["rows"]]
    assert module("results_files").OURS == module("peers").OURS


def test_variable_that_slows_a_peer_is_warned_of(run):
    done, result = run
    assert any(warning.startswith("OPENBLAS_CORETYPE=Haswell") for warning in result["warnings"])
    assert "warning: OPENBLAS_CORETYPE=Haswell" in done.stderr


def test_rows_are_all_combinations_and_right(run):
    _, result = run
    rows = result["rows"]
    assert {(row["op"], *row["shape"], row["layout"]) for row in rows} == {
        (op, *shape, layout)
        for op in ("relu", "relu_backward")
        for shape in ((6, 8), (40,))
        for layout in ("contiguous", "strided")
    }
    assert len(rows) == 8
    for row in rows:
        assert set(row["timings"]) == {"nnkernels", *PEERS}
        ours = row["timings"]["nnkernels"]
        assert ours["status"] == "ok"
        assert 0 < ours["p25_s"] <= ours["median_s"] <= ours["p75_s"]
        assert ours["runs"] * ours["calls_per_run"] * ours["median_s"] > 0.002
        peers = {
            n: t for n, t in row["timings"].items() if n != "nnkernels" and t["status"] == "ok"
        }
        if peers:
            best = min(peers, key=lambda name: peers[name]["median_s"])
            assert row["best_peer"] == best
            assert row["ratio"] == pytest.approx(peers[best]["median_s"] / ours["median_s"])
            assert row["paired_ratio"] > 0
        assert row["bytes_per_s"] == pytest.approx(row["bytes"] / ours["median_s"])


def test_bytes_are_those_of_operands_and_results(run):
    _, result = run
    found = {row["op"]: row["bytes"] for row in result["rows"] if row["shape"] == [6, 8]}
    assert found == {"relu": 2 * 48 * 4, "relu_backward": 3 * 48 * 4}


def test_table_has_a_line_for_each_row(run):
    done, result = run
    lines = done.stdout.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.startswith("op "))
    assert lines[heading].split()[:6] == ["op", "shape", "dtype", "layout", "nnkernels", "numpy"]
    body = lines[heading + 2 : heading + 2 + len(result["rows"])]
    for line, row in zip(body, result["rows"], strict=True):
        assert line.split()[:2] == [row["op"], "x".join(map(str, row["shape"]))]
        assert "warm" in line


@pytest.mark.skipif(not importable("matplotlib"), reason="needs matplotlib")
def test_plot_is_written(bench, tmp_path):
    path = tmp_path / "plot.png"
    status, _, _ = bench(
        "--op", "relu", "--shape", "4x4", "--peer", "numpy", "--repeat", "1", "--plot", path
    )
    assert status == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5000


def test_list_names_every_op(bench):
    status, out, _ = bench("--list")
    assert status == 0
    assert {line.split(":")[0].strip() for line in out.splitlines()} >= set(all_ops())


# ---- bad requests --------------------------------------------------------------------------

BAD = [
    ([], "give either --op or --suite"),
    (["--op", "relu", "--suite", "rows"], "give either --op or --suite"),
    (["--op", "relu", "--family", "rows"], "give either --op or --suite or --family"),
    (
        ["--family", "all"],
        "no family is called 'all'; there are elementwise, rows, matmul, norm",
    ),
    (["--family", "norm", "--suite", "conv"], "not all of suite conv is of family norm"),
    (["--op", "relu", "--layout", "channels_last", "--shape", "4x5"], "needs three axes, not 4x5"),
    (["--op", "relu", "--case", "64 3x3"], "relu has no cases"),
    (["--op", "conv", "--shape", "4x5"], "the shape is that of an image"),
    (["--op", "conv", "--case", "64 0x3"], "'64 0x3' is no case; write OUTPUTS KERNEL"),
    (["--op", "conv", "--case", "64 3x3x3"], "the kernel 3x3x3 is not one of 2 axes"),
    (["--op", "conv", "--case", "64 3 g3"], "3 groups do not divide 64 channels"),
    (["--suite", "resnet50", "--case", "64 3"], "a suite has its own shapes"),
    (["--suite", "resnet50", "--layout", "diagonal"], "no layout is called 'diagonal'"),
    (["--op", ","], "--op is empty"),
    (["--op", "softmx"], "no op is called 'softmx'"),
    (["--op", "relu", "--shape", "4x"], "'4x' is not a shape"),
    (["--op", "relu", "--shape", "0x3"], "'0x3' is not a shape"),
    (["--op", "relu", "--shape", "-3"], "'-3' is not a shape"),
    (["--op", "relu", "--dtype", "float8"], "no dtype is called 'float8'"),
    (["--op", "softmax", "--dtype", "int32"], "softmax takes float16"),
    (["--op", "relu", "--layout", "diagonal"], "no layout is called 'diagonal'"),
    (["--op", "relu", "--layout", "transposed", "--shape", "9"], "needs two axes"),
    (["--op", "softmax", "--shape", "3x4", "--axis", "2"], "3x4 has no axis 2"),
    (["--op", "relu", "--axis", "0"], "no op here has an axis"),
    (["--op", "glu", "--shape", "4x5"], "is odd"),
    (["--op", "matmul", "--shape", "4x5"], "the shape is MxKxN"),
    (["--op", "relu", "--shape", "9999999x9999999"], "give a smaller --shape"),
    (["--op", "relu", "--peer", "jax"], "no peer is called 'jax'"),
    (["--op", "relu", "--backend", "tpu"], "argument --backend"),
    (["--op", "relu", "--memory", "--backend", "reference"], "--memory is that of a CPU"),
    (["--op", "relu", "--threads", "0"], "argument --threads"),
    (["--op", "relu", "--min-time", "nan"], "argument --min-time"),
    (["--op", "relu", "--repeat", "1.5"], "argument --repeat"),
    (["--op", "relu", "--json", "no-such-directory/x.json"], "not a file in an existing directory"),
    (["--op", "relu", "--plot", "x.doc"], "--plot x.doc: write .png"),
    (["--suite", "all"], "no suite is called 'all'"),
    (["--suite", "rows", "--shape", "3x3"], "a suite has its own shapes"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) or "none" for a, _ in BAD])
def test_bad_request(bench, arguments, message):
    status, out, err = bench(*arguments)
    assert status == 2
    assert message in err
    assert out == ""


def test_bad_request_has_no_traceback():
    done = run_script("--op", "nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("bench.py: error: no op is called 'nothing'")
    assert "Traceback" not in done.stderr


def test_missing_peer_is_left_out(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # an import fails
    status, out, err = bench(
        "--op", "relu", "--shape", "3x3", "--peer", "torch,cupy,numpy", "--repeat", "1"
    )
    assert status == 0
    assert "peer left out: torch cannot be imported" in err
    assert "peer left out: cupy needs arrays on a GPU" in err
    assert next(line for line in out.splitlines() if line.startswith("relu"))


def test_interrupt_keeps_what_was_done(bench, module, monkeypatch, tmp_path):
    session, rows = module("session"), []
    measure = session.measure

    def interrupted(problem, settings):
        if rows:
            raise KeyboardInterrupt
        rows.append(measure(problem, settings))
        return rows[0]

    monkeypatch.setattr(session, "measure", interrupted)
    path = tmp_path / "result.json"
    status, _, err = bench(
        *("--op", "relu", "--shape", "3x3,4x4", "--peer", "none", "--repeat", "1", "--json", path)
    )
    assert status == 130
    assert "interrupted" in err
    result = json.loads(path.read_text())
    assert not result["complete"]
    assert [row["shape"] for row in result["rows"]] == [[3, 3]]


def test_our_failure_is_a_row_and_a_status(bench, module, monkeypatch):
    def fail(problem, settings):
        raise RuntimeError("no kernel\nand a long log")

    monkeypatch.setattr(module("session"), "measure", fail)
    status, out, _ = bench("--op", "relu", "--shape", "3x3", "--peer", "none")
    assert status == 1
    assert "nnkernels failed on relu 3x3 float32 contiguous: RuntimeError: no kernel" in out
    assert "long log" not in out


# ---- peers ---------------------------------------------------------------------------------


def small_problem(module, op, dtype="float32", **choices):
    problems = module("problems")
    of_images = op.name.removesuffix("_backward") in problems.CHANNEL_NORMS
    shape = (4, 6, 5) if op.family == "matmul" or of_images else (5, 6)
    if op.family == "pool":
        shape = (2, 3, 8, 9)
    if op.family in problems.CASES:
        shape = (2, 4, 8, 10)
    return problems.Problem(op.name, shape, dtype, problems.default_axis(op), **choices)


@pytest.fixture
def open_peer(module):
    def open_it(name):
        if not importable(name):
            pytest.skip(f"needs {name}")
        threads = None
        if name == "torch":
            import torch

            threads = torch.get_num_threads()
        return module("peers").open_peer(name, on_gpu=False, threads=threads)

    return open_it


def reference_result(name, x):
    return all_ops()[name].reference(x)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("peer", ["numpy", "torch"])
def test_functions_of_peers_are_the_same_functions(module, open_peer, peer, dtype, layout):
    problems, measure = module("problems"), module("measure")
    library, compared = open_peer(peer), 0
    for op in all_ops().values():
        problem = small_problem(module, op, dtype, layout=layout)
        functions = library.functions(problem)
        if functions is None:
            continue
        operands = problems.random_operands(problem, reference_result)
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


# ---- one row -------------------------------------------------------------------------------


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


def small_bench(module, peers, **changes):
    measure, timing = module("measure"), module("timing")
    settings = {
        "xp": np,
        "backend": "cpu",
        "peers": peers,
        "clock": timing.HostClock(),
        "settings": timing.Settings(min_time=0.01, repeat=2, settle=0.0),
        "warm_bytes": 1 << 12,
        "cache_bytes": 1 << 16,
        "memory_bytes": lambda: 1 << 30,
        "copy": module("bandwidth").Bandwidth(1e9, "a test", {}, 0),
        "read": module("bandwidth").Bandwidth(2e9, "a test", {}, 0),
        "out": False,
    }
    return measure.Bench(**{**settings, **changes})


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
    row = module("measure").measure(problem, small_bench(module, peers))
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
    bench = small_bench(module, [Doubtful("at the end", last_wrong)])
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
    bench = small_bench(module, [Watching("watching", None)], out=out)
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
    row = measure.measure(module("problems").Problem(op, shape), small_bench(module, []))
    (line,) = report.table([row], []).splitlines()[2:3]
    if op == "gemv":
        assert row["read_share"] == pytest.approx(row["bytes_per_s"] / 2e9)
        assert f"{100 * row['read_share']:.0f}%" in line
    else:
        assert row["read_share"] is None


def test_small_problem_is_warm_and_has_no_share(module):
    row = module("measure").measure(
        module("problems").Problem("relu", (8, 8)), small_bench(module, [])
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


# ---- timing --------------------------------------------------------------------------------


class ScriptedTime:
    """Stands for the module ``time`` and for a clock: a call takes the seconds it returns."""

    run_seconds, longest_run_calls = 1e-4, 1000

    def __init__(self):
        self.now = self.slept = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.slept += seconds

    def run(self, call, batch):
        from timing import Run

        seconds = sum(call(*arguments) for arguments in batch)
        self.now += seconds
        return Run(seconds / len(batch), seconds / len(batch))


@pytest.fixture
def scripted(module, monkeypatch):
    clock = ScriptedTime()
    monkeypatch.setattr(module("timing"), "time", clock)
    return clock


def test_providers_take_turns_and_share_the_sets(module, scripted):
    timing, calls = module("timing"), []

    def provider(name, seconds):
        def call(number):
            calls.append((name, number))
            return seconds

        return timing.Provider(name, call, ((0,), (1,), (2,)))

    timings = timing.interleave(
        [provider("a", 0.001), provider("b", 0.003)],
        scripted,
        timing.Settings(min_time=0.1, settle=0.5),
    )
    # Whoever comes next takes the next set of buffers.
    assert [number for _, number in calls] == [i % 3 for i in range(len(calls))]
    names = [name for name, _ in calls[4:]]  # the first four warm up
    order = [n for i, n in enumerate(names) if i == 0 or names[i - 1] != n]
    assert order == ["a", "b"] * 3  # a b, b a, a b, b a, a b: neighbours are one here
    # A turn of 25 ms less an untimed run: five for 0.1 s.
    assert [len(timing.turns) for timing in timings.values()] == [5, 5]
    assert scripted.slept == pytest.approx(10 * 0.5)
    spent = [timing.seconds_spent for timing in timings.values()]
    assert 0.1 <= min(spent) <= max(spent) <= 0.14
    assert timings["a"].median == pytest.approx(0.001)
    assert timing.paired_ratio(timings["b"], timings["a"]) == pytest.approx(3.0)


def test_a_turn_is_as_long_as_the_slowest_call(module, scripted):
    timing, slow_calls = module("timing"), []

    def slow():
        slow_calls.append(1)
        return 2.0

    providers = [
        timing.Provider("fast", lambda: 0.012, ((),)),
        timing.Provider("slow", slow, ((),)),
    ]
    timings = timing.interleave(providers, scripted, timing.Settings(min_time=0.6, settle=0.0))
    # Here a third of the time asked for, 0.2 s, of which 16 runs of 12 ms are timed; and no run
    # of the slow one is thrown away.
    assert [len(timing.turns) for timing in timings.values()] == [4, 4]
    assert len(timings["slow"].runs) == 4
    assert len(slow_calls) == 2 + 4  # two to warm up
    assert timings["fast"].seconds_spent >= 0.6


def test_whoever_is_very_slow_is_timed_once(module, scripted):
    timing, calls = module("timing"), []

    def slow():
        calls.append(1)
        return 10.0

    providers = [timing.Provider("a", lambda: 0.01, ((),)), timing.Provider("b", slow, ((),))]
    timings = timing.interleave(providers, scripted, timing.Settings(min_time=0.1, settle=0.0))
    assert len(calls) == 1
    assert timings["b"].median == 10.0
    assert len(timings["a"].turns) >= 3
    assert timing.paired_ratio(timings["b"], timings["a"]) == pytest.approx(1000.0)
    alone = timing.interleave(providers[1:], scripted, timing.Settings())
    assert alone["b"].summary()["runs"] == 1


def test_short_calls_are_timed_many_at_a_time(module, scripted):
    timing = module("timing")
    provider = timing.Provider("a", lambda: 1e-6, ((),))
    timings = timing.interleave([provider], scripted, timing.Settings(repeat=3, settle=0.0))
    assert 100 <= timings["a"].calls_per_run <= 200
    assert len(timings["a"].turns) == 3


def test_host_clock_measures_a_sleep(module):
    run = module("timing").HostClock().run(time.sleep, [(0.005,)] * 10)
    assert 0.005 <= run.seconds < 0.04


def test_copy_bandwidth_is_that_of_the_best_way(module):
    timing, bandwidth = module("timing"), module("bandwidth")
    settings = timing.Settings(repeat=1, settle=0.0)
    copy = bandwidth.measure(np, [], 2, 1 << 20, 1 << 28, timing.HostClock(), settings)
    assert set(copy.tried) == {"nnkernels relu", "numpy copyto"}
    assert copy.bytes_per_s == max(copy.tried.values()) == copy.tried[copy.by]
    assert copy.buffer_bytes == (1 << 28) // 16
    assert 1e7 < copy.bytes_per_s < 1e13


def test_read_bandwidth_is_that_of_the_best_way(module):
    timing, bandwidth = module("timing"), module("bandwidth")
    settings = timing.Settings(repeat=1, settle=0.0)
    read = bandwidth.measure_reads([], 2, 1 << 20, 1 << 28, timing.HostClock(), settings)
    assert set(read.tried) == {"numpy max", "1 streams", "2 streams", "4 streams", "8 streams"}
    assert read.bytes_per_s == max(read.tried.values()) == read.tried[read.by]
    assert 1e7 < read.bytes_per_s < 1e13


def test_readers_read_every_element(module):
    bandwidth = module("bandwidth")
    library = bandwidth.cxx.load(bandwidth._READERS, "cpu")
    x = np.arange(1024, dtype=np.float32)
    for streams in bandwidth._STREAMS:
        assert bandwidth._reader(library, streams)(x) == x.sum()


# ---- suites --------------------------------------------------------------------------------


def test_suites_hold_what_was_asked_for(module):
    problems, suites = module("problems"), module("suites")
    listed = suites.problems_of("foundation")
    assert not any(problems.obstacle(problem) for problem in listed)
    assert len(set(listed)) == len(listed) == 48 + 15 + 6
    limits = {
        (p.op, p.shape, p.dtype, p.axis, p.layout): (p.target.kind, p.target.limit) for p in listed
    }
    torch = "times torch"
    assert limits["softmax", (256, 32768), "float32", -1, "contiguous"] == (torch, 2.0)
    assert limits["log_softmax", (1024, 4096), "float32", 0, "contiguous"] == (torch, 1.3)
    assert limits["softmax_backward", (256, 32768), "float32", -1, "contiguous"] == (torch, 1.3)
    assert limits["softmax_backward", (65536, 64), "bfloat16", -1, "contiguous"] == (torch, 1.0)
    assert limits["gelu", (4096, 4096), "float32", None, "strided"] == (torch, 1.0)
    assert limits["relu", (8, 8), "float32", None, "contiguous"] == ("seconds", 6e-6)


def test_a_family_is_the_suite_of_its_name_or_its_ops(module, bench, monkeypatch):
    suites, seen = module("suites"), []
    monkeypatch.setattr(module("session"), "run", lambda request: seen.append(request) or 1 / 0)
    for arguments in (("--family", "norm"), ("--family", "norm", "--shape", "4x6x5")):
        with pytest.raises(ZeroDivisionError):
            bench(*arguments, "--peer", "none")
    suite, ops = (request.problems for request in seen)
    assert suite == suites.problems_of("norm")
    limits = {(p.op, p.shape, p.layout): p.target.limit for p in suite}
    assert limits["layer_norm", (256, 32768), "contiguous"] == 1.3
    assert limits["rms_norm_backward", (65536, 64), "contiguous"] == 1.5
    assert limits["batch_norm_backward", (32, 64, 56, 56), "channels_last"] == 1.2
    assert limits["group_norm", (32, 256, 28, 28), "contiguous"] == 1.5
    assert {p.op for p in ops} == {op.name for op in all_ops().values() if op.family == "norm"}
    assert {p.options.get("num_groups") for p in ops} == {None, 2}


def test_resnet50_is_all_its_convolutions(module, bench, monkeypatch):
    seen = []
    monkeypatch.setattr(module("session"), "run", lambda request: seen.append(request) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench("--family", "conv", "--suite", "resnet50", "--peer", "none")
    with pytest.raises(ZeroDivisionError):
        bench(
            *("--suite", "resnet50", "--peer", "none", "--dtype", "float64"),
            *("--layout", "contiguous,channels_last"),
        )
    plain, both = (request.problems for request in seen)
    forward = [p for p in plain if p.op == "conv" and p.shape[0] == 1]
    shapes = [module("problems").operand_shapes(p) for p in forward]
    results = [p.record.flops(s, p.options) / 2 for p, s in zip(forward, shapes, strict=True)]
    assert len(set(plain)) == len(plain) == 3 * 2 * 23
    times = [1, 1, 3, 4, 2, 1, 1, 4, 1, 3, 3, 1, 1, 6, 1, 5, 5, 1, 1, 3, 1, 2, 2]
    assert sum(times) == 53
    # 4.09e9 multiply-adds, of which 2.0e6 are the last layer's: torchvision's number.
    assert np.dot(results, times) == pytest.approx(4.089e9 - 2.048e6, rel=1e-3)
    assert {p.target.limit for p in plain if p.op == "conv"} == {0.7}
    limits = {p.mean.name: p.mean.target.limit for p in plain}
    assert limits["conv, batch 8"] == 1.0
    assert limits["conv_backward_weight, batch 1"] == 0.9
    assert len(limits) == 6
    assert {(p.dtype, p.layout) for p in both} == {
        ("float64", "contiguous"),
        ("float64", "channels_last"),
    }
    assert len(both) == 2 * len(plain)


def test_convolutions_of_a_suite_can_be_measured(module):
    problems, suites = module("problems"), module("suites")
    listed = suites.problems_of("conv")
    assert not any(problems.obstacle(problem) for problem in listed)
    assert len(set(listed)) == len(listed)
    limits = {
        (p.case, p.shape, p.dtype, p.layout): (p.target.kind, p.target.limit)
        for p in listed
        if p.op == "conv" and p.target is not None
    }
    torch = "times torch"
    assert limits["32 3x3 g32", (8, 32, 112, 112), "float32", "contiguous"] == (torch, 1.0)
    assert limits["64 7", (1, 64, 16384), "float32", "contiguous"] == (torch, 1.0)
    assert limits["32 3x3x3", (1, 32, 32, 32, 32), "float32", "contiguous"] == (torch, 1.0)
    assert limits["64 3x3", (8, 64, 56, 56), "float64", "contiguous"] == (torch, 3.0)
    assert limits["64 3x3", (1, 64, 56, 56), "int8", "contiguous"] == (torch, 3.0)
    last = [p for p in listed if p.layout == "channels_last"]
    assert {p.target.kind for p in last} == {"times contiguous"}
    for problem in last:  # whose times come before
        alike = [p for p in listed if (p.name, p.shape) == (problem.name, problem.shape)]
        layouts = [p.layout for p in alike if p.dtype == "float32"]
        assert layouts == ["contiguous", "channels_last"]


CONVOLUTIONS = [
    ("conv", (5, 40, 6, 7), "36 3x2/2"),
    ("conv", (2, 12, 9), "24 4 g6"),
    ("conv_transpose", (5, 4, 6, 7), "36 3x2/2"),
    ("conv_transpose", (3, 4, 5), "6 3/2 g2"),
    ("conv_backward_data", (5, 40, 6, 7), "36 3x2/2"),
    ("conv_backward_data", (2, 12, 9), "24 4 g6"),
    ("conv_backward_weight", (5, 4, 6, 7), "36 3x2/2"),
    ("conv_backward_weight", (2, 12, 9), "24 4 g6"),
    ("conv_backward", (5, 4, 6, 7), "6 3x2/2 g2"),
    ("conv_transpose_backward", (3, 4, 5), "6 3/2 g2"),
    ("conv", (1, 2, 3, 4, 5), "17 3"),
]


@pytest.mark.parametrize(("op", "shape", "case"), CONVOLUTIONS)
def test_a_sample_of_a_convolution_is_part_of_it(module, op, shape, case):
    problems, measure = module("problems"), module("measure")
    problem = problems.Problem(op, shape, "float64", case=case)
    assert not problems.obstacle(problem)
    operands = problems.random_operands(problem, reference_result)
    positional, options = problem.record.arguments(operands, problem.options)
    whole = problem.record.reference(*positional, **options)
    results = list(whole) if isinstance(whole, tuple) else [whole]
    index, parts = measure._expected(problem, operands)
    assert measure._error((index, parts), results, problem) <= 1
    for i, part in enumerate(parts):
        assert part.size <= results[i].size
        for corner in (0, -1):
            spoiled = [result.copy() for result in results]
            spoiled[i].flat[corner] += 1
            assert measure._error((index, parts), spoiled, problem) > 1


@pytest.mark.parametrize(("op", "shape", "case"), CONVOLUTIONS)
def test_a_peer_of_a_convolution_computes_the_same(module, op, shape, case):
    pytest.importorskip("torch")
    problems, measure, peers = module("problems"), module("measure"), module("peers")
    problem = problems.Problem(op, shape, "float64", case=case)
    operands = problems.random_operands(problem, reference_result)
    torch = peers.open_peer("torch", on_gpu=False, threads=1)
    results = torch.functions(problem).call(*map(torch.adopt, operands))
    results = results if isinstance(results, tuple) else (results,)
    found = [torch.export(result) for result in results]
    assert measure._error(measure._expected(problem, operands), found, problem) <= 1


def test_where_nothing_is_tolerated_a_wrong_element_is_beyond_any_number(module):
    """Such as those of integers: a large number in its place is one that no reader takes."""
    problems, measure = module("problems"), module("measure")
    problem = problems.Problem("matmul", (4, 5, 6), "int8")
    right = problem.record.reference(*problems.random_operands(problem, reference_result))
    expected = (slice(None), (right,))
    assert measure._error(expected, [right], problem) == 0
    assert measure._error(expected, [right + 1], problem) == np.inf


def test_terms_are_those_of_a_sum(module):
    terms = module("convolutions").terms
    assert terms("conv", (2, 12, 8, 9), "24 3x5 g2") == 6 * 15
    assert terms("conv_transpose", (2, 12, 8, 9), "24 3x5 g2") == 6 * 15
    assert terms("conv_backward_data", (2, 12, 8, 9), "24 3x5 g2") == 12 * 15
    assert terms("conv_backward_weight", (2, 12, 8, 9), "24 3x5/2 g2") == 2 * 4 * 5
    assert terms("conv_backward", (2, 12, 8, 9), "24 3x5/2 g2") == 2 * 4 * 5
    assert terms("conv_transpose_backward", (2, 12, 8, 9), "24 3x5/2 g2") == 2 * 15 * 17


def test_means_are_of_groups_and_geometric(module):
    measure, problems, report = module("measure"), module("problems"), module("report")
    target = problems.Target("times torch", 1.0)

    def row(ratio, **changes):
        mean = problems.Mean("forward", target)
        problem = problems.Problem("conv", (1, 3, 8, 8), mean=mean, **changes)
        made = measure._described(problem, small_bench(module, []), 0, 1, 0)
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
        made = measure._described(problem, small_bench(module, []), 0, 1, 0)
        made["timings"]["nnkernels"] = {"status": "ok", "median_s": seconds}
        measure.judge(made, problem, earlier)
        return made

    contiguous = row(1.0, [], case="4 3")
    assert row(1.1, [contiguous], case="4 3", layout="channels_last")["target"]["met"]
    assert not row(1.2, [contiguous], case="4 3", layout="channels_last")["target"]["met"]
    assert row(1.1, [contiguous], case="5 3", layout="channels_last")["target"]["met"] is None
    assert row(1.1, [], case="4 3", layout="channels_last")["target"]["met"] is None


def test_products_are_measured_against_the_best_peer(module):
    problems, suites = module("problems"), module("suites")
    listed = suites.problems_of("products")
    assert not any(problems.obstacle(problem) for problem in listed)
    assert len(set(listed)) == len(listed)
    limits = {
        (p.op, p.shape, p.dtype): p.target.limit
        for p in listed
        if p.target is not None and p.target.kind == "times best"
    }
    assert limits["matmul", (2048, 2048, 2048), "float64"] == 1.0
    assert limits["matmul", (16, 4096, 4096), "float32"] == 0.9
    assert limits["matmul", (1024, 32, 32, 32), "float32"] == 2.0
    assert limits["gemv", (8192, 8192), "float32"] == 1.0


def test_startup_times_import_and_first_calls(module, monkeypatch):
    startup = module("startup")
    monkeypatch.setattr(startup, "FIRST_CALLS", ("relu",))
    steps = []
    checks = {c["name"]: c for c in startup.measure("cpu", 1, steps.append)}
    assert list(checks) == [
        "import nnkernels, NumPy included",
        "import nnkernels after NumPy",
        "first relu, cold cache",
        "first relu, warm cache",
    ]
    seconds = {name: check["median_s"] for name, check in checks.items()}
    assert 0 < seconds["import nnkernels after NumPy"] < seconds["import nnkernels, NumPy included"]
    # A cold cache has to compile.
    assert seconds["first relu, cold cache"] > 3 * seconds["first relu, warm cache"]
    assert len(steps) == 2
    assert "first relu, cold cache" in module("report").checks_table(list(checks.values()))


# ---- memory --------------------------------------------------------------------------------


@pytest.fixture
def extra_bytes(module):
    memory = module("memory")
    if not os.access(memory._CLEAR_REFS, os.W_OK):
        pytest.skip("needs Linux, whose /proc tells the peak of memory")
    return memory.extra_bytes


def test_memory_of_a_call_is_what_it_takes_beside_operands_and_results(module, extra_bytes):
    problem = module("problems").Problem
    assert extra_bytes(problem("relu", (2048, 1024)), "nnkernels", 2) < 1 << 19
    # Half a MiB of packed B on each thread, and some rows of A; not the 4 MiB of an operand.
    product = extra_bytes(problem("matmul", (1024, 1024, 1024)), "nnkernels", 2)
    assert 1 << 19 < product < 5 << 19
    # NumPy's expression makes x - max(x), and its exponential, before the result.
    softmax = extra_bytes(problem("softmax", (2048, 1024), axis=-1), "numpy", 1)
    assert 7 << 20 <= softmax < 1 << 25


def test_memory_is_a_column(bench, extra_bytes, tmp_path):
    path = tmp_path / "result.json"
    arguments = ["--op", "relu", "--shape", "64x64", "--peer", "numpy", "--repeat", 1]
    status, out, _ = bench(*arguments, "--memory", "--json", path)
    assert status == 0
    assert "extra MB" in out
    (row,) = json.loads(path.read_text())["rows"]
    for name in ("nnkernels", "numpy"):
        assert row["timings"][name]["extra_bytes"] < 1 << 20
    _, out, _ = bench(*arguments)
    assert "extra MB" not in out


def test_a_failed_startup_process_shows_its_error(module, tmp_path):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        module("startup")._timed("1 / 0", tmp_path)


# ---- on a GPU ------------------------------------------------------------------------------


def _gpus():
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount()
    except Exception:
        return 0


def test_backend_without_a_gpu_says_so(bench):
    if _gpus():
        pytest.skip("there is a GPU")
    status, _, err = bench("--op", "relu", "--backend", "cupy", "--shape", "3x3")
    assert status == 2
    assert "--backend cupy needs" in err


def test_run_on_a_gpu(tmp_path):
    if not _gpus():
        pytest.skip("needs a GPU and CuPy")
    path = tmp_path / "result.json"
    done = run_script(
        *("--op", "softmax,gelu,tanh_backward", "--shape", "8x8,2048x1024", "--backend", "cupy"),
        *("--dtype", "float32,float16", "--repeat", "2", "--json", path),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert result["machine"]["gpu"]["name"]
    for row in result["rows"]:
        assert row["timings"]["nnkernels"]["median_s"] < 1.0
        assert row["timings"]["cupy"]["status"] == "ok"
