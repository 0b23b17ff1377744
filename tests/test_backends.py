"""What the tests themselves rest on: kernels that other processes have compiled are loaded."""

from __future__ import annotations

import numpy as np
from backends import BATCHES, Backend

import nnkernels as nnk
from nnkernels.compile import cxx
from nnkernels.launch import sim
from nnkernels.launch.single_flight import SingleFlight


def test_batches_of_other_processes_are_loaded(tmp_path, monkeypatch):
    (tmp_path / "batches").mkdir()
    monkeypatch.setenv(BATCHES, str(tmp_path / "batches"))
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NNKERNELS_CXXFLAGS", raising=False)
    backend, compiled = Backend("sim:gfx90a"), []
    original = cxx._compile

    def compile_and_note(*arguments):
        compiled.append(arguments)
        original(*arguments)

    monkeypatch.setattr(cxx, "_compile", compile_and_note)
    x = np.linspace(-3, 9, 7, dtype=np.float32)

    def run(*functions):
        # As a process of its own: nothing is loaded.
        monkeypatch.setattr(sim, "_kernels", SingleFlight(sim._load))

        def body():
            with backend.context():
                return [f(x) for f in functions]

        return backend.precompiled(body)

    assert np.array_equal(run(nnk.relu, nnk.relu6)[1], x.clip(0, 6))
    assert len(compiled) == 1
    assert np.array_equal(run(nnk.relu6)[0], x.clip(0, 6))
    assert len(compiled) == 1
    run(nnk.relu6, nnk.elu)
    assert len(compiled) == 2
    with backend.context():  # each alone, and no batch
        nnk.selu(x)
        nnk.celu(x)
    assert len(compiled) == 4
    run(nnk.selu, nnk.celu)
    assert len(compiled) == 4
