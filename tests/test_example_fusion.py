"""The example of fusion: its numbers are right, and fewer kernels are launched."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels.launch.counting import counted_launches

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "fusion.py"
SMALL = ("--tokens", "60", "--width", "32", "--heads", "2", "--keys", "200", "--repeats", "2")


def run_example(*options):
    command = [sys.executable, EXAMPLE, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_table_and_plot(tmp_path):
    plot = tmp_path / "fusion.png"
    done = run_example(*SMALL, "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(.{20}) (\w+) +[\d.]+ ms +(\d+) +([\d.]+) MiB", done.stdout, re.MULTILINE)
    assert [(name.strip(), way, kernels) for name, way, kernels, _ in rows] == [
        ("feed-forward block", "unfused", "7"),
        ("feed-forward block", "fused", "3"),
        ("attention scores", "unfused", "3"),
        ("attention scores", "fused", "1"),
    ]
    moved = [float(size) for *_, size in rows]
    assert moved[1] < 0.6 * moved[0]
    assert moved[3] < 0.4 * moved[2]
    pytest.importorskip("matplotlib")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_plot_that_cannot_be_written(tmp_path):
    pytest.importorskip("matplotlib")
    done = run_example(*SMALL, "--plot", str(tmp_path / "missing" / "fusion.png"))
    assert done.returncode == 1
    assert "the plot cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_counting_sees_launches_of_known_plans_too():
    x = np.ones((3, 5), np.float32)
    expected = nnk.softmax(x)
    for _ in range(2):
        with counted_launches() as starts:
            y = nnk.softmax(nnk.relu(x))
            nnk.softmax(x)
        assert [start.kernel for start in starts] == [
            "Elementwise", "SoftmaxForward", "SoftmaxForward"
        ]  # fmt: skip
        np.testing.assert_array_equal(y, expected)
    nnk.softmax(x)
    assert len(starts) == 3
