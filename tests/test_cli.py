"""``python -m nnkernels``: what the commands print, and their exit status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import gpu_compilers
import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import registry
from nnkernels.__main__ import main
from nnkernels.cli import selftest
from nnkernels.compile import cache, cxx, hiprtc, nvrtc
from nnkernels.dispatch import machines


def run(*arguments, **environment):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "nnkernels", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


def status(*arguments):
    """Exit status of the command in this process; argparse exits by itself."""
    try:
        return main(arguments)
    except SystemExit as error:
        return error.code


# ---- the command line ---------------------------------------------------------------------------


def test_alone_prints_the_help():
    done = run()
    assert done.returncode == 0
    assert "usage: python -m nnkernels" in done.stdout
    for command in ("info", "selftest", "inspect"):
        assert re.search(rf"^ +{command} +\w", done.stdout, re.MULTILINE)


def test_version(capsys):
    assert status("--version") == 0
    assert capsys.readouterr().out.strip() == f"nnkernels {nnk.__version__}"


@pytest.mark.parametrize("command", ["info", "selftest", "inspect"])
def test_help(command, capsys):
    assert status(command, "--help") == 0
    printed = capsys.readouterr().out
    assert f"nnkernels {command}" in printed
    assert len(printed.splitlines()) > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["info", "more"], "unrecognized arguments: more"),
        (["inspect"], "name an OP, or give --all"),
        (["selftest", "--seed", "soon"], "invalid int value: 'soon'"),
        (["inspect", "softmin"], "no op is called 'softmin'; there are relu, "),
        (["inspect", "softmax", "--dtype", "int8"], "softmax has no dtype 'int8'; it has float16"),
        (["inspect", "softmax", "--dtype", "float32,fp8"], "softmax has no dtype 'fp8'"),
        (["inspect", "softmax", "--dtype", ","], "softmax has no dtype ','"),
        (["inspect", "softmax", "--arch", "sm_1"], "no architecture 'sm_1' is known; there are"),
        (["inspect", "softmax", "--arch", ""], "no architecture '' is known"),
        (["selftest", "--op", "relu,softmin"], "no op is called 'softmin'"),
        (["selftest", "--dtype", "fp8"], "no dtype is called 'fp8'; there are float16"),
        (["selftest", "--op", "softmax", "--dtype", "int8"], "none of these ops has dtype int8"),
        (["selftest", "--backend", "gpu"], "no backend is called 'gpu'; there are cpu"),
        (["selftest", "--backend", "sim:sm_1"], "no simulated architecture is called 'sm_1'"),
        (["selftest", "--seed", "-1"], "the seed must not be negative; got -1"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    assert status(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


# ---- info ---------------------------------------------------------------------------------------


def test_info():
    done = run("info")
    assert done.returncode == 0
    assert done.stderr == ""
    facts = dict(
        re.match(r"(\S.*?)  +(.*)", line).groups()
        for line in done.stdout.splitlines()
        if line[:1] != " "
    )
    assert facts["nnkernels"].startswith(nnk.__version__)
    assert facts["NumPy"] == np.__version__
    assert re.search(r"\d+-bit SIMD, \d+ of \d+ threads", facts["CPU"])
    assert set(facts) == {
        "nnkernels", "Python", "NumPy", "CuPy", "C++ compiler", "CPU", "kernel cache", "NVRTC",
        "nvdisasm", "hipRTC", "headers",
    }  # fmt: skip
    assert re.search(r"fingerprint [0-9a-f]{16}$", done.stdout, re.MULTILINE)


def test_info_of_the_cache(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path / "none"))
    assert status("info") == 0
    assert f"{tmp_path / 'none'} (not there yet)" in capsys.readouterr().out
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path))
    (tmp_path / "cpu-0.so").write_bytes(bytes(3 << 20))
    (tmp_path / "cpu-1.so").write_bytes(bytes(1 << 20))
    assert status("info") == 0
    assert f"{tmp_path}, 2 kernels, 4.0 MiB" in capsys.readouterr().out


def test_info_where_everything_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it fails
    monkeypatch.setattr(cxx, "_find_compiler", lambda *_: None)
    monkeypatch.setattr(nvrtc, "library_path", lambda: None)
    monkeypatch.setattr(nvrtc, "nvdisasm_path", lambda: None)
    monkeypatch.setattr(hiprtc, "library_path", lambda: None)
    monkeypatch.setattr(cache, "directory", lambda: 1 / 0)
    assert status("info") == 0
    printed = capsys.readouterr().out
    assert re.search(r"^CuPy +not installed", printed, re.MULTILINE)
    assert re.search(r"^C\+\+ compiler +none ", printed, re.MULTILINE)
    for name in ("NVRTC", "nvdisasm", "hipRTC"):
        assert re.search(rf"^{name} +not found$", printed, re.MULTILINE)
    # what breaks does not take the rest along
    assert re.search(r"^kernel cache +cannot tell: ZeroDivisionError", printed, re.MULTILINE)
    assert "fingerprint" in printed


# ---- selftest -----------------------------------------------------------------------------------


def test_selftest(capsys):
    assert status("selftest", "--op", "relu,softmax", "--dtype", "float32") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["op", "calls", "error", "largest", "at"]
    relu, softmax = (line.split() for line in lines[1:3])
    ops = [registry.find(name) for name in ("relu", "softmax")]
    counts = [3 * len(op.examples) for op in ops]  # in three layouts
    assert [relu[0], int(relu[1]), relu[3]] == ["relu", counts[0], "ok"]
    assert [softmax[0], int(softmax[1]), softmax[3]] == ["softmax", counts[1], "ok"]
    assert lines[-1] == f"2 of 2 ops are right; {sum(counts)} calls"
    assert "100%" in captured.err  # the progress bar


@pytest.mark.parametrize("name", ["reference", "sim:gfx90a"])
def test_selftest_on(name, capsys):
    assert status("selftest", "--backend", name, "--op", "relu", "--quick") == 0
    assert "1 of 1 ops are right; 1 calls" in capsys.readouterr().out


def test_selftest_uses_the_backend(monkeypatch, capsys):
    used = []
    machine = machines.machine_named("sim:sm_80")
    prepare = type(machine).prepare
    monkeypatch.setattr(
        type(machine), "prepare", lambda self, *a: used.append(self.name) or prepare(self, *a)
    )
    machine.plans.clear()
    assert status("selftest", "--backend", "sim:sm_80", "--op", "relu", "--quick") == 0
    assert used == ["sim:sm_80"]


def test_selftest_sees_a_wrong_result(monkeypatch, capsys):
    op = registry.find("relu")
    broken = {"relu": replaced(op, reference=lambda x: np.maximum(x, 0) + (x > 2))}
    monkeypatch.setattr(registry, "all_ops", lambda: broken)
    assert status("selftest", "--op", "relu", "--dtype", "float32") == 1
    printed = capsys.readouterr().out
    assert re.search(r"^relu .* WRONG +float32, example", printed, re.MULTILINE)
    assert "0 of 1 ops are right" in printed


def test_selftest_sees_a_failure(monkeypatch, capsys):
    def fail(x):
        raise nnk.BackendError("the moon is in the way")

    broken = {"relu": replaced(registry.find("relu"), function=fail)}
    monkeypatch.setattr(registry, "all_ops", lambda: broken)
    assert status("selftest", "--op", "relu", "--quick") == 1
    printed = capsys.readouterr().out
    assert "relu: float32, example 1, dense: BackendError: the moon is in the way" in printed


def replaced(op, **fields):
    import dataclasses

    return dataclasses.replace(op, **fields)


def test_selftest_covers_every_op_and_dtype():
    todo = list(selftest.cases(list(registry.all_ops().values()), None, quick=False))
    assert {(c.op.name, c.dtype) for c in todo} == {
        (op.name, dtype) for op in registry.all_ops().values() for dtype in op.dtypes
    }
    quick = list(selftest.cases(list(registry.all_ops().values()), None, quick=True))
    assert [c.op.name for c in quick] == list(registry.all_ops())


def test_selftest_draws_the_same_numbers_for_a_seed():
    case = selftest.Case(registry.find("swiglu"), "float32", 0, selftest.LAYOUTS[1])
    first, again, other = (case.bases(seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("layout", selftest.LAYOUTS, ids=lambda layout: layout.name)
def test_selftest_scales_the_weights_of_networks(layout):
    case = selftest.Case(registry.find("mlp_backward"), "float64", 2, layout)
    drawn = dict(zip(case.op.arrays, case.bases(0), strict=True))
    shapes = dict(zip(case.op.arrays, case.op.examples[2].shapes, strict=True))
    for name in ("weight0", "weight1", "weight2"):
        # Within some three times what the deviation of so many numbers is off by.
        close = 2 / np.sqrt(drawn[name].size)
        assert np.std(drawn[name]) == pytest.approx(np.sqrt(2 / shapes[name][-1]), rel=close)
    assert np.std(drawn["x"]) == pytest.approx(1, rel=2 / np.sqrt(drawn["x"].size))


def test_selftest_of_networks_has_derivatives_left(capsys):
    # Those of a sigmoid, where sums were as large as unscaled weights make them.
    assert status("selftest", "--op", "mlp_backward", "--dtype", "float32") == 0
    assert "1 of 1 ops are right; 9 calls" in capsys.readouterr().out


def test_selftest_without_cupy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert status("selftest", "--backend", "cupy") == 2
    assert "CuPy is not installed" in capsys.readouterr().err


# ---- inspect ------------------------------------------------------------------------------------

ON_CUDA = gpu_compilers.parameter("sm_90")
ON_HIP = gpu_compilers.parameter("gfx90a")


@pytest.mark.parametrize("arch", [ON_CUDA, ON_HIP])
@gpu_compilers.needs_nvdisasm
def test_inspect(arch, capsys):
    assert status("inspect", "relu", "--arch", arch) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == f"relu, float32, {arch}"
    assert lines[1].split() == [
        "problem", "kind", "threads", "registers", "spills", "local", "shared", "blocks", "loads",
        "stores", "main", "loop", "roofline", "instructions",
    ]  # fmt: skip
    (dense,) = (line for line in lines if line.startswith("dense, large "))
    cells = re.split(r"  +", dense)
    assert cells[1:3] == ["4 elements, 4 at once", "256"]
    assert cells[4:7] == ["0", "0", "0"]
    # Four of whole tiles, and one of those that are not.
    assert "5x16" in cells[8]
    assert "5x16" in cells[9]
    assert captured.err == ""


@pytest.mark.parametrize("arch", [ON_CUDA, ON_HIP])
@gpu_compilers.needs_nvdisasm
def test_inspect_json(arch, capsys):
    assert status("inspect", "relu", "--arch", arch, "--dtype", "float16,float64", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["dtype"] for row in rows} == {"float16", "float64"}
    for row in rows:
        assert row["op"] == "relu"
        assert row["registers"] > 4
        assert row["spill_bytes"] == 0
        assert sum(row["mix"].values()) > 20
    widths = {row["problem"]: row["loads"] for row in rows if row["dtype"] == "float16"}
    assert "16" in widths["dense, large"]
    assert set(widths["strided"]) == {"2"}


def test_inspect_without_compilers(capsys, monkeypatch):
    monkeypatch.setattr(nvrtc, "library_path", lambda: None)
    monkeypatch.setattr(hiprtc, "library_path", lambda: None)
    nvrtc._library.cache_clear()
    try:
        assert status("inspect", "relu", "--arch", "sm_90,gfx90a") == 2
    finally:
        nvrtc._library.cache_clear()
    errors = capsys.readouterr().err
    assert "sm_90: NVRTC is not installed: pip install nvidia-cuda-nvrtc" in errors
    assert "gfx90a: hipRTC is not installed: install ROCm" in errors


@pytest.mark.parametrize("arch", [ON_CUDA])
def test_inspect_without_nvdisasm(arch, capsys, monkeypatch):
    monkeypatch.setattr(nvrtc, "nvdisasm_path", lambda: None)
    assert status("inspect", "relu", "--arch", arch) == 2
    assert f"{arch}: nvdisasm is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("arch", [ON_CUDA])
@gpu_compilers.needs_nvdisasm
def test_inspect_goes_on_after_an_architecture_that_fails(arch, capsys, monkeypatch):
    monkeypatch.setattr(hiprtc, "library_path", lambda: None)
    assert status("inspect", "relu", "--arch", f"gfx90a,{arch}", "--json") == 2
    captured = capsys.readouterr()
    failed, *rows = json.loads(captured.out)
    assert failed["arch"] == "gfx90a"
    assert failed["error"].startswith("hipRTC is not installed")
    assert {row["arch"] for row in rows} == {arch}


@pytest.mark.parametrize("arch", [ON_HIP])
def test_a_crash_of_hiprtc_is_an_error(arch, monkeypatch):
    """Old releases abort the process on architectures that they do not know."""
    monkeypatch.setattr(hiprtc, "library_path", lambda: "/nowhere/libamdhip64.so")
    with pytest.raises(nnk.BackendError, match=r"gave up on gfx90a with exit status 1: OSError"):
        hiprtc.compile_code_object("", arch)


@pytest.mark.parametrize("arch", [ON_CUDA])
def test_a_text_that_nvrtc_rejects(arch):
    with pytest.raises(nnk.CompileError, match=r"NVRTC failed for sm_90: .*error") as caught:
        nvrtc.compile_cubin("this is no C++", arch)
    assert "error" in caught.value.log
    with pytest.raises(nnk.BackendError, match="cannot compile for sm_1"):
        nvrtc.compile_cubin("", "sm_1")


@pytest.mark.parametrize("arch", [ON_HIP])
def test_a_text_that_hiprtc_rejects(arch):
    with pytest.raises(nnk.CompileError, match=r"hipRTC failed for gfx90a: .*error"):
        hiprtc.compile_code_object("this is no C++", arch)
