"""The static report: rules of comparison, the committed table, and what a broken kernel does to it.

Of the committed tables, one instance of each op whose sources changed is compiled and compared here
(`make static-check` does all of them), and of each architecture four that did not change.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import gpu_compilers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkernels import registry
from nnkernels.__main__ import main
from nnkernels.compile import cache, sources
from nnkernels.compile.instance import Instance
from nnkernels.inspection import batches, comparing, contents, static_table, store
from nnkernels.inspection.comparing import worse
from nnkernels.inspection.inspect import choices
from nnkernels.inspection.result import Resources
from nnkernels.inspection.roofline import GPUS, Cost, estimates
from nnkernels.inspection.static_table import COLUMNS, Row, Table, TableError, read_text, text_of

TABLES = sources.include_directories()[0].parent / "bench" / "static"
HERE = "NVRTC 1.0"

# ---- rules, on lines that are made up -----------------------------------------------------------

small = st.integers(0, 100)
counts = st.dictionaries(st.sampled_from((16, 8, 4, 2, 1)), st.integers(1, 64))
lines = st.builds(
    Row,
    *(st.sampled_from(names) for names in (("relu", "gelu"), ("float32", "int8"), ("K", "L"))),
    kind=st.sampled_from(("warp", "block of 256, row in registers", 'a "b", c')),
    problem=st.sampled_from(("dense", "rows of 1024, padded")),
    threads=st.sampled_from((32, 64, 256)),
    registers=small,
    spill=small,
    local=small,
    static_shared=small,
    dynamic_shared=small,
    blocks=st.integers(0, 32),
    loads=counts,
    stores=counts,
    loop=st.integers(100, 300),
    multiply_adds=small,
    content=st.text("0123456789abcdef", min_size=16, max_size=16),
)


@given(lines)
def test_nothing_is_worse_than_itself(row):
    assert worse(row, row) == []
    better = replace(
        row, spill=0, local=0, loads=row.loads | {16: row.loads.get(16, 0) + 1}, registers=0,
        blocks=row.blocks + 1, multiply_adds=row.multiply_adds + 1,
    )  # fmt: skip
    assert worse(row, better) == []


@given(lines, st.integers(1, 50), st.sampled_from(("spill", "local")))
def test_memory_for_lack_of_registers_is_worse(row, more, column):
    (fault,) = worse(row, replace(row, **{column: getattr(row, column) + more}))
    assert str(getattr(row, column) + more) in fault
    assert str(getattr(row, column)) in fault


@given(lines, st.sampled_from(("loads", "stores")))
def test_narrower_accesses_are_worse(row, column):
    wide = replace(row, **{column: {16: 4, 4: 2}})
    for now, what in (
        ({4: 18}, "widest"), ({8: 8, 4: 2}, "widest"), ({16: 3, 4: 6}, "fewer"), ({}, "widest")
    ):  # fmt: skip
        (fault,) = worse(wide, replace(row, **{column: now}))
        assert what in fault
        assert column in fault
    assert worse(wide, replace(row, **{column: {16: 4}})) == []
    # Other accesses than the widest ones come and go.
    narrow = replace(row, **{column: {8: 4, 4: 1}})
    assert worse(narrow, replace(row, **{column: {8: 2, 4: 5}})) == []


@given(lines, st.integers(0, 400))
def test_occupancy(row, blocks):
    old = replace(row, threads=64, blocks=200)
    lost = [fault for fault in worse(old, replace(old, blocks=blocks)) if "at once" in fault]
    assert bool(lost) == (blocks < 150)
    # Smaller blocks may be more.
    assert worse(old, replace(old, threads=32, blocks=300)) == []


@given(lines, st.integers(0, 100))
def test_the_share_of_the_main_loop(row, now):
    old = replace(row, loop=100, multiply_adds=80)
    found = worse(old, replace(old, multiply_adds=now))
    assert bool(found) == (now < 72)
    assert all("main loop" in fault for fault in found)
    counting = replace(row, loop=100, multiply_adds=19)
    assert worse(counting, replace(counting, multiply_adds=0)) == []


# ---- files --------------------------------------------------------------------------------------


def by_identity(rows):
    return {row.identity: row for row in rows}


@given(st.lists(lines, max_size=8))
def test_a_table_is_read_as_it_was_written(rows):
    rows = by_identity(rows)
    text = text_of("sm_90", HERE, rows.values())
    assert read_text(text) == Table("sm_90", HERE, rows)
    assert text_of("sm_90", HERE, reversed(rows.values())) == text


@given(lines, st.sampled_from([c for c in COLUMNS if c not in ("loads", "stores")]))
def test_an_edited_line_is_seen(row, column):
    old = str(getattr(row, column))
    text = text_of("sm_90", HERE, [row])
    at = text.splitlines()[2]
    cells = next(iter(static_table.csv.reader([at])))
    place = COLUMNS.index(column)
    assert cells[place] == old
    cells[place] = "7" if old != "7" else "8"
    out = static_table.io.StringIO()
    static_table.csv.writer(out, lineterminator="").writerow(cells)
    table = read_text(text.replace(at, out.getvalue()))
    assert table.edited == set(table.rows)


def one_line(**changes):
    row = Row(
        "relu", "float32", "Elementwise", "4 elements", "dense", 256, 32, 0, 0, 0, 0, 8, {16: 4},
        {16: 4}, 0, 0, "0" * 16,
    )  # fmt: skip
    return replace(row, **changes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("report 1;", "report 2;", "of version 2, and this nnkernels reads 1; make static"),
        ("# nnkernels", "# something", "no static report: it begins with '# something static"),
        (",spill,", ",spill,temperature,", r"unknown \['temperature'\], missing \[\]; make static"),
        (",spill,", ",", r"unknown \[\], missing \['spill'\]"),
        ("spill,local", "local,spill", "columns in another order"),
        (",256,32,", ",256,many,", "line 3: invalid literal for int"),
        ("4x16", "4z16", "line 3: "),
        (",0000000000000000", "", "line 3: "),
    ],
)
def test_another_table(old, new, message, tmp_path):
    text = text_of("sm_90", HERE, [one_line()])
    assert old in text
    (tmp_path / "sm_90.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(TableError, match=message):
        static_table.read(tmp_path, "sm_90")


def test_tables_that_are_none(tmp_path):
    with pytest.raises(TableError, match=r"cannot be read .*; make static writes it"):
        static_table.read(tmp_path, "sm_90")
    text = text_of("sm_90", HERE, [one_line()])
    (tmp_path / "sm_80.csv").write_text(text)
    with pytest.raises(TableError, match=r"sm_80\.csv is of sm_90"):
        static_table.read(tmp_path, "sm_80")
    with pytest.raises(TableError, match=r"line 4: relu float32.*twice"):
        read_text(text + text.splitlines()[2] + "\n")
    with pytest.raises(TableError, match="no static report"):
        read_text("")
    with pytest.raises(TableError, match="line 3"):  # cut short
        read_text(text[:-30])


def test_the_command_on_another_table(tmp_path, capsys):
    (tmp_path / "sm_90a.csv").write_text("# nnkernels static report 9; sm_90a; NVRTC 13.0\n")
    assert main(["inspect", "--all", "--compare", str(tmp_path), "--arch", "sm_90a,gfx90a"]) == 2
    errors = capsys.readouterr().err
    assert "sm_90a.csv: a static report of version 9, and this nnkernels reads 1" in errors
    assert "gfx90a.csv cannot be read" in errors


# ---- comparing, with compilers that are made up -------------------------------------------------


class Invented:
    """Compilers that answer what they were told."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def compile(self, instances, arch, *, fresh=False):
        for instance in instances:
            self.asked.append((instance.symbol, fresh))
            yield self.answers[instance.symbol]


@pytest.fixture
def invented(monkeypatch):
    """Instances of an op, a table of them, and compilers that give just that."""
    chosen = {
        static_table.identity_of(choice, "sm_90"): choice
        for choice in choices(registry.find("relu"), ("float32", "float16"), "sm_90")
    }
    good = Resources(32, 0, 0, 0, {16: 4}, {16: 4})
    compilers = Invented({c.launch.instance.symbol: good for c in chosen.values()})
    rows = {name: static_table.row_of(c, "sm_90", good) for name, c in chosen.items()}
    monkeypatch.setattr(comparing, "compiler_for", lambda arch: HERE)
    return Table("sm_90", HERE, rows), chosen, compilers


def changed(table, names):
    """The table as if some lines were of older sources."""
    older = {name: replace(table.rows[name], content="f" * 16) for name in names}
    return replace(table, rows=table.rows | older)


def test_nothing_but_a_few_is_compiled_if_nothing_changed(invented):
    table, chosen, compilers = invented
    outcome = comparing.compare(table, chosen, compilers)
    assert (outcome.faults, outcome.notes) == ([], [])
    assert (outcome.rows, outcome.changed, outcome.compared) == (len(chosen), 0, 0)
    assert outcome.rechecked == len(compilers.asked) == comparing.RECHECKED
    assert all(fresh for _, fresh in compilers.asked)


def test_what_changed_is_compiled_and_judged(invented):
    table, chosen, compilers = invented
    first, second, *_ = chosen
    bad = chosen[second].launch.instance.symbol
    compilers.answers[bad] = Resources(32, 24, 16, 0, {16: 3}, {8: 8})
    outcome = comparing.compare(changed(table, (first, second)), chosen, compilers, rechecked=0)
    assert {symbol for symbol, _ in compilers.asked} == {
        chosen[name].launch.instance.symbol for name in (first, second)
    }
    assert len(outcome.faults) == 4
    assert all(second[3] in fault and fault.startswith("sm_90 relu ") for fault in outcome.faults)
    assert "spills 24 bytes, and 0 before" in outcome.faults[0]
    (note,) = outcome.notes
    assert f"2 of {len(chosen)} instances have other sources" in note
    compilers.answers[bad] = "error: no such thing"
    outcome = comparing.compare(changed(table, (second,)), chosen, compilers, rechecked=0)
    assert "does not compile: error: no such thing" in outcome.faults[0]


def test_a_sample_of_each_op(invented):
    table, chosen, compilers = invented
    outcome = comparing.compare(changed(table, chosen), chosen, compilers, sample=3)
    assert (outcome.changed, outcome.compared, outcome.rechecked) == (len(chosen), 3, 0)


def test_instances_that_came_and_went(invented):
    table, chosen, compilers = invented
    first, second, *others = chosen
    some = replace(table, rows={name: table.rows[name] for name in (first, *others)})
    outcome = comparing.compare(some, chosen, compilers)
    (fault,) = outcome.faults
    assert second[3] in fault
    assert "missing in the table; make static" in fault
    outcome = comparing.compare(table, {name: chosen[name] for name in others}, compilers)
    assert len(outcome.faults) == 2
    assert all("chosen by nothing any more; make static" in fault for fault in outcome.faults)
    outcome = comparing.compare(replace(table, rows={}), chosen, compilers)
    assert "more missing in the table" in outcome.faults[-1]
    # What was not asked for is not missed.
    outcome = comparing.compare(
        some, chosen, compilers, wanted=lambda op, dtype: dtype != second[1]
    )
    assert outcome.faults == []


def test_the_same_sources_give_the_same(invented):
    table, chosen, compilers = invented
    for choice in chosen.values():
        compilers.answers[choice.launch.instance.symbol] = Resources(33, 0, 0, 0, {16: 4}, {16: 4})
    outcome = comparing.compare(table, chosen, compilers)
    assert len(outcome.faults) >= comparing.RECHECKED
    assert "of the same sources, registers 33, and 32 in the table" in outcome.faults[0]
    # Another compiler may do otherwise, if not worse.
    outcome = comparing.compare(replace(table, compiler="NVRTC 0.9"), chosen, compilers)
    assert outcome.faults == []
    assert outcome.notes == [f"compiled by {HERE}; the table is by NVRTC 0.9"]
    outcome = comparing.compare(
        replace(table, edited=frozenset(list(chosen)[:1])), chosen, compilers
    )
    assert "this line of the table was edited; make static" in outcome.faults[0]


def test_the_same_code_with_more_shared_memory(invented):
    """Nothing is compiled to see it: the configuration alone asks for it."""
    table, chosen, compilers = invented
    name = next(iter(chosen))
    launch = replace(chosen[name].launch, shared_bytes=100 << 10)
    greedy = chosen | {name: replace(chosen[name], launch=launch)}
    outcome = comparing.compare(table, greedy, compilers, rechecked=0)
    (fault,) = outcome.faults
    assert "102400 bytes of shared memory" in fault
    assert compilers.asked == []


def test_refreshing_compiles_what_changed(invented, tmp_path, monkeypatch):
    table, chosen, compilers = invented
    monkeypatch.setattr(static_table, "representative", lambda arch: chosen)

    def refresh():
        done = []
        compilers.asked = []
        found = comparing.refresh(tmp_path, "sm_90", compilers, done.append)
        assert sum(done) == len(chosen)
        assert len(compilers.asked) == found.changed
        return found

    assert refresh().changed == len(chosen)
    assert static_table.read(tmp_path, "sm_90") == table
    assert refresh().changed == 0
    first, *_ = chosen
    old = changed(table, (first,)).rows.values()
    static_table.write(tmp_path, "sm_90", HERE, old)
    assert refresh().changed == 1
    assert static_table.read(tmp_path, "sm_90") == table
    path = tmp_path / "sm_90.csv"
    path.write_text(path.read_text().replace(",256,32,", ",256,31,", 2))  # edited by hand
    assert refresh().changed == 2
    assert static_table.read(tmp_path, "sm_90") == table
    static_table.write(tmp_path, "sm_90", "NVRTC 0.9", table.rows.values())
    assert refresh().changed == len(chosen)
    path.write_text("nonsense")
    assert refresh().changed == len(chosen)
    symbol = chosen[first].launch.instance.symbol
    compilers.answers[symbol] = "error"
    static_table.write(tmp_path, "sm_90", HERE, old)
    assert len(refresh().rejected) == 1
    assert first not in static_table.read(tmp_path, "sm_90").rows


# ---- headers ------------------------------------------------------------------------------------


@pytest.fixture
def headers(tmp_path, monkeypatch):
    """A copy of all headers, to break: ``headers(name, old, new)``."""
    copies = []
    for directory in sources.include_directories():
        copies.append(tmp_path / directory.name)
        shutil.copytree(directory, copies[-1])
    for module in (sources, contents):
        monkeypatch.setattr(module, "include_directories", lambda: tuple(copies))
    contents.headers_hash.cache_clear()

    def edit(name, old, new):
        path = next(copy / name for copy in copies if (copy / name).exists())
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        contents.headers_hash.cache_clear()

    yield edit
    contents.headers_hash.cache_clear()


def first_instance(op, dtype="float32", arch="sm_90"):
    return choices(registry.find(op), (dtype,), arch)[0].launch.instance


def test_a_header_counts_for_those_that_include_it(headers):
    names = ("relu", "conv", "softmax")
    instances = [first_instance(name) for name in names]

    def hashes():
        return {n: contents.content_hash(i, "sm_90") for n, i in zip(names, instances, strict=True)}

    before = hashes()
    headers("nnk/conv_windows.cuh", "namespace nnk {", "// a comment\n\nnamespace  nnk {")
    assert hashes() == before
    headers("nnk/conv_windows.cuh", "namespace  nnk {", "namespace nnk {\nstruct New {};")
    after = hashes()
    assert {name for name in names if after[name] != before[name]} == {"conv"}
    headers("platform/cuda.cuh", "#define NNK_ENTRY", "struct New;\n#define NNK_ENTRY")
    assert not set(hashes().values()) & set(after.values())
    headers("platform/sim.cuh", "namespace nnk {", "namespace nnk {\nstruct New;")
    assert len({contents.content_hash(i, "sm_80") for i in instances}) == 3


# ---- a broken kernel ----------------------------------------------------------------------------


class Here:
    """Compilers in this process, which see the headers that a test has broken."""

    def compile(self, instances, arch, *, fresh=False):
        found = batches.resources_of(instances, arch)
        return iter([found[instance.symbol] for instance in instances])


LOAD = "NNK_FN Vec<T, N> load(const T* p) {\n"
BY_ELEMENTS = """\
  if constexpr (true) {
    Vec<T, N> w;
    for (int i = 0; i < N; ++i) w.lane[i] = p[i];
    return w;
  }
"""
BOUND = "nnk::LeastBlocks<__VA_ARGS__>::of(threads)"


@pytest.mark.parametrize("arch", [gpu_compilers.parameter("sm_90")])
@gpu_compilers.needs_nvdisasm
@pytest.mark.parametrize(
    ("op", "header", "old", "new", "faults"),
    [
        # 32 registers of a thread.
        ("softmax", "platform/cuda.cuh", BOUND, "2048 / threads", ("spills", "local memory")),
        ("relu", "platform/vec_array.cuh", LOAD, LOAD + BY_ELEMENTS, ("widest of its loads",)),
    ],
    ids=["a launch bound", "a lost vector load"],
)
def test_a_broken_kernel_is_found_out(arch, op, header, old, new, faults, headers):
    labels = ("rows of 4096", "dense, large")

    def wanted(dtype, problem):
        return problem.label in labels

    chosen = {
        static_table.identity_of(choice, arch): choice
        for choice in choices(registry.find(op), ("float32",), arch, wanted)
    }
    instances = [choice.launch.instance for choice in chosen.values()]
    rows = {
        name: static_table.row_of(chosen[name], arch, found)
        for name, found in zip(chosen, Here().compile(instances, arch), strict=True)
    }
    table = Table(arch, batches.compiler_for(arch), rows)
    assert comparing.compare(table, chosen, Here(), rechecked=0).faults == []
    headers(header, old, new)
    outcome = comparing.compare(table, chosen, Here())
    assert outcome.compared == len(rows)
    for what in faults:
        assert any(what in fault for fault in outcome.faults), outcome.faults
    assert all(fault.startswith(f"{arch} {op} float32, ") for fault in outcome.faults)


# ---- compiling ----------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_kept(own_cache):
    found = {
        "a" * 32: Resources(8, 0, 16, 4, {16: 2, 4: 1}, {}, store.Counter(FFMA=3)),
        "b" * 32: Resources(9, 1, 0, 0),
    }
    assert store.load("sm_90") == {}
    store.save("sm_90", found)
    store.save("sm_80", {"c" * 32: Resources(1, 0, 0, 0)})
    assert store.load("sm_90") == found
    (path,) = own_cache.glob("inspect-sm_90-*.json")
    path.write_bytes(path.read_bytes()[:-1])  # a disk that was full
    assert store.load("sm_90") == {}
    assert not path.exists()
    cache.clear()
    assert store.load("sm_80") == {}


@pytest.mark.parametrize("arch", [gpu_compilers.parameter("sm_90")])
@gpu_compilers.needs_nvdisasm
def test_one_that_is_rejected_takes_no_other_along(arch, own_cache):
    good = first_instance("relu")
    bad = Instance("softmax", "NoSuchKernel<float>", 128)
    keys = {good.symbol: "a" * 32, bad.symbol: "b" * 32}
    found = batches.compile_batch([bad, good], keys, arch)
    assert found[good.symbol].registers > 8
    assert "NoSuchKernel" in found[bad.symbol]
    assert list(store.load(arch)) == ["a" * 32]


class Fatal(Instance):
    """Ends the process that is to compile it, as soon as that hears of it."""

    def __reduce__(self):
        return os._exit, (1,)


@pytest.mark.parametrize("arch", [gpu_compilers.parameter("sm_90")])
@gpu_compilers.needs_nvdisasm
def test_a_compiler_that_dies_takes_no_other_along(arch, own_cache, monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 2)
    good = first_instance("relu")
    # The process that ends may have had any of the batches of that time.
    fatal = [Fatal("softmax", f"Fatal{i}<float>", 128) for i in range(2)]
    bad = [Instance("softmax", f"NoSuchKernel{i}<float>", 128) for i in range(4)]
    instances = [fatal[0], good, *bad, fatal[1]]
    with batches.Compilers(jobs=2) as compilers:
        found = dict(zip(instances, compilers.compile(instances, arch), strict=True))
    assert found[good].registers > 8
    assert len(store.load(arch)) == 1
    for instance in bad:
        assert "NoSuchKernel" in found[instance]
    for instance in fatal:
        assert found[instance] == "the process that compiled it ended before it was done"
    assert compilers.compiled == len(instances)


INTERRUPTED = """\
import signal, sys
# Who starts tests in the background may have had the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from nnkernels.__main__ import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("arch", [gpu_compilers.parameter("sm_90")])
@gpu_compilers.needs_nvdisasm
def test_an_interrupt_keeps_what_was_done(arch, own_cache, tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    listing = [
        sys.executable, str(script), "inspect", "--all", "--op", "relu,gelu,silu,tanh",
        "--dtype", "float32", "--arch", arch, "--json", "--jobs", "1",
    ]  # fmt: skip
    with (
        (tmp_path / "errors").open("w") as file,
        subprocess.Popen(
            listing, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True
        ) as first,
    ):
        printed = first.stdout.readline()
        os.killpg(first.pid, signal.SIGINT)  # as a terminal does
        printed += first.stdout.read()
    errors = (tmp_path / "errors").read_text()
    assert first.returncode == 130, errors
    assert "interrupted; what was compiled is kept" in errors
    assert "Traceback" not in errors
    done = json.loads(printed)
    kept = len(store.load(arch))
    assert kept >= len(done) >= 1
    second = subprocess.run(listing, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    rows = json.loads(second.stdout)
    assert rows[: len(done)] == done
    assert len(rows) > kept
    assert f"{len(rows) - kept} compiled, {kept} known from earlier runs" in second.stderr


# ---- roofline -----------------------------------------------------------------------------------


def test_rooflines():
    cost = Cost(2e12, 1000)
    (found,) = estimates("sm_90", "MatmulTensor<...>", "float16", cost)
    assert (found.gpu, found.unit, found.bound) == ("H100", "matrix float16", "compute")
    assert found.seconds == pytest.approx(2e12 / 989.5e12)
    assert found.intensity == 2e9
    (found,) = estimates("sm_80", "MatmulSimt<...>", "complex128", cost)
    assert (found.gpu, found.unit) == ("A100", "float64")
    (found,) = estimates("gfx90a", "Elementwise<...>", "int8", Cost(1e6, 16 * 10**8))
    assert (found.unit, found.bound, found.intensity) == ("float32", "memory", 1 / 1600)
    assert found.seconds == pytest.approx(1e-3)
    assert estimates("sm_120", "Elementwise<...>", "float32", cost) == []
    assert estimates("gfx1100", "MatmulTensor<...>", "float64", cost)[0].seconds > 0


def test_every_rate_is_known():
    for gpu in GPUS:
        assert {"float32", "float64", "matrix float16", "matrix int8"} <= set(gpu.rates)
        assert gpu.rates["float64"] < gpu.rates["matrix float16"]


def test_every_call_has_a_cost():
    products = {"matmul", "conv"}
    for op in registry.all_ops().values():
        for choice in choices(op, op.dtypes[:1], "sm_90"):
            assert choice.cost.traffic > 0, op.name
            assert choice.cost.operations >= 0, op.name
            if op.name in products and choice.problem.label.startswith("large"):
                (found,) = estimates("sm_90", "MatmulTensor<>", "float16", choice.cost)
                assert found.intensity > 50, (op.name, choice.problem.label)


# ---- the committed table ------------------------------------------------------------------------


@pytest.mark.parametrize("arch", static_table.FAMILIES)
def test_the_files(arch):
    path = static_table.path_of(TABLES, arch)
    text = path.read_text()
    assert len(text) < 1 << 20
    table = static_table.read(TABLES, arch)
    assert text_of(arch, table.compiler, table.rows.values()) == text
    dtypes = {"float32", "float16"}
    assert dtypes <= {row.dtype for row in table.rows.values()}


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(a) for a in static_table.FAMILIES])
@gpu_compilers.needs_nvdisasm
def test_nothing_is_worse_than_the_table(arch):
    table = static_table.read(TABLES, arch)
    chosen = static_table.representative(arch)
    with batches.Compilers(jobs=1) as compilers:
        outcome = comparing.compare(table, chosen, compilers, sample=1)
    for note in outcome.notes:
        print(note)
    assert not outcome.faults, "\n".join(outcome.faults)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--all", "softmax"], "an OP, or --all"),
        (["softmax", "--op", "relu"], "--op goes with --all"),
        (["softmax", "--compare", "x"], "--compare and --update go with --all"),
        (["--all", "--update", "x", "--op", "relu"], "--update writes whole tables"),
        (["--all", "--sample", "1"], "--sample goes with --compare"),
        (["--all", "--jobs", "0"], "--jobs must be at least 1; got 0"),
        (["--all", "--dtype", "fp8"], "no dtype is called 'fp8'"),
        (["--all", "--op", "softmin"], "no op is called 'softmin'"),
        (["--all", "--compare", "x", "--arch", "sm_120"], "no architecture 'sm_120' is known"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    assert main(["inspect", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
