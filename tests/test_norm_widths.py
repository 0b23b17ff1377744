"""Norms on a GPU whose operands are not aligned alike: each has accesses as wide as it allows."""

from __future__ import annotations

import gpu_compilers
import numpy as np
import pytest
from comparing import assert_close, assert_same_bits
from layouts import dense, place
from strategies import make_numbers

import nnkernels as nnk
from nnkernels.compile.instance import source_text
from nnkernels.config.device import PROFILES
from nnkernels.inspection import amd, nvidia
from nnkernels.inspection.kinds import template_arguments
from nnkernels.inspection.record import launches
from nnkernels.reference import norm as reference

FORWARD = ("x", "residual", "weight", "bias", "out")
BACKWARD = ("dy", "x", "weight", "bias", "dresidual")


def operands(names, shape, dtype, odd=""):
    """Arrays at multiples of 64 bytes; the one that is odd, an element further on."""
    generator, found = np.random.default_rng(5), {}
    for name in names:
        own = shape[-1:] if name in ("weight", "bias") else shape
        values = make_numbers(generator, own, dtype)
        shift = values.itemsize if name == odd else 0
        found[name] = place(values, dense(own, values.itemsize, shift)).view
    return found


def padded(values):
    """Rows a multiple of 64 bytes apart."""
    wide = place(
        np.zeros((values.shape[0], 64), values.dtype),
        dense((values.shape[0], 64), values.itemsize),
    ).view
    wide[:, : values.shape[1]] = values
    return wide[:, : values.shape[1]]


def forward(a):
    return nnk.layer_norm(a["x"], a["weight"], a["bias"], residual=a["residual"], out=a["out"])


def backward(a):
    return nnk.layer_norm_backward(
        a["dy"], a["x"], a["weight"], a["bias"], dresidual=a["dresidual"]
    )


CALLS = {"forward": (forward, FORWARD), "backward": (backward, BACKWARD)}


@pytest.mark.in_turn
@pytest.mark.parametrize("length", [64, 70])
@pytest.mark.parametrize("call", CALLS)
def test_one_operand_off_alignment_changes_no_bit(call, length, simulator):
    """But where it is a result, which narrows the vectors: that adds in another order."""
    function, names = CALLS[call]

    def run(odd):
        arrays = operands(names, (5, length), "float32", odd)
        with simulator.context():
            results = function({n: simulator.array(a) for n, a in arrays.items()})
        return [simulator.numpy(r) for r in results]

    def body():
        expected, *others = (run(odd) for odd in ("", *names))
        if simulator.recording:
            return
        a = operands(names, (5, length), "float32")
        if call == "forward":
            right = reference.layer_norm(a["x"] + a["residual"], a["weight"], a["bias"])
            assert_close(expected[0], right, length, scale=9.0)
        for odd, found in zip(names, others, strict=True):
            for one, other in zip(expected, found, strict=True):
                if odd == "out":
                    assert_close(other, one, length, scale=9.0)
                else:
                    assert_same_bits(one, other, f"{call}, {odd} off alignment")

    simulator.precompiled(body)


@pytest.mark.in_turn
def test_rows_beside_each_other_of_which_some_are_padded(simulator):
    """Where values of rows follow each other at no multiple of an access, or rows of dy do not."""

    def body():
        dy, x = (make_numbers(np.random.default_rng(s), (9, 33), "float32") for s in (1, 2))
        weight, bias = (make_numbers(np.random.default_rng(s), (9,), "float32") for s in (3, 4))
        expected = reference.layer_norm_backward(dy, x, weight, bias, axis=0)
        for views in ((dy, x), (padded(dy), x), (dy, padded(x)), (padded(dy), padded(x))):
            arrays = [simulator.array(a) for a in (*views, weight, bias)]
            with simulator.context():
                results = nnk.layer_norm_backward(*arrays, axis=0)
            if not simulator.recording:
                for found, right in zip(results, expected, strict=True):
                    assert_close(simulator.numpy(found), right, 33, scale=9.0)

    simulator.precompiled(body)


# ---- what the compilers make of it ---------------------------------------------------------------


def compiled(call, odd, dtype, arch):
    """The kernel of the rows, and its accesses."""
    function, names = CALLS[call]
    arrays = operands(names, (512, 1024), dtype, odd)
    device = PROFILES[arch]
    made = launches(lambda *given: function(dict(zip(names, given, strict=True))),
                    list(arrays.values()), {}, device)  # fmt: skip
    instance = made[0].instance
    compiler = nvidia if device.machine == "cuda" else amd
    return instance, compiler.resources(source_text((instance,), device.machine), arch)[
        instance.symbol
    ]


@pytest.mark.parametrize(
    ("arch", "call", "odd", "dtype"),
    [
        gpu_compilers.parameter(*each)
        for each in (
            ("sm_90", "forward", "x", "float32"),
            ("sm_80", "forward", "residual", "float16"),
            ("sm_90", "forward", "weight", "bfloat16"),
            ("sm_120", "forward", "out", "float32"),
            ("gfx90a", "forward", "residual", "float16"),
            ("sm_90", "backward", "dy", "float32"),
            ("sm_80", "backward", "x", "float16"),
            ("gfx90a", "backward", "x", "float32"),
        )
    ],
)
@gpu_compilers.needs_nvdisasm
def test_the_other_operands_are_read_by_whole_vectors(arch, call, odd, dtype):
    instance, found = compiled(call, odd, dtype, arch)
    what = (instance.kernel, found)
    assert found.spill_bytes == found.local_bytes == 0, what
    name, arguments = template_arguments(instance.kernel)
    vector, depth = (int(arguments[i]) for i in ((11, 16) if name == "NormForward" else (8, 13)))
    size = 4 if dtype == "float32" else 2
    # x and residual, or x, dy and dresidual; and a vector of each in two where the result is odd.
    large = 2 if call == "forward" else 3
    assert vector * size == (8 if odd == "out" else 16), what
    whole = large - (odd in ("x", "residual", "dy"))
    assert found.loads[vector * size] >= whole * depth, what
    stores = {"forward": 2, "backward": 1}[call] - (odd == "out")
    assert found.stores[vector * size] >= stores * depth, what
    if odd != "weight":
        narrow = found.stores if odd == "out" else found.loads
        # AMD's GPUs read whole vectors at any address, and their compiler may make use of it.
        joined = arch.startswith("gfx") and narrow[vector * size] >= (whole + 1) * depth
        assert joined or narrow[size] >= vector * depth, what
