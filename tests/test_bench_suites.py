"""Suites of the bench hold what was asked for."""

import numpy as np
import pytest
from bench_runs import bench, module

from nnkernels.registry import all_ops

_ = bench, module  # fixtures


def test_suites_hold_what_was_asked_for(module):
    problems, suites = module("problems"), module("suites")
    listed = suites.problems_of("foundation")
    assert not any(problems.obstacle(problem) for problem in listed)
    assert len(set(listed)) == len(listed) == 48 + 15 + 6
    limits = {
        (p.op, p.shape, p.dtype, p.axis, p.layout): (p.target.kind, p.target.limit) for p in listed
    }
    torch = "times torch"
    assert limits["softmax", (256, 32768), "float32", -1, "contiguous"] == (torch, 2.0)
    assert limits["log_softmax", (1024, 4096), "float32", 0, "contiguous"] == (torch, 1.3)
    assert limits["softmax_backward", (256, 32768), "float32", -1, "contiguous"] == (torch, 1.3)
    assert limits["softmax_backward", (65536, 64), "bfloat16", -1, "contiguous"] == (torch, 1.0)
    assert limits["gelu", (4096, 4096), "float32", None, "strided"] == (torch, 1.0)
    assert limits["relu", (8, 8), "float32", None, "contiguous"] == ("seconds", 6e-6)


def test_a_family_is_the_suite_of_its_name_or_its_ops(module, bench, monkeypatch):
    suites, seen = module("suites"), []
    monkeypatch.setattr(module("session"), "run", lambda request: seen.append(request) or 1 / 0)
    for arguments in (("--family", "norm"), ("--family", "norm", "--shape", "4x6x5")):
        with pytest.raises(ZeroDivisionError):
            bench(*arguments, "--peer", "none")
    suite, ops = (request.problems for request in seen)
    assert suite == suites.problems_of("norm")
    limits = {(p.op, p.shape, p.layout): p.target.limit for p in suite}
    assert limits["layer_norm", (256, 32768), "contiguous"] == 1.3
    assert limits["rms_norm_backward", (65536, 64), "contiguous"] == 1.5
    assert limits["batch_norm_backward", (32, 64, 56, 56), "channels_last"] == 1.2
    assert limits["group_norm", (32, 256, 28, 28), "contiguous"] == 1.5
    assert {p.op for p in ops} == {op.name for op in all_ops().values() if op.family == "norm"}
    assert {p.options.get("num_groups") for p in ops} == {None, 2}


def test_resnet50_is_all_its_convolutions(module, bench, monkeypatch):
    seen = []
    monkeypatch.setattr(module("session"), "run", lambda request: seen.append(request) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench("--family", "conv", "--suite", "resnet50", "--peer", "none")
    with pytest.raises(ZeroDivisionError):
        bench(
            *("--suite", "resnet50", "--peer", "none", "--dtype", "float64"),
            *("--layout", "contiguous,channels_last"),
        )
    plain, both = (request.problems for request in seen)
    forward = [p for p in plain if p.op == "conv" and p.shape[0] == 1]
    shapes = [module("problems").operand_shapes(p) for p in forward]
    results = [p.record.flops(s, p.options) / 2 for p, s in zip(forward, shapes, strict=True)]
    assert len(set(plain)) == len(plain) == 3 * 2 * 23
    times = [1, 1, 3, 4, 2, 1, 1, 4, 1, 3, 3, 1, 1, 6, 1, 5, 5, 1, 1, 3, 1, 2, 2]
    assert sum(times) == 53
    # 4.09e9 multiply-adds, of which 2.0e6 are the last layer's: torchvision's number.
    assert np.dot(results, times) == pytest.approx(4.089e9 - 2.048e6, rel=1e-3)
    assert {p.target.limit for p in plain if p.op == "conv"} == {0.7}
    limits = {p.mean.name: p.mean.target.limit for p in plain}
    assert limits["conv, batch 8"] == 1.0
    assert limits["conv_backward_weight, batch 1"] == 0.9
    assert len(limits) == 6
    assert {(p.dtype, p.layout) for p in both} == {
        ("float64", "contiguous"),
        ("float64", "channels_last"),
    }
    assert len(both) == 2 * len(plain)


def test_convolutions_of_a_suite_can_be_measured(module):
    problems, suites = module("problems"), module("suites")
    listed = suites.problems_of("conv")
    assert not any(problems.obstacle(problem) for problem in listed)
    assert len(set(listed)) == len(listed)
    limits = {
        (p.case, p.shape, p.dtype, p.layout): (p.target.kind, p.target.limit)
        for p in listed
        if p.op == "conv" and p.target is not None
    }
    torch = "times torch"
    assert limits["32 3x3 g32", (8, 32, 112, 112), "float32", "contiguous"] == (torch, 1.0)
    assert limits["64 7", (1, 64, 16384), "float32", "contiguous"] == (torch, 1.0)
    assert limits["32 3x3x3", (1, 32, 32, 32, 32), "float32", "contiguous"] == (torch, 1.0)
    assert limits["64 3x3", (8, 64, 56, 56), "float64", "contiguous"] == (torch, 3.0)
    assert limits["64 3x3", (1, 64, 56, 56), "int8", "contiguous"] == (torch, 3.0)
    last = [p for p in listed if p.layout == "channels_last"]
    assert {p.target.kind for p in last} == {"times contiguous"}
    for problem in last:  # whose times come before
        alike = [p for p in listed if (p.name, p.shape) == (problem.name, problem.shape)]
        layouts = [p.layout for p in alike if p.dtype == "float32"]
        assert layouts == ["contiguous", "channels_last"]


def test_products_are_measured_against_the_best_peer(module):
    problems, suites = module("problems"), module("suites")
    listed = suites.problems_of("products")
    assert not any(problems.obstacle(problem) for problem in listed)
    assert len(set(listed)) == len(listed)
    limits = {
        (p.op, p.shape, p.dtype): p.target.limit
        for p in listed
        if p.target is not None and p.target.kind == "times best"
    }
    assert limits["matmul", (2048, 2048, 2048), "float64"] == 1.0
    assert limits["matmul", (16, 4096, 4096), "float32"] == 0.9
    assert limits["matmul", (1024, 32, 32, 32), "float32"] == 2.0
    assert limits["gemv", (8192, 8192), "float32"] == 1.0
