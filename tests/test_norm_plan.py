"""Which kernels make a norm: axes that are one, channels that share a weight, channels apart."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import assert_close
from strategies import make_numbers

import nnkernels as nnk
from nnkernels.inspection.kinds import template_arguments
from nnkernels.reference import norm as reference

LAYOUT, STEPS, VECTOR, STAGE = 9, 10, 11, 17


def kernels_of(machine, call):
    """The template arguments of the kernels that a call prepares."""
    found, original = [], machine.prepare

    def prepare(instance, *arguments):
        found.append(template_arguments(instance.kernel)[1])
        return original(instance, *arguments)

    machine.plans.clear()
    machine.prepare = prepare
    try:
        result = call()
    finally:
        del machine.prepare
    return result, found


def operands(shape, axis, dtype="float32"):
    generator = np.random.default_rng(7)
    channels = shape[axis]
    x = make_numbers(generator, shape, dtype)
    return x, *(make_numbers(generator, (channels,), "float32") for _ in range(2))


@pytest.mark.parametrize("space", [(7, 7), (2, 1), (16, 4)])
def test_channels_do_not_cut_vectors(space, backend):
    """Rows of a group that lie together are one axis, whatever the number of pixels."""
    x, weight, bias = operands((2, 12, *space), 1, "float16")
    with backend.context():
        y, (kernel,) = kernels_of(
            backend.machine,
            lambda: backend.numpy(
                nnk.group_norm(backend.array(x), 3, *map(backend.array, (weight, bias)))
            ),
        )
    assert kernel[STEPS] == "Ints<1, 3, 3, 1>"
    length = 4 * space[0] * space[1]
    # On a GPU, of 16 bytes as far as the rows are aligned to that.
    widest = backend.device.vector_bytes // 4 if backend.is_cpu else min(8, length & -length)
    assert int(kernel[VECTOR]) == widest
    assert_close(y, reference.group_norm(x, 3, weight, bias), length, scale=4.0)


@pytest.mark.parametrize(
    ("channels", "groups", "apart"),
    [(32, 4, True), (128, 4, True), (256, 4, False), (32, 32, False), (32, 1, True)],
)
def test_few_channels_that_lie_last_are_summed_apart(channels, groups, apart, cpu):
    x, weight, bias = operands((2, 9, 5, channels), -1)
    y, kernels = kernels_of(cpu.machine, lambda: nnk.group_norm(x, groups, weight, bias, axis=-1))
    stages = [(kernel[LAYOUT], kernel[STAGE]) for kernel in kernels]
    assert (stages == [("1", "1"), ("1", "2")]) is apart
    assert_close(y, reference.group_norm(x, groups, weight, bias, axis=-1), 64, scale=4.0)


def test_channels_apart_are_merged_by_deviations(cpu):
    """Parts of channels and channels of groups, with means far apart and far from 0."""
    x, weight, bias = operands((2, 130, 130, 16), -1)
    x += 1000.0 * np.arange(16, dtype=np.float32)
    y, kernels = kernels_of(cpu.machine, lambda: nnk.group_norm(x, 4, weight, bias, axis=-1))
    assert len(kernels) == 2
    assert_close(y, reference.group_norm(x, 4, weight, bias, axis=-1), 64, scale=4.0)
