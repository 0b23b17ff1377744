"""Comparing commits and result files: what is called slower, what is noise, and what cannot be."""

import copy
import importlib
import json
import math
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

CHECKOUT = Path(__file__).resolve().parent.parent
BENCH = CHECKOUT / "bench"
RESULT = CHECKOUT / "bench" / "results" / "2026-11-26-cpu-pool.json"


@pytest.fixture(scope="module")
def module():
    """A module of the bench by name."""
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module
    sys.path.remove(str(BENCH))


@pytest.fixture
def compare(module, monkeypatch, capsys):
    """Run the comparison in this process: its exit status, output and messages."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
        try:
            status = module("compare").main()
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


# ---- turns ---------------------------------------------------------------------------------


def lines_of(module, *sides, threshold=1.1):
    """The comparison of problems whose base, control and head took so long in each turn."""
    turns = [
        module("compare_commits").Turns(
            dict(zip(("base", "control", "head"), one, strict=True)), {}
        )
        for one in sides
    ]
    labels = [f"row {i}" for i in range(len(sides))]
    return module("comparison").of_turns(labels, turns, threshold)


@pytest.mark.parametrize(
    ("second", "verdict", "ratio"),
    [(2.0, "SLOWER", 0.5), (1.5, "SLOWER", 1 / 1.5), (1.0, "", 1.0), (0.5, "", 2.0)],
)
def test_a_regression_is_there_twice(module, second, verdict, ratio):
    def turns(head):
        sides = {"base": [1.0] * 9, "control": [1.0] * 9, "head": [head] * 9}
        return module("compare_commits").Turns(sides, {})

    (line,) = lines_of(module, ([1.0] * 9, [1.0] * 9, [2.0] * 9))
    assert line.verdict == "SLOWER"
    again = module("comparison").repeated(line, turns(second), [turns(2.0)], 1.1)
    assert (again.verdict, again.ratio) == (verdict, pytest.approx(ratio))
    broken = module("compare_commits").Turns({"base": [1.0] * 9}, {"head": "not today"})
    again = module("comparison").repeated(line, broken, [turns(2.0)], 1.1)
    assert (again.verdict, again.message) == ("FAILED", "head: not today")


NEARLY = st.floats(-0.02, 0.02)


@settings(deadline=None)
@given(
    factor=st.floats(0.25, 4.0),
    seconds=st.floats(1e-7, 1.0),
    shakes=st.lists(st.tuples(NEARLY, NEARLY, NEARLY), min_size=7, max_size=15),
)
def test_a_factor_beyond_threshold_and_noise_is_found(module, factor, seconds, shakes):
    factors = 1.0, 1.0, factor
    sides = [
        [seconds * own * math.exp(shake[i]) for shake in shakes] for i, own in enumerate(factors)
    ]
    (line,) = lines_of(module, sides)
    assert line.base_s == statistics.median(sides[0])
    assert line.ratio == pytest.approx(1 / factor, rel=0.045)
    if factor > 1.3:
        assert line.verdict == "SLOWER"
    elif factor < 1 / 1.3:
        assert line.verdict == "faster"
    elif 1 / 1.05 < factor < 1.05:
        assert line.verdict == ""


def test_what_scatters_is_no_regression(module):
    # On the whole 20 % slower, but the turns lie between half and twice as fast.
    head = [0.6, 1.2, 2.0, 0.7, 1.2, 1.9, 1.5]
    (line,) = lines_of(module, ([1.0] * 7, [1.0] * 7, head))
    assert line.ratio < 1 / 1.1
    assert line.noise > 0.2
    assert line.verdict == ""
    steady = [1.2] * 7
    (line,) = lines_of(module, ([1.0] * 7, [1.0] * 7, steady))
    assert line.verdict == "SLOWER"


def test_processes_of_the_base_that_differ_widen_every_band(module):
    alike = [1.0] * 7, [1.0] * 7, [1.2] * 7
    apart = [1.0] * 7, [1.3] * 7, [1.0] * 7
    (line,) = lines_of(module, alike)
    assert line.verdict == "SLOWER"
    lines = lines_of(module, alike, apart)
    assert lines[0].noise == pytest.approx(0.3)
    assert lines[0].verdict == ""


def test_threshold(module):
    sides = [1.0] * 7, [1.0] * 7, [1.08] * 7
    assert lines_of(module, sides)[0].verdict == ""
    assert lines_of(module, sides, threshold=1.05)[0].verdict == "SLOWER"


@pytest.mark.parametrize(
    ("failures", "verdict", "regressed"),
    [
        ({"head": "RuntimeError: no"}, "FAILED", True),
        ({"head": "KeyError: 'relu'"}, "gone", False),
        ({"base": "KeyError: 'relu'", "control": "KeyError: 'relu'"}, "new", False),
        (dict.fromkeys(("base", "control", "head"), "RuntimeError: no"), "FAILED", False),
        ({"control": "RuntimeError: no"}, "", False),
    ],
)
def test_sides_that_fail(module, failures, verdict, regressed):
    comparison = module("comparison")
    medians = {side: [1.0] * 7 for side in ("base", "control", "head") if side not in failures}
    turns = module("compare_commits").Turns(medians, failures)
    (line,) = comparison.of_turns(["relu"], [turns], 1.1)
    assert line.verdict == verdict
    assert comparison.regressed([line]) is regressed
    if verdict:
        assert next(iter(failures.values())) in line.message


# ---- result files --------------------------------------------------------------------------


@pytest.fixture
def result():
    return json.loads(RESULT.read_text())


def saved(path, content):
    path.write_text(json.dumps(content))
    return path


def test_two_files(compare, tmp_path, result):
    base = saved(tmp_path / "base.json", result)
    slower = copy.deepcopy(result)
    timing = slower["rows"][0]["timings"]["nnkernels"]
    for name in ("median_s", "p25_s", "p75_s"):
        timing[name] *= 10
    slower["rows"][1]["timings"]["nnkernels"] = {"status": "failed", "message": "no such file"}
    slower["rows"][2]["shape"][0] += 1
    slower["machine"]["cpu"] = "another one"
    head = saved(tmp_path / "head.json", slower)

    status, out, err = compare(base, base)
    assert (status, err) == (0, "")
    assert "none changed; geometric mean of the ratios 1.000x" in out

    markdown, saved_json = tmp_path / "table.md", tmp_path / "table.json"
    status, out, _ = compare(base, head, "--markdown", markdown, "--json", saved_json)
    assert status == 1
    verdicts = [row["verdict"] for row in json.loads(saved_json.read_text())["rows"]]
    rest = [""] * (len(result["rows"]) - 3)
    assert verdicts == ["SLOWER", "FAILED", "gone", *rest, "new"]
    assert "no such file" in out
    assert "another one" in out
    text = markdown.read_text()
    assert "1 slower, 1 failed, 1 new, 1 gone" in text
    assert text.count("| **SLOWER** |") == 2  # among what changed, and among all
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 7


def test_files_that_cannot_be_compared(compare, tmp_path, result):
    good = saved(tmp_path / "good.json", result)
    short = tmp_path / "short.json"
    short.write_text(good.read_text()[:1000])
    newer = saved(tmp_path / "newer.json", {**result, "schema": 99})
    for other, words in (
        (short, "cut short"),
        (newer, "schema 99"),
        (tmp_path / "none.json", "cannot be read"),
        ("HEAD", "not one of each"),
    ):
        status, out, err = compare(good, other)
        assert (status, out) == (2, "")
        assert words in err
    status, out, _ = compare(good, saved(tmp_path / "empty.json", {**result, "rows": []}))
    assert status == 0
    assert "no row in common" in out


# ---- commits -------------------------------------------------------------------------------


def git(tree, *arguments):
    name = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(tree), *name, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A repository with the files of this checkout, and one commit more that makes things worse."""
    tree = tmp_path_factory.mktemp("history") / "checkout"
    tree.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "results")
    for name in ("nnkernels", "cuda_src", "hip_src", "bench"):
        shutil.copytree(CHECKOUT / name, tree / name, ignore=ignored)
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "as it is")
    package = tree / "nnkernels" / "__init__.py"
    package.write_text(
        package.read_text()
        + """
import time as _time
from nnkernels.registry import all_ops as _all_ops

def _worse(name, broken=False):
    op = _all_ops()[name]
    function = op.function
    def worse(*arguments, **options):
        _time.sleep(0.002)
        if broken:
            raise RuntimeError("not today")
        return function(*arguments, **options)
    worse.__signature__ = __import__("inspect").signature(function)
    object.__setattr__(op, "function", worse)

_worse("relu")
_worse("tanh", broken=True)
"""
    )
    git(tree, "commit", "-q", "-a", "-m", "worse")
    return tree


def compare_commits(tree, *arguments):
    return subprocess.run(
        [sys.executable, tree / "bench" / "compare.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_two_commits(history, tmp_path):
    found = tmp_path / "found.json"
    done = compare_commits(
        history, "HEAD~1", "HEAD", "--op", "relu,tanh,gelu", "--shape", "64x64",
        "--min-time", "0.05", "--threads", "1", "--json", found,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    relu, tanh, gelu = json.loads(found.read_text())["rows"]
    assert (relu["verdict"], tanh["verdict"]) == ("SLOWER", "FAILED")
    assert relu["head_s"] - relu["base_s"] == pytest.approx(0.002, rel=0.5)
    assert tanh["base_s"] > 0
    assert "not today" in tanh["message"]
    assert gelu["ratio"] == pytest.approx(1, abs=0.8)
    assert "worse, against" in done.stdout
    # Nothing is left of the trees.
    assert len(git(history, "worktree", "list").splitlines()) == 1


def test_the_working_tree(history):
    done = compare_commits(
        history, "HEAD", ".", "--op", "relu", "--shape", "8x8", "--repeat", "7", "--threads", "1"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the working tree, against ")


def test_commits_that_are_none(compare):
    status, _, err = compare("HEAD", "no-such-branch")
    assert status == 2
    assert "'no-such-branch' is neither a result file nor a commit" in err


def test_a_bench_that_needs_something_new_leaves_the_base_to_its_own(history):
    changed = {
        history / "nnkernels" / "__init__.py": "\nbrand_new = 1\n",
        history / "bench" / "measure.py": "\nfrom nnkernels import brand_new as brand_new\n",
    }
    before = {path: path.read_text() for path in changed}
    for path, more in changed.items():
        path.write_text(before[path] + more)
    try:
        # Whether it works is asked here, and not how fast it is beside other programs.
        quick = ("--op", "gelu", "--shape", "8x8", "--repeat", "3", "--threshold", "100")
        done = compare_commits(history, "HEAD", ".", *quick)
    finally:
        for path, text in before.items():
            path.write_text(text)
    assert done.returncode == 0, done.stderr


def test_a_nnkernels_that_this_bench_cannot_run(history):
    package = history / "nnkernels" / "__init__.py"
    text = package.read_text()
    package.write_text("raise ImportError('too old')\n")
    try:
        done = compare_commits(history, "HEAD", ".", "--op", "relu", "--shape", "8x8")
    finally:
        package.write_text(text)
    assert done.returncode == 2
    assert "head: ImportError: too old" in done.stderr
