"""The documents say what the code does."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import nnkernels as nnk
from nnkernels import registry
from nnkernels.registry.table import markdown

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- table of ops: begin -->\n", "<!-- table of ops: end -->"


def test_readme_has_the_table_of_the_registry():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition(BEGIN)[2].partition(END)[0]
    assert table == markdown(), "run `make table` after changing the registry"


def test_every_op_is_public_and_every_public_op_has_a_record():
    public = {name for name in nnk.__all__ if callable(getattr(nnk, name))}
    helpers = {
        "clear_cache",
        "device_source",
        "value_and_grad",
        "fuse",
        "get_include",
        "set_num_threads",
        "use_backend",
        "vjp",
    }
    errors = {name for name in public if isinstance(getattr(nnk, name), type)}
    assert public - helpers - errors == set(registry.all_ops())
    for name, op in registry.all_ops().items():
        assert op.function is getattr(nnk, name)


def test_what_readme_does_with_numpy_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## With NumPy\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["p"].shape == (8, 16, 16, 16)
    assert names["dfilters"].shape == names["filters"].shape


@pytest.mark.parametrize(("name", "least"), [("fusion", 10), ("own-kernels", 6)])
def test_examples_of_documents(name, least):
    found = doctest.testfile(str(ROOT / "docs" / f"{name}.md"), module_relative=False)
    assert found.attempted > least
    assert not found.failed


@pytest.mark.parametrize("name", sorted(registry.all_ops()))
def test_docstring_is_whole(name):
    text = getattr(nnk, name).__doc__
    for section in ("Parameters\n", "Returns\n", "Raises\n", "Examples\n"):
        assert f"\n{section}" in text, f"{name} has no section {section.strip()}"
    assert not re.search(r"^\{.*\}$", text, re.MULTILINE), "a shared piece was not put in"


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "docs/design.md",
        "docs/fusion.md",
        "docs/own-kernels.md",
        "docs/add-an-op.md",
        "docs/benchmarking.md",
        "CONTRIBUTING.md",
    ],
)
def test_named_files_exist(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    for name in re.findall(
        r"`((?:nnkernels|cuda_src|hip_src|tests|bench|docs|examples)/[\w./-]+)`", text
    ):
        assert (ROOT / name).exists(), f"{path} names {name}, which is not there"
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)  # lambdas are no links
    for link in re.findall(r"\]\((?!https?:)([\w./-]+)", prose):
        assert ((ROOT / path).parent / link).exists(), f"{path} links to {link}, which is not there"
