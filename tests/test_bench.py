"""The bench measures what it says, reports it, and explains bad requests."""

import json
import os
import subprocess
import sys

import bench_runs
import pytest
from bench_runs import bench, module

from nnkernels.registry import all_ops

_ = bench, module  # fixtures

PEERS = [name for name in ("numpy", "torch") if bench_runs.importable(name)]


def run_script(*arguments, **environment):
    return subprocess.run(
        [sys.executable, bench_runs.BENCH / "bench.py", *map(str, arguments)],
        env={**os.environ, **environment},
        cwd=bench_runs.BENCH.parent.parent,  # anywhere but the checkout
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


# ---- one run, as a user starts it -----------------------------------------------------------


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


@pytest.mark.skipif(not bench_runs.importable("matplotlib"), reason="needs matplotlib")
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


# ---- bad requests ---------------------------------------------------------------------------


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


# ---- on a GPU -------------------------------------------------------------------------------


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
