"""Arrays of other libraries: in and out without a copy, and given back as what came in."""

from __future__ import annotations

import os
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from processes import run_python

import nnkernels as nnk
from nnkernels import DTypeError
from nnkernels.interop import libraries
from nnkernels.ops._public import on_cpu

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def xp():
    return pytest.importorskip("array_api_strict")


@pytest.fixture(params=["cpu", "reference"])
def machine(request):
    with nnk.use_backend(request.param):
        yield request.param


def numpy_of(tensor):
    """A tensor's numbers as NumPy array, bfloat16 included."""
    if str(tensor.dtype) == "torch.bfloat16":
        return tensor.float().numpy().astype(ml_dtypes.bfloat16)
    return tensor.numpy()


def bits(array):
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind in "fV" else array


# ---- PyTorch -------------------------------------------------------------------------------

# What makes a view of a (4, 6) tensor.
VIEWS = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.T,
    "strided": lambda t: t[::2, 1::2],
    "expanded": lambda t: t[:1].expand(5, 6),
    "offset": lambda t: t.reshape(-1)[1:22],
    "one row": lambda t: t[2],
    "a number": lambda t: t[1, 3],
    "no rows": lambda t: t[:0],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_views(torch, machine, dtype, view):
    tensor = view(torch.from_numpy(X.copy()).to(getattr(torch, dtype)))
    before = tensor.clone()
    result = nnk.gelu(tensor)
    assert type(result) is torch.Tensor
    assert result.dtype == tensor.dtype
    assert result.shape == tensor.shape
    assert result.device == tensor.device
    assert not result.requires_grad
    wanted = nnk.gelu(numpy_of(tensor))
    assert np.array_equal(bits(numpy_of(result)), bits(wanted))
    assert torch.equal(tensor, before)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8"])
def test_torch_integers(torch, machine, dtype):
    tensor = torch.arange(-5, 5).to(getattr(torch, dtype))
    result = nnk.relu(tensor)
    assert result.dtype == tensor.dtype
    assert result.tolist() == tensor.clamp(min=0).tolist()


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_torch_complex(torch, machine, dtype):
    tensor = torch.from_numpy(X + 1j * X[::-1]).to(getattr(torch, dtype))
    result = nnk.tanh(tensor)
    assert result.dtype == tensor.dtype
    assert np.array_equal(result.numpy(), nnk.tanh(tensor.numpy()))


def test_whose_memory_a_tensor_has_is_asked_and_not_taken(torch):
    """To share it takes as long as all the rest of a small call."""

    class OnGpu(torch.Tensor):
        def __dlpack_device__(self):
            return 2, 0

        def __dlpack__(self, **options):
            raise AssertionError("shared")

    assert not on_cpu((torch.ones(2).as_subclass(OnGpu),))
    assert on_cpu((torch.ones(2),))
    assert on_cpu((torch.ones(2, device="meta"),))  # none: the function says so


def test_torch_tensors_are_not_copied(torch, monkeypatch):
    """The kernel reads and writes the tensors' own memory."""
    seen = []
    library = libraries.library_of(torch.ones(1), "x")

    def record(x, argument):
        view = library.adopt(x, argument)
        seen.append((view.ctypes.data, x.data_ptr()))
        return view

    recording = replace(library, adopt=record)
    monkeypatch.setitem(libraries._KNOWN, torch.Tensor, recording)
    for dtype in (torch.float32, torch.bfloat16, torch.int32):
        tensor = torch.arange(24).reshape(4, 6).to(dtype)[1:, ::2]
        out = torch.zeros(3, 3, dtype=dtype)
        nnk.relu(tensor, out=out)
    assert len(seen) >= 6
    assert all(ours == theirs for ours, theirs in seen)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_torch_out(torch, machine, dtype):
    tensor = torch.from_numpy(X.copy()).to(getattr(torch, dtype))
    memory = torch.full((6, 8), 7.0).to(tensor.dtype)
    out = memory[:, ::2].T
    assert nnk.relu(tensor, out=out) is out
    assert torch.equal(out, tensor.clamp(min=0))
    assert (memory[:, 1::2] == 7).all()
    in_place = tensor.clone()
    assert nnk.softmax(in_place, out=in_place) is in_place
    assert torch.equal(in_place, nnk.softmax(tensor))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_out_where_numpy_calls_all_imports_read_only(torch, monkeypatch, dtype):
    """As NumPy 2.0 does."""
    from_dlpack = np.from_dlpack

    def read_only(x):
        view = from_dlpack(x)
        view.flags.writeable = False
        return view

    monkeypatch.setattr(np, "from_dlpack", read_only)
    tensor = torch.from_numpy(X.copy()).to(getattr(torch, dtype))
    out = torch.zeros(6, 4, dtype=tensor.dtype).T
    assert nnk.relu(tensor, out=out) is out
    assert torch.equal(out, tensor.clamp(min=0))


def test_torch_results_own_their_memory(torch):
    """A result lives on when everything else is gone, and can be written."""
    results = [nnk.relu(torch.full((3000,), float(i))) for i in range(20)]
    for i, result in enumerate(results):
        assert (result == i).all()
        result += 1
        assert (result == i + 1).all()


def test_torch_gradients(torch, machine):
    tensor = torch.from_numpy(X.copy())
    y, pullback = nnk.vjp(nnk.log_softmax, tensor, axis=0)
    (dx,) = pullback(torch.ones_like(y) * tensor)
    wanted = tensor.clone().requires_grad_()
    torch.log_softmax(wanted, 0).backward(torch.ones_like(y) * tensor)
    assert torch.allclose(dx, wanted.grad, atol=1e-6)
    y, pullback = nnk.vjp(nnk.matmul, tensor, tensor.T)
    dx1, dx2 = pullback(torch.ones(4, 4))
    assert type(dx1) is type(dx2) is torch.Tensor
    assert torch.allclose(dx1, torch.ones(4, 4) @ tensor, atol=1e-5)
    dx, dgate = nnk.swiglu_backward(tensor, tensor, tensor[0])
    assert dx.shape == (4, 6)
    assert dgate.shape == (6,)
    for name in ("glu_backward", "prelu_backward"):
        gradients = (
            nnk.glu_backward(tensor[:, :3], tensor)
            if name == "glu_backward"
            else nnk.prelu_backward(tensor, tensor, tensor[0])
        )
        parts = gradients if isinstance(gradients, tuple) else (gradients,)
        assert all(type(part) is torch.Tensor for part in parts)


def test_torch_parameter_without_grad(torch):
    """A subclass of Tensor goes in; a plain tensor comes out."""
    parameter = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    assert type(nnk.relu(parameter)) is torch.Tensor
    assert nnk.relu(parameter.detach()).tolist() == [1, 1, 1]


def test_torch_matmul_out_dtype(torch):
    a = torch.arange(6, dtype=torch.int8).reshape(2, 3)
    assert nnk.matmul(a, a.T, out_dtype=torch.int32).dtype == torch.int32
    assert nnk.matmul(a, a.T, out_dtype="int32").tolist() == [[5, 14], [14, 50]]


def test_torch_python_scalar(torch):
    tensor = torch.from_numpy(X.copy()).half()
    result = nnk.swiglu(tensor, 2.0)
    assert result.dtype == torch.float16
    assert torch.equal(result, nnk.swiglu(tensor, torch.tensor(2.0, dtype=torch.float16)))


def test_nothing_is_imported_unasked(tmp_path):
    """A program that has only NumPy arrays loads no other array library, nor a thread pool."""
    script = """
import sys
import numpy as np
import nnkernels as nnk
imported = {"torch", "cupy", "jax", "array_api_strict", "array_api_compat", "ml_dtypes"}
assert not imported & set(sys.modules), imported & set(sys.modules)
x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
nnk.relu(x), nnk.softmax(x), nnk.matmul(x, x.T), nnk.swiglu(x, 2.0), nnk.relu(x[0, 0])
y, pullback = nnk.vjp(nnk.tanh, x)
pullback(y)
try:
    nnk.relu([1.0])
except nnk.DTypeError:
    pass
imported -= {"ml_dtypes"}
assert not imported & set(sys.modules), imported & set(sys.modules)
print("fine")
"""
    assert run_python(script) == "fine\n"


# ---- array-api-strict ----------------------------------------------------------------------


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1", "no_x64"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_strict(xp, machine, device, dtype):
    place = xp.Device(device)
    if device == "no_x64" and dtype == "float64":
        pytest.skip("the device has no float64")
    x = xp.asarray(X.astype(dtype), device=place)
    result = nnk.relu(x)
    assert type(result) is type(x)
    assert result.dtype == x.dtype
    assert result.device == place
    assert np.array_equal(np.from_dlpack(result), X.astype(dtype).clip(0))


def test_strict_ops(xp, machine):
    x = xp.asarray(X)
    for call in (
        lambda x: nnk.softmax(x, axis=0),
        lambda x: nnk.logsumexp(x, axis=None),
        lambda x: nnk.matmul(x, x.T if hasattr(x, "T") else x),
        lambda x: nnk.glu(x),
        lambda x: nnk.prelu(x, x[0, :]),
        lambda x: nnk.swiglu(x, 2.0),
        lambda x: nnk.vjp(nnk.logsumexp, x)[1](x[:, 0])[0],
        lambda x: nnk.vjp(nnk.prelu, x, x[0, :])[1](x)[1],
        lambda x: nnk.vjp(nnk.matmul, x, x.T)[1](nnk.matmul(x, x.T))[1],
        lambda x: nnk.glu_backward(x[:, :3], x),
    ):
        result = call(x)
        assert type(result) is type(x)
        assert np.array_equal(np.from_dlpack(result), call(X))


def test_strict_out(xp, machine):
    x, out = xp.asarray(X), xp.zeros((4, 6), dtype=xp.float32)
    assert nnk.relu(x, out=out) is out
    assert np.array_equal(np.from_dlpack(out), X.clip(0))


def test_strict_read_only(xp):
    """DLPack tells that memory must not be written."""
    fixed = X.copy()
    fixed.flags.writeable = False
    x = xp.asarray(fixed, copy=False)
    assert np.array_equal(np.from_dlpack(nnk.relu(x)), X.clip(0))
    with pytest.raises(DTypeError, match="out is read-only"):
        nnk.relu(xp.asarray(X.copy()), out=x)
    assert np.array_equal(fixed, X)


# ---- NumPy ---------------------------------------------------------------------------------


def test_subclasses_come_out_plain(tmp_path, machine):
    path = tmp_path / "numbers.bin"
    X.tofile(path)
    mapped = np.memmap(path, np.float32, "r+", shape=X.shape)
    for x in (mapped, X.view(np.matrix), X.view(np.recarray)):
        result = nnk.relu(x)
        assert type(result) is np.ndarray
        assert np.array_equal(result, X.clip(0))
    assert nnk.relu(mapped, out=mapped) is mapped
    mapped.flush()
    assert np.array_equal(np.fromfile(path, np.float32).reshape(X.shape), X.clip(0))
    matrix = np.zeros_like(X).view(np.matrix)
    assert nnk.relu(X, out=matrix) is matrix
    assert np.array_equal(np.asarray(matrix), X.clip(0))


def test_subclass_on_the_sim_machine():
    with nnk.use_backend("sim:sm_90"):
        assert np.array_equal(nnk.relu(X.view(np.matrix)), X.clip(0))


def test_scalars_are_arrays_of_no_axes(machine):
    for x in (np.float32(-0.5), np.float64(0.5), np.int8(-3), ml_dtypes.bfloat16(0.5)):
        result = nnk.relu(x)
        assert type(result) is np.ndarray
        assert result.shape == ()
        assert result.dtype == x.dtype
        assert result == max(x, x.dtype.type(0))
    assert nnk.softmax(np.float32(3), axis=None) == 1
    assert nnk.logsumexp(np.float32(3), axis=None) == 3


def test_read_only_operands(machine):
    fixed = X.copy()
    fixed.flags.writeable = False
    result = nnk.relu(fixed)
    assert np.array_equal(result, X.clip(0))
    assert result.flags.writeable
    assert np.array_equal(nnk.matmul(fixed, fixed.T), nnk.matmul(X, X.T))
    assert np.array_equal(nnk.softmax(np.broadcast_to(X[0], (4, 6))), nnk.softmax(X[[0] * 4]))


def test_python_scalars_are_weak(machine):
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
        x = X.astype(dtype)
        for value in (2, 2.0):
            result = nnk.swiglu(x, value)
            assert result.dtype == dtype
            assert np.array_equal(bits(result), bits(nnk.swiglu(x, np.full((), value, dtype))))
        assert nnk.swiglu(2.0, x).dtype == dtype
        assert np.array_equal(bits(nnk.prelu(x, 0.5)), bits(nnk.prelu(x, np.full(1, 0.5, dtype))))
        dx, dweight = nnk.vjp(nnk.prelu, x, 0.5)[1](x)
        assert dx.shape == x.shape
        assert dweight.shape == ()
    # NumPy scalars are not.
    assert nnk.swiglu(X, np.float64(2)).dtype == np.float64
    # Too large for the type: infinite, as in NumPy, and no warning.
    assert np.isinf(nnk.swiglu(np.ones(2, np.float16), 1e6)).all()


def test_same_memory_is_returned(machine):
    """``out`` is what is returned, not a view of it."""
    out = np.empty_like(X)
    assert nnk.relu(X, out=out) is out
    assert nnk.logsumexp(X, out=out[:, 0]).base is out
    assert nnk.matmul(X, X.T, out=np.empty((4, 4), np.float32)).shape == (4, 4)


def test_cupy_is_not_asked_for_numpy_arrays(tmp_path):
    """Where CuPy is installed without a GPU, arrays on the CPU work as ever."""
    pytest.importorskip("cupy", exc_type=ImportError)
    script = """
import cupy, numpy as np, nnkernels as nnk
x = np.array([-1.0, 2.0], np.float32)
assert nnk.relu(x).tolist() == [0, 2]
assert nnk.swiglu(x, 2.0).dtype == np.float32
assert nnk.relu(x.reshape(1, 2).view(np.matrix)).tolist() == [[0, 2]]
print("fine")
"""
    printed = run_python(
        script, PYTHONWARNINGS="ignore", CUDA_VISIBLE_DEVICES=os.environ.get("CUDA_VISIBLE_DEVICES")
    )
    assert printed == "fine\n"
