"""Gradients of products whose batches are more terms of one sum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import place
from strategies import layouts

from nnkernels.dispatch.matmul_gradients import _batch_as_terms


@st.composite
def stacks(draw):
    """Two stacks of matrices in any layouts, so small that all sums of products are exact."""
    batch = tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=2)))
    m, k, n = (draw(st.integers(0, 3)) for _ in range(3))
    found = []
    for shape in ((*batch, m, k), (*batch, k, n)):
        values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) - 3
        found.append(place(values, draw(layouts(shape, 4))).view)
    return found


@settings(max_examples=300)
@given(stacks())
def test_a_batch_becomes_terms_without_a_copy(pair):
    first, second = pair
    wanted = (first @ second).sum(axis=tuple(range(first.ndim - 2)))
    a, b = _batch_as_terms(first, second)
    for view, stack in ((a, first), (b, second)):
        assert view.size == 0 or np.shares_memory(view, stack)
    if a is not first:
        assert a.ndim == b.ndim == 2
        assert np.array_equal(a @ b, wanted)


# Dense ones do, of which the first has its matrices turned; also from the end to the beginning.
@pytest.mark.parametrize("step", [1, -1])
def test_dense_stacks_become_matrices(step):
    first = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4).swapaxes(-1, -2)[::step, :, ::step]
    second = np.arange(30.0, dtype=np.float32).reshape(2, 3, 5)[::step, ::step]
    a, b = _batch_as_terms(first, second)
    assert (a.shape, b.shape) == ((4, 6), (6, 5))
    assert np.array_equal(a @ b, (first @ second).sum(axis=0))


def test_stacks_that_are_no_matrix_stay():
    first, second = np.ones((2, 3, 4), np.float32), np.ones((2, 4, 5), np.float32)
    assert _batch_as_terms(first, second)[0] is first
    assert _batch_as_terms(first.swapaxes(-1, -2), second[:1])[0].ndim == 3
