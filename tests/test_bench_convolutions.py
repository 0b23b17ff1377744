"""Rows of convolutions: samples of large results, peers, and how many terms a sum has."""

import bench_runs
import numpy as np
import pytest
from bench_runs import module

_ = module  # fixtures

CONVOLUTIONS = [
    ("conv", (5, 40, 6, 7), "36 3x2/2"),
    ("conv", (2, 12, 9), "24 4 g6"),
    ("conv_transpose", (5, 4, 6, 7), "36 3x2/2"),
    ("conv_transpose", (3, 4, 5), "6 3/2 g2"),
    ("conv_backward_data", (5, 40, 6, 7), "36 3x2/2"),
    ("conv_backward_data", (2, 12, 9), "24 4 g6"),
    ("conv_backward_weight", (5, 4, 6, 7), "36 3x2/2"),
    ("conv_backward_weight", (2, 12, 9), "24 4 g6"),
    ("conv_backward", (5, 4, 6, 7), "6 3x2/2 g2"),
    ("conv_transpose_backward", (3, 4, 5), "6 3/2 g2"),
    ("conv", (1, 2, 3, 4, 5), "17 3"),
]


@pytest.mark.parametrize(("op", "shape", "case"), CONVOLUTIONS)
def test_a_sample_of_a_convolution_is_part_of_it(module, op, shape, case):
    problems, measure = module("problems"), module("measure")
    problem = problems.Problem(op, shape, "float64", case=case)
    assert not problems.obstacle(problem)
    operands = problems.random_operands(problem, bench_runs.reference_result)
    positional, options = problem.record.arguments(operands, problem.options)
    whole = problem.record.reference(*positional, **options)
    results = list(whole) if isinstance(whole, tuple) else [whole]
    index, parts = measure._expected(problem, operands)
    assert measure._error((index, parts), results, problem) <= 1
    for i, part in enumerate(parts):
        assert part.size <= results[i].size
        for corner in (0, -1):
            spoiled = [result.copy() for result in results]
            spoiled[i].flat[corner] += 1
            assert measure._error((index, parts), spoiled, problem) > 1


@pytest.mark.parametrize(("op", "shape", "case"), CONVOLUTIONS)
def test_a_peer_of_a_convolution_computes_the_same(module, op, shape, case):
    pytest.importorskip("torch")
    problems, measure, peers = module("problems"), module("measure"), module("peers")
    problem = problems.Problem(op, shape, "float64", case=case)
    operands = problems.random_operands(problem, bench_runs.reference_result)
    torch = peers.open_peer("torch", on_gpu=False, threads=1)
    results = torch.functions(problem).call(*map(torch.adopt, operands))
    results = results if isinstance(results, tuple) else (results,)
    found = [torch.export(result) for result in results]
    assert measure._error(measure._expected(problem, operands), found, problem) <= 1


def test_where_nothing_is_tolerated_a_wrong_element_is_beyond_any_number(module):
    """Such as those of integers: a large number in its place is one that no reader takes."""
    problems, measure = module("problems"), module("measure")
    problem = problems.Problem("matmul", (4, 5, 6), "int8")
    right = problem.record.reference(
        *problems.random_operands(problem, bench_runs.reference_result)
    )
    expected = (slice(None), (right,))
    assert measure._error(expected, [right], problem) == 0
    assert measure._error(expected, [right + 1], problem) == np.inf


def test_terms_are_those_of_a_sum(module):
    terms = module("convolutions").terms
    assert terms("conv", (2, 12, 8, 9), "24 3x5 g2") == 6 * 15
    assert terms("conv_transpose", (2, 12, 8, 9), "24 3x5 g2") == 6 * 15
    assert terms("conv_backward_data", (2, 12, 8, 9), "24 3x5 g2") == 12 * 15
    assert terms("conv_backward_weight", (2, 12, 8, 9), "24 3x5/2 g2") == 2 * 4 * 5
    assert terms("conv_backward", (2, 12, 8, 9), "24 3x5/2 g2") == 2 * 4 * 5
    assert terms("conv_transpose_backward", (2, 12, 8, 9), "24 3x5/2 g2") == 2 * 15 * 17
