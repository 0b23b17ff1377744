"""The check on a GPU, without one: what it makes of processes that fail, and what it reports."""

import importlib
import json
import signal
import sys
import time
from pathlib import Path

import fake_cupy
import pytest

from nnkernels.launch import gpu

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def module(monkeypatch):
    """A module of the bench by name."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.fixture
def check(module, monkeypatch, capsys, tmp_path):
    """Run the check in this process: its exit status, output and messages, and the reports."""

    def run(*arguments):
        argv = ["gpu_check.py", "--folder", tmp_path, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        try:
            status = module("gpu_check").main()
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def settings(module, seconds=60.0, **more):
    return module("gpu_steps").Settings(backend="cpu", seconds=seconds, jobs=2, **more)


# ---- the calls -----------------------------------------------------------------------------


@pytest.fixture
def calls(module, monkeypatch, capsys, tmp_path):
    """Run gpu_calls.py on the stand-in for CuPy: exit status, output, and what became of each."""

    def run(what, ops):
        found = tmp_path / "found.json"
        monkeypatch.setattr(sys, "argv", ["gpu_calls.py", what, "--op", ops, "--json", str(found)])
        with fake_cupy.installed():
            status = module("gpu_calls").main()
        return status, capsys.readouterr().out, json.loads(found.read_text())

    return run


def test_every_op_is_called(module):
    from nnkernels.registry import all_ops

    found = list(module("gpu_calls").chosen(None))
    assert {case.op.name for case in found} == set(all_ops())
    assert {case.dtype for case in found if case.op.name == "matmul"} == {
        "float32", "float16", "int8"
    }  # fmt: skip


def test_products_of_warpgroups_are_called(module, monkeypatch):
    """Each of them with a kernel that fills tiles of 64 x 64."""
    monkeypatch.delenv("NNKERNELS_GPU_ARCH", raising=False)
    calls = module("gpu_calls")
    with fake_cupy.installed() as cupy:
        for name, (dtypes, example) in calls._LARGE.items():
            large = [case for case in calls.chosen(name) if case.op.examples == (example,)]
            assert [case.dtype for case in large] == list(dtypes)
            for case in large:
                before = len(gpu.machine_of(0)._kernels._values)
                assert not calls._call(cupy, case)
                kernels = list(gpu.machine_of(0)._kernels._values)[before:]
                assert any("MmaSm90" in kernel.kernel for kernel in kernels), (name, case.dtype)


@pytest.mark.parametrize("what", ["calls", "graphs"])
def test_calls(calls, what):
    status, out, found = calls(what, "relu,softmax")
    assert (status, out) == (0, "op: relu float32\nop: softmax float32\n")
    assert [one["message"] for one in found] == ["", ""]


def test_calls_that_fail(calls, monkeypatch):
    from nnkernels.registry import all_ops

    def fails(*_, **__):
        raise RuntimeError("no such thing")

    record = all_ops()["relu"]
    monkeypatch.setitem(record.__dict__, "function", fails)
    for what in ("calls", "graphs"):
        status, out, found = calls(what, "relu,softmax")
        assert status == 1
        assert "op: relu float32\nfailed: RuntimeError: no such thing\nop: softmax" in out
        assert [bool(one["message"]) for one in found] == [True, False]


def test_a_graph_that_keeps_old_numbers_is_found(calls, monkeypatch):
    """As a call does that looks at the numbers on the host and sends a copy of them."""
    from nnkernels.registry import all_ops

    record = all_ops()["relu"]
    function = record.function

    def copies(x, **options):
        import cupy

        return function(cupy.asarray(x.get()), **options)

    monkeypatch.setitem(record.__dict__, "function", copies)
    status, _, found = calls("graphs", "relu")
    assert status == 1
    assert found[0]["message"] == "result 0 of the graph is not that of a call"


# ---- steps ---------------------------------------------------------------------------------


def test_a_process_out_of_time_keeps_its_output(module):
    steps = module("gpu_steps")
    # (What was begun in the background ignores the signal, and so would this.)
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"{heeds}; import time; print('so far'); time.sleep(60)"
    start = time.monotonic()
    done = steps._alone([sys.executable, "-c", script], 2.0)
    assert time.monotonic() - start < 20
    assert done.status is None
    assert "so far" in done.output
    assert steps._of_process("sleep", done).status == "out of time"
    done = steps._alone([sys.executable, "-c", "raise SystemExit('no')"], 60.0)
    outcome = steps._of_process("exit", done)
    assert (outcome.status, outcome.failures) == ("FAILED", [{"name": "exit", "message": "no"}])


TESTS = """
import pytest

def test_right(backend):
    assert backend.name == "cpu"

def test_wrong(backend):
    assert backend.name == "gpu"

def test_not_here(backend):
    pytest.skip("another day")

def test_of_no_backend():
    raise AssertionError("not asked for")
"""


def test_a_file_of_tests(module, monkeypatch, tmp_path):
    steps = module("gpu_steps")
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "backends.py"):
        (tmp_path / "tests" / name).symlink_to(Path(__file__).parent / name)
    (tmp_path / "tests" / "test_some.py").write_text(TESTS)
    (tmp_path / "tests" / "test_broken.py").write_text("import no_such_module")
    monkeypatch.setattr(steps, "CHECKOUT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(BENCH.parent))

    # Two more were counted, as if it had been cut off.
    outcome = steps._tested("tests/test_some.py", 5, settings(module), 60.0)
    assert outcome.status == "FAILED"
    assert outcome.summary == "1 passed, 1 failed, 1 skipped, 2 not run"
    (failure,) = outcome.failures
    assert failure["name"] == "tests/test_some.py::test_wrong[cpu]"
    assert 'backend.name == "gpu"' in failure["message"]

    assert steps._tested("tests/test_some.py", 5, settings(module), 0.0).status == "out of time"

    counts, failure = steps._collected(settings(module, words=["some"]))
    assert failure is not None  # a file that cannot be imported is no reason to be silent
    assert "no_such_module" in failure.failures[0]["message"]
    (tmp_path / "tests" / "test_broken.py").unlink()
    counts, failure = steps._collected(settings(module))
    assert failure is None
    assert counts == {"tests/test_some.py": 3}


SANITIZER = """#!/bin/sh
echo "========= COMPUTE-SANITIZER"
echo "op: relu float32"
echo "op: softmax float16"
case $2 in
memcheck)
  echo "========= Invalid __global__ write of size 4 bytes"
  echo "=========     at 0x40 in nnk_softmax"
  echo "op: gelu float32"
  echo "========= ERROR SUMMARY: 1 error"
  exit 1;;
racecheck)
  echo "failed: CompileError: no"
  echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"
  exit 1;;
*)
  echo "========= ERROR SUMMARY: 0 errors";;
esac
"""


def test_errors_of_a_sanitizer_have_the_name_of_the_op(module, monkeypatch, tmp_path):
    steps = module("gpu_steps")
    monkeypatch.setattr(steps, "_COMMON_PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    memory, races, barriers = steps.run("sanitizer", settings(module))
    assert (memory.status, memory.summary) == ("FAILED", "3 calls, 1 errors")
    (failure,) = memory.failures
    assert failure["name"] == "compute-sanitizer memcheck: softmax float16"
    assert failure["message"].splitlines()[1] == "=========     at 0x40 in nnk_softmax"
    (failure,) = races.failures
    assert failure["message"] == "failed: CompileError: no"
    assert (barriers.status, barriers.failures) == ("ok", [])

    # One that does not come to an end is no success.
    tool.write_text("#!/bin/sh\necho 'Error: no device'\nexit 3\n")
    assert [outcome.status for outcome in steps.run("sanitizer", settings(module))] == (
        ["FAILED"] * 3
    )
    tool.unlink()
    (outcome,) = steps.run("sanitizer", settings(module))
    assert (outcome.status, outcome.failures) == ("skipped", [])


def test_a_suite_of_the_bench(module):
    steps = module("gpu_steps")
    outcome = steps._timed("dispatch", "calls", settings(module), 60.0)
    assert outcome.status == "ok", outcome.failures
    assert outcome.data["result"]["complete"]


# ---- the report ----------------------------------------------------------------------------


@pytest.fixture
def parts(module, monkeypatch):
    """What each part is made to find, and how long it was given."""
    steps = module("gpu_steps")
    found, given = {}, {}

    def run(part, chosen):
        given[part] = chosen.seconds
        outcome = found.get(part, steps.Outcome(f"step of {part}", "ok", 1.0, "all | well"))
        if isinstance(outcome, BaseException):
            raise outcome
        return [outcome]

    monkeypatch.setattr(steps, "run", run)
    return found, given


def test_failures_come_first(check, module, parts, tmp_path):
    steps = module("gpu_steps")
    found, given = parts
    message = "E   ```\nE   assert 1 == 2"
    found["bench"] = steps.Outcome(
        "speed", "FAILED", 2.0, "3 rows", [{"name": "softmax", "message": message}]
    )
    status, out, _ = check("--backend", "cpu", "--minutes", "4")
    assert status == 1
    # What a part leaves is there for those after it, and here nobody took long.
    expected = {"tests": 120, "sanitizer": 120, "bench": 240}
    assert given == pytest.approx(expected, rel=0.01)
    assert out.index("FAILED softmax") < out.index("step of tests")
    (page,) = tmp_path.glob("*.md")
    text = page.read_text()
    assert text.index("### `softmax`") < text.index("## Steps")
    assert f"````text\n{message}\n````" in text
    assert "| step of tests | ok | 1 s | all \\| well |" in text


def test_parts_are_replaced(check, module, parts, tmp_path):
    steps = module("gpu_steps")
    found, given = parts
    failure = [{"name": "x", "message": "y"}]
    found["tests"] = steps.Outcome("step of tests", "FAILED", failures=failure)
    assert check("--backend", "cpu")[0] == 1
    del found["tests"]
    given.clear()
    status, out, _ = check("--backend", "cpu", "--part", "tests")
    assert status == 0
    assert list(given) == ["tests"]
    assert given["tests"] == pytest.approx(8 * 60 / 3, rel=0.01)
    assert "step of bench" in out  # from the run before
    assert "nothing failed" in out
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_an_interrupt_keeps_the_parts_that_were_done(check, parts, tmp_path):
    found, _ = parts
    found["sanitizer"] = KeyboardInterrupt()
    status, out, err = check("--backend", "cpu")
    assert status == 130
    assert "interrupted" in err
    (file,) = tmp_path.glob("*.json")
    assert list(json.loads(file.read_text())["parts"]) == ["tests"]
    assert "step of tests" in out


def test_requests_that_cannot_be(check):
    status, _, err = check("--part", "tests,prayer")
    assert status == 2
    assert "no part is called 'prayer'" in err
    status, _, err = check("--minutes", "soon")
    assert status == 2
    if importlib.util.find_spec("cupy") is None:
        status, _, err = check()
        assert status == 2
        assert "needs CuPy" in err


def test_a_background_job_can_be_told_to_stop(module, check, monkeypatch):
    """A shell lets it ignore the signal by which steps that are out of time are ended."""
    seen = []

    def run(part, settings):
        seen.append(signal.getsignal(signal.SIGINT))
        return [module("gpu_steps").Outcome(part, "ok")]

    monkeypatch.setattr(module("gpu_steps"), "run", run)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert check("--backend", "cpu", "--part", "bench")[0] == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.default_int_handler]
