"""The bench does what a configuration file says, and says what is wrong with one."""

import contextlib
import json
import sys

import bench_runs
import pytest
from bench_runs import bench, module

_ = bench, module  # fixtures


@pytest.fixture
def request_for(module, bench, monkeypatch):
    """What the bench would measure, and its messages, without measuring."""

    def ask(*arguments):
        seen = []
        done = {"rows": [], "complete": True}
        monkeypatch.setattr(module("session"), "run", lambda request: seen.append(request) or done)
        monkeypatch.setattr(module("report"), "text", lambda result: "")
        status, _, err = bench(*arguments)
        assert status == 0, err
        return seen[0], err

    return ask


@pytest.fixture
def config(tmp_path):
    """A file with a text."""

    def write(text):
        path = tmp_path / "suites.toml"
        path.write_text(text)
        return path

    return write


TWO = """
[run]
peers = ["numpy"]
threads = 1
min_time = 0.25

[suites.activations]
ops = ["relu", "gelu"]
shapes = ["6x8", [40]]
dtypes = ["float32", "float64"]
direction = "both"
targets = [
    { seconds = 1e-3, ops = ["gelu"], shapes = [[40]] },
    { peer = "numpy", times = 2 },
]

[suites.images]
ops = "conv"
shapes = "1x4x6x6"
cases = ["8 3x3", "8 1x1"]
layouts = ["contiguous", "channels_last"]
peers = ["scipy", "none"]
min_time = 0.01
mean = { times = 1.5 }
"""


# ---- what is measured ----------------------------------------------------------------------


def test_suites_are_all_combinations(request_for, config):
    request, _ = request_for("--config", config(TWO))
    found = {(p.op, p.shape, p.dtype) for p in request.problems if p.op != "conv"}
    assert found == {
        (op, shape, dtype)
        for op in ("relu", "relu_backward", "gelu", "gelu_backward")
        for shape in ((6, 8), (40,))
        for dtype in ("float32", "float64")
    }
    images = [(p.case, p.layout) for p in request.problems if p.op == "conv"]
    assert sorted(images) == [
        (case, layout) for case in ("8 1x1", "8 3x3") for layout in ("channels_last", "contiguous")
    ]
    assert len(set(request.problems)) == len(request.problems) == 16 + 4
    assert request.suites == ["activations", "images"]


def test_settings_are_those_of_the_run_or_of_the_suite(request_for, config):
    request, _ = request_for("--config", config(TWO))
    assert (request.threads, request.min_time, request.backend) == (1, 0.25, "cpu")
    assert [peer.name for peer in request.peers] == ["numpy", "scipy"]
    of_suites = {(p.op == "conv", p.peers, p.min_time) for p in request.problems}
    assert of_suites == {(False, ("numpy",), None), (True, ("scipy", "none"), 0.01)}


def test_targets_and_means_are_those_of_the_suite(request_for, config):
    request, _ = request_for("--config", config(TWO))
    targets = {(p.op, p.shape): p.target for p in request.problems}
    assert (targets["gelu", (40,)].kind, targets["gelu", (40,)].limit) == ("seconds", 1e-3)
    for other in (("gelu", (6, 8)), ("gelu_backward", (40,)), ("relu", (40,))):
        assert (targets[other].kind, targets[other].limit) == ("times numpy", 2.0)
    means = {p.mean for p in request.problems if p.op == "conv"}
    assert [(mean.name, mean.target.kind) for mean in means] == [("images, conv", "times best")]


def test_options_take_the_place_of_what_the_file_says(request_for, config):
    path = config(TWO)
    request, _ = request_for(
        *("--config", path, "--suite", "activations", "--direction", "backward", "--shape", "5"),
        *("--dtype", "float64", "--min-time", "0.125", "--peer", "none", "--threads", "2"),
    )
    problems = [(p.op, p.shape, p.dtype, p.peers, p.min_time) for p in request.problems]
    expected = [(f"{op}_backward", (5,), "float64", None, None) for op in ("relu", "gelu")]
    assert problems == expected
    assert (request.min_time, request.threads, request.peers) == (0.125, 2, [])
    request, _ = request_for("--config", path, "--op", "tanh", "--shape", "3")
    assert [p.op for p in request.problems] == ["tanh"]
    assert [peer.name for peer in request.peers] == ["numpy"]
    request, _ = request_for(
        *("--config", path, "--suite", "images", "--case", "4 1x1", "--layout", "channels_last"),
        *("--peer", "none", "--min-time", "0.5"),
    )
    assert [(p.case, p.layout, p.peers, p.min_time) for p in request.problems] == [
        ("4 1x1", "channels_last", None, None)
    ]


def test_run_names_the_suites_that_are_timed_by_default(request_for, config):
    text = TWO.replace("[run]", '[run]\nsuites = ["images"]\nout = true\nrepeat = 3')
    request, _ = request_for("--config", config(text))
    assert {p.op for p in request.problems} == {"conv"}
    assert (request.out, request.repeat) == (True, 3)
    request, _ = request_for("--config", config(text), "--suite", "activations,images")
    assert {p.op for p in request.problems} > {"conv"}


def test_suites_of_the_bench_are_parts_of_a_suite(module, request_for, config):
    text = '[suites.mine]\nsuites = ["pool", "models"]\ndirection = "forward"\npeers = "none"'
    request, _ = request_for("--config", config(text))
    assert {p.op for p in request.problems} == {"max_pool", "avg_pool", "transformer block"}
    assert all(p.peers == ("none",) for p in request.problems)
    text = '[suites.mine]\nsuites = ["resnet50"]\ndtypes = ["float64"]'
    request, _ = request_for("--config", config(text), "--peer", "none")
    assert {p.dtype for p in request.problems} == {"float64"}


def test_a_family_is_its_ops(request_for, config):
    text = '[suites.mine]\nfamily = "rows"\nshapes = ["4x5"]\naxis = 0'
    request, _ = request_for("--config", config(text), "--peer", "none")
    assert {(p.axis, p.shape) for p in request.problems} == {(0, (4, 5))}
    assert {"softmax", "softmax_backward"} <= {p.op for p in request.problems}


def test_the_example_can_be_measured(module, request_for):
    request, err = request_for("--config", bench_runs.BENCH / "example.toml")
    assert not any(module("problems").obstacle(problem) for problem in request.problems)
    assert err.count("[suites.on-a-gpu] is for cupy, not for cpu") == 1
    assert request.min_time == 0.1


def test_the_example_has_every_key(module):
    text = (bench_runs.BENCH / "example.toml").read_text()
    configuration = module("configuration")
    missing = [key for key in configuration.KEYS_OF_SUITE if f"{key} = " not in text]
    assert missing == ["family"]


def test_directions_on_the_command_line(request_for):
    given = {
        "as named": (),
        "forward": ("--direction", "forward"),
        "backward": ("--direction", "backward"),
        "both": ("--backward",),
    }
    ops = ("--op", "relu,tanh_backward", "--shape", "4")
    found = {
        name: [p.op for p in request_for(*direction, *ops)[0].problems]
        for name, direction in given.items()
    }
    assert found == {
        "as named": ["relu", "tanh_backward"],
        "forward": ["relu"],
        "backward": ["relu_backward", "tanh_backward"],
        "both": ["relu", "relu_backward", "tanh_backward"],
    }
    forward, _ = request_for("--suite", "norm", "--direction", "forward")
    assert {p.op for p in forward.problems} == {
        "layer_norm",
        "rms_norm",
        "batch_norm",
        "group_norm",
    }


def test_list_names_the_suites_of_the_file(bench, config):
    status, out, _ = bench("--list", "--config", config(TWO))
    assert status == 0
    assert "  activations: ops relu, gelu" in out.splitlines()


# ---- one run -------------------------------------------------------------------------------


def test_a_run_is_what_the_file_says(bench, config, tmp_path):
    saved = tmp_path / "result.json"
    text = TWO.replace('dtypes = ["float32", "float64"]', 'dtypes = "float32"')
    text = text.replace('["relu", "gelu"]', '["relu", "softmx"]').replace('"both"', '"forward"')
    path = config(text)
    status, out, err = bench("--config", path, "--repeat", 1, "--json", saved)
    assert status == 0, err
    assert err.count(f"{path}: [suites.activations]: no op is called 'softmx'") == 1
    result = json.loads(saved.read_text())
    assert result["suites"] == ["activations", "images"]
    names = {row["op"]: set(row["timings"]) for row in result["rows"]}
    assert names["relu"] == {"nnkernels", "numpy"}
    assert names["conv 8 3x3"] == {"nnkernels", "scipy"}
    assert all(t["status"] == "ok" for row in result["rows"] for t in row["timings"].values())
    assert [mean["rows"] for mean in result["means"]] == [2, 2]
    assert result["rows"][0]["target"]["kind"] == "times numpy"
    assert "images, conv" in out


# ---- what is wrong -------------------------------------------------------------------------

A_SUITE = '[suites.a]\nops = ["relu"]\n'
BAD = [
    ("ops = [", "suites.toml: is not TOML: "),
    ("", "suites.toml: has no suite"),
    ("[suites]", "suites.toml: has no suite"),
    ("[suite.a]", "suites.toml: has no table 'suite'; there are run, suites"),
    ("suites = 3", "suites.toml: suites is 3, and not a table of suites"),
    ("run = 3\n" + A_SUITE, "suites.toml: [run] is 3, and not a table"),
    ("[suites]\na = 3", "[suites.a] is 3, and not a table"),
    ("[run]\nthread = 2\n" + A_SUITE, "[run] has no key 'thread'; there are backend, peers"),
    ("[run]\nthreads = 0\n" + A_SUITE, "[run] threads is 0, and not a whole number of at least 1"),
    ("[run]\nthreads = true\n" + A_SUITE, "[run] threads is true, and not a whole number"),
    ("[run]\nmin_time = 0\n" + A_SUITE, "[run] min_time is 0, and not a number above 0"),
    ("[run]\nmin_time = nan\n" + A_SUITE, "[run] min_time is nan, and not a number above 0"),
    ("[run]\nmin_time = 1e9\n" + A_SUITE, "not a number of seconds of at most 3600"),
    ("[run]\nout = 1\n" + A_SUITE, "[run] out is 1, and not true or false"),
    ('[run]\nbackend = "tpu"\n' + A_SUITE, "[run] backend is 'tpu', and not one of cpu, cupy"),
    ('[run]\nsuites = ["b"]\n' + A_SUITE, "[run] suites: no suite is called 'b'; there are a"),
    ('[run]\npeers = "jax"\n' + A_SUITE, "no peer is called 'jax'"),
    ("[suites.a]\n", "[suites.a] needs one of ops, family and suites, and has 0"),
    (A_SUITE + 'family = "norm"', "[suites.a] needs one of ops, family and suites, and has 2"),
    (A_SUITE + "shape = 3", "[suites.a] has no key 'shape'; there are ops, family, suites, shapes"),
    (A_SUITE + "shapes = 3", "[suites.a] shapes is 3, and not a list of shapes"),
    (A_SUITE + "shapes = [[2, 3.5]]", "[suites.a] shapes is [[2, 3.5]], and not a list of shapes"),
    (A_SUITE + "shapes = [[]]", "[suites.a] shapes is [[]], and not a list of shapes"),
    (A_SUITE + "shapes = []", "[suites.a] shapes is empty"),
    (A_SUITE + "shapes = [[0, 3]]", "[suites.a]: '0x3' is not a shape"),
    (A_SUITE + "dtypes = [3]", "[suites.a] dtypes is [3], and not a text or a list of texts"),
    (A_SUITE + "dtypes = []", "[suites.a] dtypes is empty"),
    (A_SUITE + 'dtypes = "float8"', "[suites.a]: no dtype is called 'float8'"),
    (A_SUITE + 'layouts = "diagonal"', "[suites.a]: no layout is called 'diagonal'"),
    (A_SUITE + 'cases = "64 3x3"', "[suites.a]: relu has no cases"),
    (A_SUITE + "axis = 1.5", "[suites.a] axis is 1.5, and not a whole number"),
    (A_SUITE + "axis = 1", "[suites.a]: relu: no op here has an axis"),
    (A_SUITE + 'direction = "up"', "[suites.a] direction is 'up', and not one of forward"),
    (A_SUITE + 'backends = ["tpu"]', "[suites.a] backends is 'tpu', and not one of cpu"),
    (A_SUITE + 'backends = ["cupy"]', "nothing to time; "),
    (A_SUITE + "targets = 3", "[suites.a] targets is 3, and not a list of tables"),
    (A_SUITE + "targets = [3]", "[suites.a] targets is 3, and not a table"),
    (A_SUITE + "targets = [{ limit = 3 }]", "[suites.a] targets has no key 'limit'"),
    (A_SUITE + 'targets = [{ peer = "torch" }]', "targets needs either seconds or times"),
    (A_SUITE + 'targets = [{ peer = "numpy", seconds = 1 }]', "which no peer goes with"),
    (A_SUITE + 'targets = [{ peer = "jax", times = 1 }]', "[suites.a]: no peer is called 'jax'"),
    (A_SUITE + "targets = [{ times = true }]", "targets times is true, and not a number above 0"),
    (A_SUITE + 'targets = [{ times = 1, ops = ["rel"] }]', "targets ops: 'rel' is none"),
    (A_SUITE + 'mean = { peer = "torch" }', "[suites.a] mean needs times"),
    ('[suites.a]\nops = ["softmx"]', "[suites.a]: no op is called 'softmx'"),
    ('[suites.a]\nops = ["softmx", "rel"]', "[suites.a]: no op is called 'softmx'"),
    ('[suites.a]\nfamily = "norms"', "[suites.a]: no family is called 'norms'"),
    ('[suites.a]\nsuites = ["all"]', "[suites.a]: no suite is called 'all'"),
    ('[suites.a]\nsuites = ["norm"]\nshapes = ["3"]', "a suite has its own shapes"),
    ('[suites.a]\nsuites = ["norm"]\ndtypes = ["float64"]', "a suite has its own dtypes"),
    ('[suites.a]\nsuites = ["calls"]\nops = ["relu"]', "and has 2"),
    (
        '[suites.a]\nops = ["relu_backward"]\ndirection = "forward"',
        "[suites.a]: relu_backward: nothing here is forward",
    ),
    (
        '[suites.a]\nsuites = ["elementwise"]\ndirection = "backward"',
        "suite elementwise has nothing that is backward",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=range(len(BAD)))
def test_bad_file(bench, config, text, message):
    path = config(text)
    status, out, err = bench("--config", path)
    assert status == 2
    assert message in err
    if "no peer is called 'jax'; there are" not in err:  # which the command line may say too
        assert str(path) in err
    assert out == ""


def test_file_that_cannot_be_read(bench, tmp_path):
    status, _, err = bench("--config", tmp_path / "none.toml")
    assert status == 2
    assert "none.toml: cannot be read (No such file" in err
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    status, _, err = bench("--config", tmp_path / "latin.toml")
    assert status == 2
    assert "latin.toml: is not a text in UTF-8" in err


def test_without_a_reader_of_toml(bench, module, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    status, _, err = bench("--config", config(A_SUITE))
    assert status == 2
    assert "--config needs tomli on Python 3.10" in err


def test_unknown_suite_names_those_of_the_file(bench, config):
    status, _, err = bench("--config", config(A_SUITE), "--suite", "b")
    assert status == 2
    assert "no suite is called 'b'; there are a, foundation" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--op", "softmx,relu,softmx"), "no op is called 'softmx'"),
        (("--op", "relu", "--peer", "jax,numpy"), "no peer is called 'jax'"),
        (("--op", "relu", "--peer", "scipy,numpy"), "scipy cannot be imported"),
        (("--suite", "all,calls"), "no suite is called 'all'"),
    ],
)
def test_what_is_not_there_is_said_once(request_for, monkeypatch, arguments, message):
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    request, err = request_for(*arguments)
    assert err.count(message) == 1
    assert "relu" in {problem.op for problem in request.problems}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--op", "relu", "--direction", "up"), "argument --direction"),
        (("--op", "relu", "--suite", "rows", "--config", "x"), "x: cannot be read"),
        (("--suite", "rows", "--dtype", "float64"), "a suite has its own dtypes"),
        (("--op", "relu_backward", "--direction", "forward"), "nothing here is forward"),
        (("--op", "relu", "--compile-time", "--backend", "reference"), "nothing to compile"),
        (("--op", "transformer block", "--shape", "2x3x65"), "the width a multiple of 64"),
        (("--op", "digits step", "--shape", "2x3x65"), "the shape is IMAGESxPIXELS"),
        (("--op", "digits step", "--layout", "transposed"), "on contiguous arrays alone"),
        (("--family", "models", "--dtype", "float16"), "takes float32, float64, not float16"),
    ],
)
def test_bad_options(bench, arguments, message):
    status, out, err = bench(*arguments)
    assert status == 2
    assert message in err
    assert out == ""


# ---- comparing commits ---------------------------------------------------------------------


def test_commits_are_compared_on_what_the_file_says(module, config, monkeypatch, capsys):
    compare, commits = module("compare"), module("compare_commits")
    assert compare  # its own modules are imported when it runs
    seen = []

    def measure(base, head, problems, settings, progress):
        seen.append((problems, settings))
        return iter(())

    monkeypatch.setattr(commits, "measure", measure)
    monkeypatch.setattr(commits, "resolve", lambda text: ".")
    monkeypatch.setattr(commits, "checked_out", lambda commit: contextlib.nullcontext("."))
    run = bench_runs.runner(module, "compare", monkeypatch, capsys)
    path = config(TWO)
    status, _, err = run("a", "b", "--config", path, "--dtype", "float64")
    assert status == 0, err
    ((problems, settings),) = seen
    assert {p.op for p in problems} >= {"relu_backward", "conv"}
    assert {p.dtype for p in problems} == {"float64"}
    assert (settings.threads, settings.min_time) == (1, 0.25)
    run("a", "b", "--config", path, "--suite", "images", "--min-time", "0.5")
    assert {p.min_time for p in seen[1][0]} == {None}
    assert seen[1][1].min_time == 0.5

    status, _, err = run("a", "b", "--config", config('[run]\nbackend = "reference"\n' + A_SUITE))
    assert status == 2
    assert "backend reference: compare on cpu or cupy" in err
