"""What calls on a CPU take beside operands and results: scratch of threads, and workspaces.

Nothing is run here, or compiled: a launch says how much scratch memory each thread needs, and a
plan which workspaces it has. ``bench.py --memory`` asks the operating system.
"""

from __future__ import annotations

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels.dispatch.dtypes import numpy_dtype

MIB = 1 << 20
# Of a thread: 512 KiB of packed B, packed rows of A, and sums that wait for later slices. Products
# on tile registers pack 1 MiB of B, and longer rows.
PACKED, ON_TILES = MIB, 33 * MIB // 16


@pytest.fixture
def taken(cpu, monkeypatch):
    """Call a function: the most scratch memory of a thread, and the bytes of all workspaces."""
    machine = cpu.machine

    def call(function, *arrays, **options):
        scratch, allocated = [0], []
        original = machine.empty

        def prepare(instance, blocks, shared_bytes, traffic):
            scratch.append(shared_bytes)
            return lambda args: None

        def empty(shape, dtype):
            array = original(shape, dtype)
            allocated.append(array)
            return array

        machine.plans.clear()
        with monkeypatch.context() as patch:
            patch.setattr(machine, "prepare", prepare)
            patch.setattr(machine, "empty", empty)
            results = function(*arrays, **options)
        machine.plans.clear()
        results = results if isinstance(results, tuple) else (results,)
        kept = sum(a.nbytes for a in results if a is not None)
        return max(scratch), sum(a.nbytes for a in allocated) - kept

    return call


def array(*shape, dtype=np.float32):
    """One whose elements nobody looks at, so that it has no pages yet."""
    return np.empty(shape, dtype)


@pytest.mark.parametrize(
    "name", ["float16", "bfloat16", "float32", "float64", "int8", "int16", "int64", "complex64"]
)
@pytest.mark.parametrize("transposed", [False, True])
def test_products_pack_parts_of_their_operands(taken, name, transposed):
    dtype = numpy_dtype(name)
    a, b = array(4096, 4096, dtype=dtype), array(4096, 4096, dtype=dtype)
    if transposed:
        a, b = a.T, b.T
    scratch, workspaces = taken(nnk.matmul, a, b)
    assert 0 < scratch <= (ON_TILES if name in ("bfloat16", "float16", "int8") else PACKED)
    assert workspaces == 0


def test_long_sums_wait_in_a_workspace(taken):
    """Of 64 x 64 sums in ranges of 4096 terms: 16 KiB each, whatever a thread does."""
    scratch, workspaces = taken(nnk.matmul, array(64, 1 << 18), array(1 << 18, 64))
    assert scratch <= PACKED
    assert 0 < workspaces <= (1 << 18) // 4096 * 64 * 64 * 4


IMAGES, WEIGHT = (8, 64, 56, 56), (64, 64, 3, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.complex64])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_pack_parts_of_their_windows(taken, dtype, channels_last, stride):
    """All windows would be nine times the image."""
    x, weight = array(*IMAGES, dtype=dtype), array(*WEIGHT, dtype=dtype)
    dy = array(8, 64, 56 // stride, 56 // stride, dtype=dtype)
    if channels_last:
        x, dy = (
            np.moveaxis(array(*np.moveaxis(a, 1, -1).shape, dtype=dtype), -1, 1) for a in (x, dy)
        )
    options = {"stride": stride, "padding": 1}
    for scratch, workspaces in (
        taken(nnk.conv, x, weight, **options, algorithm="direct"),
        taken(nnk.conv_backward_weight, dy, x, WEIGHT, **options),
    ):
        assert 0 < scratch <= PACKED
        assert workspaces == 0
    scratch, workspaces = taken(nnk.conv_backward_data, dy, weight, IMAGES, **options)
    assert 0 < scratch <= 2 * MIB
    # That of stride 1 is Winograd's, where it pays.
    assert workspaces <= winograd_bytes(weight)


def winograd_bytes(weight):
    """36 numbers for 9, for each row of weights, and some that fill a line."""
    return 4 * weight.nbytes * 8 // 7


def test_winograd_keeps_transformed_weights_and_some_tiles(taken):
    """Weights of four times their size; 9 KiB for each channel and 221 KiB of products a thread."""
    for channels in (64, 128, 256):
        x, weight = array(8, channels, 28, 28), array(channels, channels, 3, 3)
        scratch, workspaces = taken(nnk.conv, x, weight, padding=1, algorithm="winograd")
        assert 4 * weight.nbytes <= workspaces <= winograd_bytes(weight)
        assert scratch <= (channels * 9 + 256) * 1024


def test_one_tap_needs_what_a_product_needs(taken):
    scratch, workspaces = taken(nnk.conv, array(*IMAGES), array(256, 64, 1, 1))
    assert scratch <= PACKED
    assert workspaces == 0


def test_depthwise_convolutions_need_some_kilobytes(taken):
    x, weight = array(8, 64, 112, 112), array(64, 1, 3, 3)
    options = {"padding": 1, "groups": 64}
    for scratch, workspaces in (
        taken(nnk.conv, x, weight, **options),
        taken(nnk.conv_backward_data, x, weight, x.shape, **options),
        taken(nnk.conv_backward_weight, x, x, weight.shape, **options),
    ):
        assert scratch <= MIB // 4
        assert workspaces <= MIB // 4


def test_gradients_of_norms_keep_sums_of_columns(taken):
    """For dweight and dbias, those of some blocks of rows; a row is kept in scratch memory."""
    x, weight = array(65536, 1024), array(1024)
    scratch, workspaces = taken(nnk.layer_norm_backward, x, x, weight)
    assert scratch <= MIB // 4
    assert workspaces <= MIB
