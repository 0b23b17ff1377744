"""Result files are read if they are results, and refused with a reason if they are not."""

import importlib
import json
import random
from dataclasses import fields
from pathlib import Path

import bench_results
import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture(scope="module")
def files():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module("results_files")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "one.json"


def test_committed_results_are_read(files):
    results, unreadable = files.read_results(BENCH / "results")
    assert not unreadable
    names = {result.name.partition(", ")[0] for result in results}
    assert names == {path.name for path in (BENCH / "results").glob("*.json")}
    for result in results:
        name, _, step = result.name.partition(", ")
        content = json.loads((BENCH / "results" / name).read_text())
        if step:  # of a report of gpu_check.py
            steps = {one["name"]: one for one in content["parts"]["bench"]}
            content = steps[step]["data"]["result"]
        assert len(result.rows) == len(content["rows"])
        for row, raw in zip(result.rows, content["rows"], strict=True):
            assert row.ratios == raw["ratios"]
            assert row.timings["nnkernels"].median_s == raw["timings"]["nnkernels"]["median_s"]


def test_results_come_oldest_first_and_other_files_are_passed_over(files, tmp_path):
    one = bench_results.result([])
    content = {"a.json": one | {"date": "2026-01-02T00:30:00+01:00"}}
    content["b.json"] = one | {"date": "2026-01-01T23:00:00Z"}
    content["c.json"] = one | {"date": "2026-01-01T23:15:00"}  # UTC, where nothing is said
    bench_results.write(tmp_path, content)
    (tmp_path / "notes.md").write_text("no result")
    results, unreadable = files.read_results(tmp_path)
    assert [result.name for result in results] == ["b.json", "c.json", "a.json"]
    assert not unreadable


def check_report(*results):
    """A report of gpu_check.py with results among its steps."""
    steps = [{"name": f"step {i}", "data": {"result": one}} for i, one in enumerate(results)]
    tests = [{"name": "selftest", "data": {}}, {"name": "memcheck", "data": {"calls": [1]}}]
    return {"schema": 1, "kind": "nnkernels GPU check", "parts": {"tests": tests, "bench": steps}}


def test_results_in_a_check_of_a_gpu_are_read(files, tmp_path):
    many = bench_results.many()
    good = check_report(many["gpu.json"], many["day-0.json"])
    bad = check_report(many["gpu.json"] | {"schema": 9})
    content = {"a-check.json": good, "b-check.json": bad, "c-check.json": check_report()}
    content["d-check.json"] = check_report() | {"parts": [1]}
    results, unreadable = files.read_results(bench_results.write(tmp_path, content))
    assert [result.name for result in results] == ["a-check.json, step 1", "a-check.json, step 0"]
    assert len(results[1].rows) == len(many["gpu.json"]["rows"])
    assert {one.path.name: one.reason.partition(":")[0] for one in unreadable} == {
        "b-check.json": "has a result in step 0 that is of schema 9, and this reads up to 1",
        "d-check.json": "parts is [1], and not an object",
    }


def test_kinds_are_those_that_are_written(files):
    text = (BENCH / "gpu_report.py").read_text()
    assert f'KIND = "{files.CHECK_KIND}"' in text


def test_the_same_problem_has_the_same_key(files, tmp_path):
    rows = [bench_results.row("softmax", "float32", "strided", random.Random(i)) for i in (1, 2)]
    rows.append(rows[0] | {"out": True})
    bench_results.write(tmp_path, {"a.json": bench_results.result(rows)})
    ((result,), _) = files.read_results(tmp_path)
    one, two, other = (row.key for row in result.rows)
    assert one == two
    assert one != other
    assert len({one, two, other}) == 2


# ---- what is no result ---------------------------------------------------------------------

GOOD = json.dumps(bench_results.many()["wrong.json"], indent=1)
BAD = {
    "": "is empty",
    " \n": "is empty",
    "hello": "is not JSON: Expecting value in line 1",
    '{"a": 1,}': "is not JSON",
    "[1, 2]": "is not a result of the bench",
    '{"kind": "nnkernels gpu-check", "schema": 1}': "is not a result of the bench",
    '{"kind": "nnkernels bench"}': "has no version: its schema is null",
    GOOD.replace('"schema": 1', '"schema": true'): "has no version: its schema is true",
    GOOD.replace('"schema": 1', '"schema": 2'): "is of schema 2, and this reads up to 1",
    GOOD.replace("0.16", "NaN"): "is not JSON: it contains NaN",
    GOOD.replace("0.16", "1e999"): "checks[0].median_s is Infinity, and not a number",
    GOOD.replace("0.16", "1" * 5000): "is not JSON: Exceeds the limit",
    GOOD.replace('"threads": 2', '"threads": "2"'): 'threads is "2", and not a whole number',
    GOOD.replace('"threads": 2', '"threads": true'): "threads is true, and not a whole number",
    GOOD.replace('"date": "2026', '"date": "26'): "and not a date",
    GOOD.replace('"wrong"', '"ok"', 1): "rows[1].timings.nnkernels is ok, and lacks a time above 0",
    "[" * 100_000: "is nested too deeply",
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: BAD[text])
def test_a_bad_file_is_left_out_with_a_reason(files, tmp_path, text):
    good = bench_results.many()["day-0.json"]
    bench_results.write(tmp_path, {"good.json": good})
    (tmp_path / "bad.json").write_text(text)
    results, (bad,) = files.read_results(tmp_path)
    assert [result.name for result in results] == ["good.json"]
    assert bad.path == tmp_path / "bad.json"
    assert BAD[text] in bad.reason
    assert str(bad).startswith(f"{tmp_path / 'bad.json'}: ")


def test_a_folder_and_other_bytes_are_left_out(files, tmp_path):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\xff")
    (tmp_path / "nowhere.json").symlink_to(tmp_path / "missing")
    results, bad = files.read_results(tmp_path)
    assert not results
    assert {one.path.name: one.reason for one in bad} == {
        "folder.json": "cannot be read (Is a directory)",
        "nowhere.json": "cannot be read (No such file or directory)",
        "picture.json": "is not a text in UTF-8",
    }


@given(length=st.integers(1, len(GOOD) - 1))
def test_a_file_that_is_cut_anywhere_is_cut_short(files, scratch, length):
    scratch.write_text(GOOD[:length])
    with pytest.raises(files.BadFile, match="is cut short: it ends in line"):
        files.read_result(scratch)


MAY_LACK = {
    "Result": {"arguments", "compiler", "commit", "environment", "warnings", "min_time_s", "copy"},
    "Row": {"read_share"},
    "Target": set(),
}
MAY_LACK["Result"] |= {"read", "means", "name", "suites"}


def test_every_field_that_is_not_of_later_must_be_there(files, scratch):
    content = json.loads(GOOD)
    places = [(files.Result, content, ""), (files.Row, content["rows"][0], "rows[0].")]
    places.append((files.Target, content["rows"][1]["target"], "rows[1].target."))
    for kind, inside, where in places:
        for name in {one.name for one in fields(kind)} - MAY_LACK[kind.__name__]:
            kept = inside.pop(name)
            scratch.write_text(json.dumps(content))
            with pytest.raises(files.BadFile) as refused:
                files.read_result(scratch)
            inside[name] = kept
            if name not in ("kind", "schema"):
                assert str(refused.value) == f"{where}{name} is missing"
        for name in MAY_LACK[kind.__name__] & set(inside):
            kept = inside.pop(name)
            scratch.write_text(json.dumps(content))
            files.read_result(scratch)
            inside[name] = kept


ANY = st.sampled_from(
    [None, True, -1, 0, 7, 10**400, 0.5, 1e308, "", "x", [], [None], {}, {"a": 1}]
)


def leaves(content, path=()):
    yield path
    if isinstance(content, (dict, list)):
        names = content if isinstance(content, dict) else range(len(content))
        for name in names:
            yield from leaves(content[name], (*path, name))


PLACES = [path for path in leaves(json.loads(GOOD)) if path]


@given(path=st.sampled_from(PLACES), value=ANY)
def test_anything_anywhere_is_read_or_refused(files, scratch, path, value):
    content = json.loads(GOOD)
    inside = content
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] = value
    scratch.write_text(json.dumps(content))
    try:
        result = files.read_result(scratch)
    except files.BadFile as refused:
        reason = str(refused)
    else:
        reason = result.device + str(result.when)
    assert reason
