"""What the bench measures: calls in turn, bandwidths, starts, and memory."""

import json
import os
import time

import numpy as np
import pytest
from bench_runs import bench, module

_ = bench, module  # fixtures

# ---- timing ---------------------------------------------------------------------------------


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


# ---- starts ---------------------------------------------------------------------------------


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


def test_a_failed_startup_process_shows_its_error(module, tmp_path):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        module("startup")._timed("1 / 0", tmp_path)


# ---- memory ---------------------------------------------------------------------------------


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
