"""From arrays to a launch: axes, packing, dtypes, plans, and how little is compiled."""

from __future__ import annotations

import itertools
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from backends import Backend
from hypothesis import given
from hypothesis import strategies as st
from layouts import lay_out, place
from strategies import examples, layouts, make_numbers, shapes

import nnkernels as nnk
from nnkernels import registry
from nnkernels.config import elementwise as elementwise_config
from nnkernels.config import matmul as matmul_config
from nnkernels.config import rows as rows_config
from nnkernels.dispatch import axes, dtypes
from nnkernels.dispatch import elementwise as dispatch
from nnkernels.dispatch.packing import Packer, pointer_struct

MANY = 10.0  # these examples take microseconds


# ---- axes ----------------------------------------------------------------------------------


@examples(MANY)
@given(st.data())
def test_memory_order_is_that_of_numpy(data):
    shape = data.draw(shapes(min_side=1))
    layout = data.draw(layouts(shape, 4, writable=True))
    view = place(np.zeros(shape, np.float32), layout).view
    order = axes.memory_order(view.shape, view.strides)
    assert sorted(order) == list(range(view.ndim))
    ours = axes.contiguous_strides(view.shape, 4, order)
    theirs = np.empty_like(view, order="K").strides
    # Strides of axes of size 1 mean nothing.
    assert [s for s, n in zip(ours, shape, strict=True) if n > 1] == [
        s for s, n in zip(theirs, shape, strict=True) if n > 1
    ]


def test_memory_order_of_axes_that_say_nothing():
    # They stay behind the axis before them.
    assert axes.memory_order((3, 1, 4), (4, 999, 12)) == (2, 0, 1)
    assert axes.memory_order((3, 5, 4), (4, 0, 12)) == (2, 0, 1)
    assert axes.memory_order((1, 5), (0, 0)) == (0, 1)
    assert axes.memory_order((), ()) == ()


def addresses(shape, strides):
    """The byte offset of every element, in the order of the axes."""
    grid = np.zeros((), np.int64)
    for n, step in zip(shape, strides, strict=True):
        grid = grid[..., None] + step * np.arange(n)
    return grid.reshape(-1).tolist()


@examples(MANY)
@given(st.data())
def test_merged_axes_walk_through_the_same_memory(data):
    shape = data.draw(shapes(most=300))
    parts = [data.draw(layouts(shape, size)) for size in (4, 2)]
    merged, strides = axes.merge(shape, [p.strides for p in parts])
    assert len(merged) >= 1
    assert all(n != 1 for n in merged) or merged == (1,)
    for part, found in zip(parts, strides, strict=True):
        assert addresses(merged, found) == addresses(shape, part.strides)
    # No two neighbours are left that are one axis for both.
    for a in range(len(merged) - 1):
        assert any(s[a] != s[a + 1] * merged[a + 1] for s in strides)


@examples(MANY)
@given(st.data())
def test_span_is_the_distance_between_the_ends(data):
    shape = data.draw(shapes(most=300, min_side=1))
    strides = data.draw(layouts(shape, 4)).strides
    found = addresses(shape, strides)
    assert axes.span(shape, strides) == max(found) - min(found)


def test_index_kind_leaves_room_for_what_loops_overshoot():
    assert axes.index_kind((100,), [(4,)]) == "i"
    edge = axes.INT32_MAX - 64
    assert axes.index_kind((2,), [(edge,)]) == "i"
    assert axes.index_kind((2,), [(edge + 1,)]) == "q"
    assert axes.index_kind((2,), [(-edge - 1,)]) == "q"
    assert axes.index_kind((2,), [(edge - 10,)], slack=11) == "q"
    assert axes.index_kind((2**16, 2**16), [(0, 0)]) == "q"  # as many elements


@pytest.mark.parametrize(
    ("limit", "numbers", "found"),
    [
        (16, (), 16),
        (16, (0,), 16),
        (16, (8, 64), 8),
        (4, (64,), 4),
        (16, (6, 4), 2),
        (8, (-12,), 4),
        (8, (7,), 1),
    ],
)
def test_largest_power_of_two(limit, numbers, found):
    assert axes.largest_power_of_two(limit, *numbers) == found


# ---- packing -------------------------------------------------------------------------------


@examples(MANY)
@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1), st.data())
def test_divisor_divides(divisor, number, data):
    packer = Packer(0, "i")
    packer.add_divisor(divisor)
    _, magic, shift, _ = np.frombuffer(packer.finish(), np.uint32).tolist()
    near = data.draw(st.integers(0, (2**31 - 1) // divisor)) * divisor
    for n in (number, near, max(near - 1, 0), 0, 2**31 - 1):
        # cuda_src/nnk/view.cuh in 32-bit arithmetic.
        high = (n * magic) >> 32
        assert ((high + n) & 0xFFFFFFFF) >> shift == n // divisor


FIELDS = {"q": np.int64, "i": np.int32, "I": np.uint32, "f": np.float32, "d": np.float64}


@examples(MANY)
@given(
    st.lists(st.tuples(st.sampled_from("qiIfd"), st.integers(1, 3)), min_size=1), st.integers(0, 3)
)
def test_fields_lie_where_c_puts_them(fields, pointers):
    packer = Packer(pointers, "i")
    for kind, count in fields:
        packer.add(kind, *range(count))
    names = [f"p{i}" for i in range(pointers)] + [f"f{i}" for i in range(len(fields))]
    formats = ["u8"] * pointers + [(FIELDS[kind], (count,)) for kind, count in fields]
    # Every argument struct holds a pointer or a 64-bit number.
    struct = np.dtype({"names": [*names, "end"], "formats": [*formats, "u8"]}, align=True)
    tail = packer.finish()
    assert 8 * pointers + len(tail) == struct.fields["end"][1]
    whole = np.frombuffer(pointer_struct(pointers).pack(*[1] * pointers) + tail + bytes(8), struct)[
        0
    ]
    for i, (_, count) in enumerate(fields):
        assert whole[f"f{i}"].tolist() == list(range(count))


@pytest.mark.parametrize(
    ("dtype", "values", "packed"),
    [
        ("float32", (0.5, 2), np.array([0.5, 2], np.float32)),
        ("float64", (0.1,), np.array([0.1])),
        ("complex64", (1 + 2j,), np.array([1 + 2j], np.complex64)),
        ("complex128", (3.0,), np.array([3], np.complex128)),
        ("int8", (-300, 300), np.array([-128, 127], np.int8)),
        ("uint16", (-1, 7), np.array([0, 7], np.uint16)),
        ("int64", (2**70,), np.array([2**63 - 1], np.int64)),
    ],
)
def test_scalars_are_of_the_computing_type(dtype, values, packed):
    packer = Packer(2, "i")
    packer.add_scalars(dtype, values)
    assert packer.finish().startswith(packed.tobytes())


# ---- dtypes ---------------------------------------------------------------------------------


def test_promotion_is_that_of_numpy_where_the_standard_has_a_rule():
    for a, b in itertools.product(dtypes.ELEMENTS, repeat=2):
        kinds = {dtypes.ELEMENTS[name].kind for name in (a, b)}
        if kinds <= {"f", "c"} or kinds <= {"i", "u"}:
            numpy_a, numpy_b = (dtypes.numpy_dtype(n) for n in (a, b))
            if {a, b} == {"int64", "uint64"} or (kinds == {"i", "u"} and "uint64" in (a, b)):
                with pytest.raises(nnk.DTypeError, match="do not promote"):
                    dtypes.promote((a, b))
            elif {a, b} == {"float16", "bfloat16"}:
                assert dtypes.promote((a, b)) == "float32"
            else:
                assert dtypes.promote((a, b)) == np.result_type(numpy_a, numpy_b).name, (a, b)
        else:
            with pytest.raises(nnk.DTypeError, match="do not promote"):
                dtypes.promote((a, b))
    assert dtypes.promote(("float16", "float16", "float64")) == "float64"


def test_elements_are_what_they_say():
    for name, element in dtypes.ELEMENTS.items():
        dtype = dtypes.numpy_dtype(name)
        assert dtypes.element(dtype) is element
        assert dtype.itemsize == element.itemsize
        assert dtypes.numpy_dtype(element.compute_name).itemsize == element.compute_itemsize
    assert dtypes.element(np.dtype(bool)) is None
    assert dtypes.element(np.dtype(">f4")) is None
    assert dtypes.numpy_dtype("bfloat16") == ml_dtypes.bfloat16


# ---- plans ----------------------------------------------------------------------------------


@pytest.fixture
def configured(monkeypatch):
    """How often a configuration was chosen: once for each plan."""
    calls = []
    for module in (elementwise_config, rows_config, matmul_config):

        def configure(problem, device, original=module.configure):
            calls.append(problem)
            return original(problem, device)

        monkeypatch.setattr(module, "configure", configure)
    return calls


def calls_of_every_kind(x):
    out = np.empty_like(x) if isinstance(x, np.ndarray) else x * 0
    nnk.relu(x)
    nnk.elu(x, alpha=0.5)
    nnk.swiglu(x, x)
    nnk.relu(x, out=out)
    nnk.softmax(x)
    nnk.softmax(x, out=out)
    nnk.logsumexp(x, axis=0)
    nnk.softmax_backward(x, x, axis=None)
    nnk.matmul(x, x.T)
    nnk.matmul(x, x, out=out)


@pytest.mark.in_turn
def test_a_repeated_call_makes_no_plan(backend, configured):
    x = make_numbers(np.random.default_rng(60), (12, 12), "float32")
    x_ = backend.array(x)

    def body():
        backend.machine.plans.clear()
        configured.clear()
        with backend.context():
            calls_of_every_kind(x_)
        assert len(configured) == 10
        with backend.context():
            calls_of_every_kind(backend.array(x + 1))
        assert len(configured) == 10

    backend.precompiled(body)


@pytest.mark.in_turn
def test_another_option_dtype_or_layout_is_another_plan(backend, configured):
    x = make_numbers(np.random.default_rng(61), (6, 8), "float32")
    backend.machine.plans.clear()
    with backend.context():
        for call in (
            lambda: nnk.elu(x, alpha=0.5),
            lambda: nnk.elu(x, alpha=0.25),
            lambda: nnk.elu(x.astype(np.float16), alpha=0.5),
            lambda: nnk.elu(x.T, alpha=0.5),
            lambda: nnk.elu(x[:, ::2], alpha=0.5),
            lambda: nnk.softmax(x, axis=0),
            lambda: nnk.softmax(x, axis=1),
            lambda: nnk.softmax(x, axis=(0, 1)),
            lambda: nnk.logsumexp(x, axis=1, keepdims=True),
            lambda: nnk.logsumexp(x, axis=1, keepdims=False),
        ):
            before = len(configured)
            call()
            assert len(configured) == before + 1


def test_plans_of_a_program_that_never_repeats_a_shape_are_dropped(cpu, monkeypatch):
    monkeypatch.setattr(dispatch, "MAX_PLANS", 20)
    plans = cpu.machine.plans
    plans.clear()
    for n in range(2, 62):
        x = np.full(n, -1.0, np.float32)
        assert not nnk.relu(x).any()
        assert not nnk.softmax(x[:0]).size
        nnk.matmul(x, x)
        assert 0 < len(plans) <= 20
    plans.clear()


# ---- what is compiled -------------------------------------------------------------------------


class Compilations:
    """Counts the kernels that a machine loads."""

    def __init__(self, backend):
        self.kernels = backend.kernels

    def __enter__(self):
        self.before = len(self.kernels)
        return self

    def __exit__(self, *_):
        self.count = len(self.kernels) - self.before


@pytest.mark.in_turn
def test_other_shapes_and_constants_of_a_class_compile_nothing(backend):
    generator = np.random.default_rng(62)

    def numbers(*shape):
        return backend.array(make_numbers(generator, shape, "float32"))

    def elementwise(n):
        nnk.elu(numbers(n + 1), alpha=n / 100)
        nnk.hard_tanh(numbers(n, n + 1), min=-float(n), max=float(n))
        nnk.swiglu(numbers(n, n + 4), numbers(n + 4))
        nnk.prelu(numbers(2, n, n + 4), numbers(n))

    def rows(n):
        nnk.softmax(numbers(n, 1000 + 4 * n))
        nnk.softmax(numbers(n, 33 + 2 * n), axis=0)
        nnk.logsumexp(numbers(n, 1000 + 4 * n))
        nnk.softmax_backward(numbers(n, 1000 + 4 * n), numbers(n, 1000 + 4 * n))

    def products(n):
        nnk.matmul(numbers(n, n + 7), numbers(n + 7, n + 2))
        nnk.matmul(numbers(3, n, n + 7), numbers(3, n + 7, n + 2))

    for call in (elementwise, rows, products):
        with backend.context():
            call(40)
            with Compilations(backend) as compiled:
                for n in (44, 48, 60):  # on a GPU, vectors are as wide as rows are aligned
                    call(n)
        assert compiled.count == 0, call.__name__


def test_kernels_are_shared(backend):
    x = make_numbers(np.random.default_rng(63), (4, 6, 8), "float32")
    with backend.context():
        nnk.mish(backend.array(x))
        with Compilations(backend) as compiled:
            # Dense in any order and of any rank is one axis.
            nnk.mish(backend.array(x.reshape(-1)))
            nnk.mish(backend.array(np.asfortranarray(x)))
            nnk.mish(backend.array(x.transpose(2, 0, 1).copy().transpose(1, 2, 0)))
            nnk.mish(backend.array(x[:2]))
    assert compiled.count == 0


def test_architectures_of_one_warp_width_share_kernels():
    x = make_numbers(np.random.default_rng(64), (3, 200), "float32")
    found = []
    for arch in ("sm_90", "sm_80", "gfx1100"):
        with nnk.use_backend(f"sim:{arch}"):
            found.append(nnk.log_softmax(x))
    with Compilations(Backend("sim:sm_90")) as compiled, nnk.use_backend("sim:sm_80"):
        nnk.log_softmax(x)
    assert compiled.count == 0
    assert all(np.array_equal(found[0], other) for other in found[1:])


# ---- results ------------------------------------------------------------------------------------


@pytest.mark.in_turn
def test_channels_last_stays_channels_last(backend):
    images = make_numbers(np.random.default_rng(65), (2, 5, 7, 3), "float32")
    x = place(images, lay_out((2, 5, 7, 3), 4, range(4), [1] * 4)).view.transpose(0, 3, 1, 2)
    with backend.context():
        results = [
            nnk.relu(backend.array(x)),
            nnk.softmax(backend.array(x), axis=1),
            nnk.prelu(backend.array(x), backend.array(np.ones(3, np.float32))),
        ]
        rows = nnk.logsumexp(backend.array(x), axis=2)
        rows_with_axis = nnk.logsumexp(backend.array(x), axis=2, keepdims=True)
    for result in results:
        assert result.shape == (2, 3, 5, 7)
        assert result.strides == x.strides
    assert (rows.shape, rows.strides) == ((2, 3, 7), (84, 4, 12))
    assert rows_with_axis.shape == (2, 3, 1, 7)
    assert [rows_with_axis.strides[a] for a in (0, 1, 3)] == [84, 4, 12]


@pytest.mark.in_turn
def test_the_order_of_the_first_whole_operand_is_kept(backend):
    x = np.ones((4, 5), np.float32)
    with backend.context():
        assert nnk.swiglu(backend.array(x.T), backend.array(x[0, :4])).strides == (4, 20)
        assert nnk.swiglu(backend.array(x[0]), backend.array(np.asfortranarray(x))).strides == (
            4,
            16,
        )


def test_every_registered_function_is_public():
    for name, op in registry.all_ops().items():
        assert getattr(nnk, name) is op.function
        assert registry.find(name) is op
        assert replace(op) == op
    with pytest.raises(KeyError, match="no op is called 'sofmax'; there are relu"):
        registry.find("sofmax")
