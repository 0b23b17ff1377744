"""Building the speed page: what is refused, and what is written. No browser is needed."""

import importlib
import json
import re
from importlib import metadata

import bench_results
import pytest
from speed_page import BENCH, FILES, run_script


@pytest.fixture
def module(monkeypatch):
    """A module of the bench by name."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.fixture
def needs_plotly():
    pytest.importorskip("plotly", reason="the page needs Plotly")


def test_bad_files_are_named_and_the_rest_goes_on(needs_plotly, tmp_path):
    bench_results.write(tmp_path / "in", {"good.json": FILES["day-0.json"]})
    (tmp_path / "in" / "empty.json").write_text("")
    done = run_script(tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0
    assert done.stderr == f"warning: {tmp_path / 'in' / 'empty.json'}: is empty; it is left out\n"
    assert "24 rows from 1 of 2 files" in done.stdout
    assert (tmp_path / "out" / "index.html").exists()


def test_nothing_to_show_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.json").write_text("")
    for folder in (tmp_path / "in", tmp_path / "missing"):
        done = run_script(folder, tmp_path / "out")
        assert done.returncode == 2
        assert f"error: {folder}" in done.stderr or str(folder) in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_peak_that_is_none_is_refused(module, tmp_path):
    site_page = module("site_page")
    for peak in ("EPYC", "EPYC=", "=3", "EPYC=-1", "EPYC=nan", "EPYC=fast"):
        with pytest.raises(site_page.PageError, match=f"--peak {peak}: write it as MACHINE=GFLOPS"):
            site_page.parse_peak(peak)
    done = run_script(BENCH / "results", tmp_path / "out", "--peak", "EPYC")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --peak EPYC: write it as")


def test_without_plotly_there_is_a_message(module, monkeypatch, tmp_path):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    site_page = module("site_page")
    monkeypatch.setattr(site_page.metadata, "files", missing)
    with pytest.raises(site_page.PageError, match="needs Plotly: pip install"):
        site_page.build([], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_is_a_script_that_nothing_can_end(module):
    data = {"a": "</script><!-- \u2028 é & '", "b": [1.5, None]}
    text = module("site_page").as_script(data)
    assert "<" not in text
    assert text.isascii()
    start, _, rest = text.partition(" = ")
    assert start == "window.NNK_DATA"
    assert json.loads(rest.rstrip().removesuffix(";")) == data


def test_page_is_the_same_every_time_and_has_its_licence(needs_plotly, tmp_path):
    bench_results.write(tmp_path / "in", FILES)
    contents = []
    for name in ("one", "two"):
        assert run_script(tmp_path / "in", tmp_path / name).returncode == 0
        contents.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert b"MIT" in contents[0]["plotly.LICENSE.txt"]
    assert contents[0]["plotly.min.js"].startswith(b"/**\n* plotly.js")
    for name in re.findall(rb'(?:src|href)="([\w.]+)"', contents[0]["index.html"]):
        assert name.decode() in contents[0]
