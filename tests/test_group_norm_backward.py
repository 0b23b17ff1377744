"""Gradients of group and instance norm that read x and dy once for all sums."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import assert_same_bits
from norms import make_call
from strategies import make_numbers
from test_norm_plan import kernels_of
from threads import same_on_any_threads

from nnkernels.config import norm_backward as config
from nnkernels.config.device import PROFILES, Device
from nnkernels.config.rows import (
    ELEMENTWISE,
    KEEP_NONE,
    KEEP_SHARED,
    PARAMETER,
    RowsProblem,
)

CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 8 << 20)
H100, MI250 = PROFILES["sm_90"], PROFILES["gfx90a"]
STAGE = 12


def problem(rows, length, unit=True):
    """Channels, so many of so many elements, with one weight each."""
    strides = ((length * 4,), (4,)) if unit else ((4,), (rows * 4,))
    return RowsProblem(
        outer=(rows,),
        inner=(length,),
        outer_strides=(strides[0], strides[0], (4,), (0,), strides[0]),
        inner_strides=(strides[1], strides[1], (0,), (0,), strides[1]),
        itemsizes=(4,) * 5,
        compute_itemsize=4,
        tiles=2,
        keeps_exp=False,
        per_row=False,
        alignments=(16,) * 5,
        roles=(ELEMENTWISE, ELEMENTWISE, PARAMETER, PARAMETER, ELEMENTWISE),
    )


# Channels in all, of a group, and their elements; whether a block has a group, what it keeps, its
# threads and those of a channel.
WAYS = [
    (CPU, 8192, 8, 784, True, KEEP_NONE, 1, 1),
    (CPU, 32, 8, 784, False, KEEP_NONE, 1, 1),
    (CPU, 4, 1, 784, True, KEEP_NONE, 1, 1),
    (H100, 8192, 8, 784, True, KEEP_SHARED, 256, 32),
    (H100, 8192, 16, 784, True, KEEP_SHARED, 256, 32),
    (H100, 8192, 16, 20, True, KEEP_SHARED, 128, 8),
    (H100, 8192, 2, 3136, True, KEEP_SHARED, 256, 256),
    (H100, 8192, 4, 20, True, KEEP_SHARED, 32, 32),
    (H100, 8192, 1, 3136, True, KEEP_SHARED, 256, 256),
    (H100, 8192, 64, 784, True, KEEP_NONE, 256, 32),
    (MI250, 8192, 16, 784, True, KEEP_NONE, 256, 64),
    (H100, 256, 8, 784, False, KEEP_NONE, 256, 256),
    (H100, 1 << 21, 1 << 14, 64, False, KEEP_NONE, 32, 32),
]  # fmt: skip


@pytest.mark.parametrize(
    ("device", "rows", "channels", "length", "whole", "keep", "threads", "team"), WAYS
)
def test_every_way(device, rows, channels, length, whole, keep, threads, team):
    chosen, found = config.of_groups(problem(rows, length), channels, device)
    assert (found, chosen.keep, chosen.threads, chosen.team) == (whole, keep, threads, team)
    assert chosen.kept * 4 <= device.shared_limit
    assert (chosen.parts, chosen.part_groups) == (channels, -(-length // chosen.vector))


@pytest.mark.parametrize("device", [CPU, H100], ids=lambda device: device.arch)
@pytest.mark.parametrize("what", [problem(64, 15), problem(2, 1 << 20), problem(64, 64, False)])
def test_channels_that_are_no_teams_work(what, device):
    """Too short, too few for so many elements, or beside each other."""
    assert config.of_groups(what, 2, device) is None


# Shapes, groups (None: instance norm), and the stages that run on a CPU and on any GPU: a row that
# is read again, where 64 KiB of shared memory are too few; teams of a block; a block for a channel.
WHOLE, PARTS = ["0"], ["1", "2"]
CASES = [
    ((3, 8, 5, 4), 4, WHOLE, PARTS),
    ((2, 6, 60), 2, PARTS, PARTS),
    ((3, 5, 41), None, WHOLE, WHOLE),
    ((1, 1, 8190), None, WHOLE, WHOLE),
    ((34, 32, 4, 5), 2, WHOLE, WHOLE),
    ((34, 9, 17), 3, WHOLE, WHOLE),
]


@pytest.mark.in_turn
def test_stages(backend):
    def body():
        generator = np.random.default_rng(95)
        for shape, groups, *stages in CASES:
            name, options = "instance_norm", {}
            if groups is not None:
                name, options = "group_norm", {"num_groups": groups}
            x = make_numbers(generator, shape, "float32") + np.float32(3)
            call = make_call(name, generator, shape, x=x, **options)
            dy = make_numbers(generator, shape, "float32")
            with backend.context(5):
                if backend.recording:
                    call.run_backward(backend, dy)
                    continue
                found, kernels = kernels_of(
                    backend.machine, lambda c=call, dy=dy: c.run_backward(backend, dy)
                )
            assert [k[STAGE] for k in kernels[:-1]] == stages[0 if backend.is_cpu else 1]
            call.assert_right_backward(backend.numpy(found), dy, f" of {shape}, {options}")

    backend.precompiled(body)


@pytest.mark.parametrize("parameters", [None, "same"])
def test_means_far_apart_and_far_from_0(parameters, cpu):
    generator = np.random.default_rng(96)
    shape = (3, 12, 30, 30)
    x = make_numbers(generator, shape, "float32")
    x += 1000 * np.arange(12, dtype=np.float32)[:, None, None]
    call = make_call("group_norm", generator, shape, parameters=parameters, x=x, num_groups=4)
    if parameters is None:
        call.parameters = [None, None]
    dy = make_numbers(generator, shape, "float32")
    call.assert_right_backward(call.run_backward(cpu, dy), dy)


def test_any_number_of_threads_gives_the_same_bits(cpu):
    generator = np.random.default_rng(97)
    for shape in ((16, 64, 28, 28), (1, 12, 200, 200)):
        call = make_call("group_norm", generator, shape, num_groups=4)
        dy = make_numbers(generator, shape, "float32")
        found = same_on_any_threads(lambda c=call, dy=dy: c.run_backward(cpu, dy))
        call.assert_right_backward(found, dy)


def test_a_view_gives_the_bits_of_its_copy(cpu):
    generator = np.random.default_rng(98)
    whole, dys = (make_numbers(generator, (9, 30, 150), "float32") for _ in range(2))
    for cut in (np.s_[::2, 3:27, :75], np.s_[:, ::-2, 10:], np.s_[::-3, ::5, ::-2]):
        x, dy = whole[cut], dys[cut]
        call = make_call("group_norm", generator, x.shape, x=x, num_groups=x.shape[1] // 3)
        found = call.run_backward(cpu, dy)
        call.x = x.copy()
        for a, b in zip(found, call.run_backward(cpu, dy.copy()), strict=True):
            assert_same_bits(a, b, f"gradients of a view {cut}")
        call.assert_right_backward(found, dy)
