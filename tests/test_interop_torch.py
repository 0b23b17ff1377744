"""The ops as functions of PyTorch: gradients, operators, and what its tools make of them."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend
from differentiating import cases, operands_for
from hypothesis import settings

import nnkernels as nnk
from nnkernels import registry

torch = pytest.importorskip("torch", reason="the other side is PyTorch")
from nnkernels.interop import torch as nnt  # noqa: E402

OPS = registry.all_ops()
DIFFERENTIABLE = [op for op in OPS.values() if op.is_differentiable]
SIDE = 4
# Of each family an op and a gradient: whose tracing opcheck tests in profile ci, at 0.5 s each.
TRACED = list({(op.family, op.is_gradient): op for op in OPS.values()}.values())
# Of the others, profile ci compiles every second one, as 13 s go into them from cold: test_vjp.py
# checks the same formulas for all.
GRADIENTS = [
    op
    for i, op in enumerate(DIFFERENTIABLE)
    if i % 2 == 0 or op in TRACED or not settings.default.derandomize
]


def small(op):
    """One call of few elements: sides of up to four where the record's shapes follow from none."""
    found = list(cases(op))
    _, shapes, options = found[min(1, len(found) - 1)] if op.family == "rows" else found[0]
    if op.family in ("elementwise", "rows", "norm", "matmul") and not (
        "group" in op.name or op.name.endswith("glu_backward")
    ):
        shapes = tuple(tuple(min(n, SIDE) for n in shape) for shape in shapes)
    return shapes, options


def call_of(op, seed=0):
    """Float64 tensors for a call, the function of them, and its options."""
    shapes, options = small(op)
    arrays = operands_for(op, shapes, "float64", seed, options)
    tensors = [torch.from_numpy(np.ascontiguousarray(x)) for x in arrays]
    for name, tensor in zip(op.arrays, tensors, strict=False):
        tensor.requires_grad_(tensor.is_floating_point() and name not in op.constant)

    def function(*given):
        positional, named = op.arguments(given, options)
        result = getattr(nnt, op.name)(*positional, **named)
        results = result if isinstance(result, tuple) else (result,)
        return tuple(r for r in results if r is not None and r.requires_grad)

    return function, tensors, options


def gradcheck(function, tensors):
    fast = sum(t.numel() for t in tensors) > 60
    assert torch.autograd.gradcheck(function, tensors, fast_mode=fast, atol=1e-5)
    # A gradient that is recorded itself is made another way, of the same numbers.
    results = function(*tensors)
    cotangents = [torch.randn_like(r) for r in registry.flat(results)]
    needed = [t for t in tensors if t.requires_grad]
    once, recorded = (
        torch.autograd.grad(
            results, needed, cotangents, retain_graph=True, create_graph=twice, allow_unused=True
        )
        for twice in (False, True)
    )
    for a, b in zip(once, recorded, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.fixture(scope="module")
def compiled(request):
    """The kernels of the gradients that are tested, in batches."""
    tests = [item for item in request.session.items if item.path == request.path]
    ops = [item.callspec.params["op"] for item in tests if item.originalname == "test_gradients"]

    def body():
        for op in ops:
            function, tensors, _ = call_of(op)
            results = function(*tensors)
            needed = [t for t in tensors if t.requires_grad]
            cotangents = [torch.zeros_like(r) for r in registry.flat(results)]
            torch.autograd.grad(results, needed, cotangents, create_graph=True, allow_unused=True)

    Backend("cpu").precompiled(body)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("op", GRADIENTS, ids=lambda op: op.name)
def test_gradients(op):
    gradcheck(*call_of(op)[:2])


@pytest.mark.parametrize("op", [op for op in OPS.values() if not op.lists], ids=lambda op: op.name)
def test_operators(op):
    """torch.library's own checks: schema, fake results, autograd, and tracing of both."""
    _, tensors, options = call_of(op)
    if op.gradient is None:
        tensors = [t.detach() for t in tensors]
    positional, named = op.arguments(tensors, options)
    given = op.sorted_arguments(positional, named)
    names = dict(zip(given.names, given.arrays, strict=True))
    tensors = [names.get(name) for name in (*op.arrays, *op.array_options)]
    others = dict(given.options)
    shapes = []
    for name in nnt._shape_options(op):
        value = others.get(name)
        shapes.append(list(others.pop(name)) if isinstance(value, tuple) else None)
    operator = getattr(torch.ops.nnkernels, op.name).default
    utilities = torch.library.opcheck.__kwdefaults__["test_utils"]
    if settings.default.derandomize and op not in TRACED:
        utilities = tuple(name for name in utilities if name != "test_aot_dispatch_dynamic")
    torch.library.opcheck(
        operator, (*tensors, *shapes, nnt.calls.encode(others)), test_utils=utilities
    )


SECOND = (
    "gelu",
    "softmax",
    "linear",
    "mlp",
    "conv",
    "conv_transpose",
    "swiglu",
    "prelu",
    "max_pool",
    "layer_norm",
    "batch_norm",
)


@pytest.mark.parametrize("name", SECOND)
def test_second_derivatives(name):
    function, tensors, _ = call_of(OPS[name])
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_activations_inside(activation):
    x, weight, bias = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 4), (5, 4), (5,))
    )
    function = lambda *a: nnt.linear(*a, activation=activation)  # noqa: E731
    gradcheck(function, (x, weight, bias))
    with torch.no_grad():
        assert torch.equal(
            function(x, weight, bias),
            nnk.linear(x.detach(), weight.detach(), bias.detach(), activation=activation),
        )


def test_networks():
    """Lists of tensors, in a program that is compiled too."""
    x, *rest = [
        torch.randn(s, dtype=torch.float64, requires_grad=True)
        for s in ((3, 4), (5, 4), (2, 5), (5,))
    ]
    weights, biases = rest[:2], [rest[2], None]

    def function(*arrays):
        return nnt.mlp(arrays[0], arrays[1:3], biases=[arrays[3], None], activation="gelu")

    gradcheck(function, (x, *rest))
    arrays = [[None if t is None else t.detach().numpy() for t in ts] for ts in (weights, biases)]
    wanted = nnk.mlp(x.detach().numpy(), *arrays, activation="gelu")
    torch._dynamo.reset()
    for call in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        assert np.allclose(call(x, *rest).detach().numpy(), wanted, rtol=1e-12)
    with pytest.raises(TypeError, match="takes no out"):
        nnt.mlp(x, weights, out=x)
    with pytest.raises(TypeError, match="weights must be a list or tuple"):
        nnt.mlp(x, weights[0])
    assert not hasattr(nnt, "mlp_backward")


def model(x, weight, bias, kernel):
    y = nnt.max_pool(nnt.conv(x, kernel, padding=1, epilogue="relu"), 2)
    y = nnt.layer_norm(y.reshape(len(y), -1))
    return nnt.log_softmax(nnt.linear(y, weight, bias, activation="gelu")).square().mean()


@pytest.fixture
def parameters():
    torch.manual_seed(0)
    shapes = ((2, 1, 4, 4), (3, 8), (3,), (2, 1, 3, 3))
    return [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]


def test_compiled(parameters):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    value = model(*parameters)
    assert torch.allclose(compiled(*parameters), value)
    wanted = torch.autograd.grad(value, parameters)
    for a, b in zip(torch.autograd.grad(compiled(*parameters), parameters), wanted, strict=True):
        assert torch.allclose(a, b)


def test_exported(parameters):
    class Model(torch.nn.Module):
        def forward(self, *arguments):
            return model(*arguments)

    given = tuple(p.detach() for p in parameters)
    program = torch.export.export(Model(), given)
    assert torch.allclose(program.module()(*given), model(*given))
    assert "nnkernels.conv.default" in str(program.graph)


def test_functional_transforms(parameters):
    x = parameters[0].detach().reshape(2, 16)
    loss = lambda x: nnt.gelu(x).sum()  # noqa: E731
    wanted = torch.autograd.grad(loss(x.requires_grad_()), x)[0]
    assert torch.allclose(torch.func.grad(loss)(x.detach()), wanted)


def test_memory_is_shared():
    x = torch.randn(5)
    assert nnt._view(x).ctypes.data == x.data_ptr()
    assert nnt._view(x.to(torch.bfloat16)[1:]).dtype.name == "bfloat16"
    y = nnt.relu(x.to(torch.bfloat16))
    assert y.dtype is torch.bfloat16
    assert torch.equal(y, x.to(torch.bfloat16).relu())
    assert torch.equal(nnt.relu(torch._neg_view(x)), (-x).relu())


def test_only_what_is_wanted_is_made(monkeypatch):
    """No gradient of images, which need none."""
    seen = []
    backward = nnk.conv_backward
    monkeypatch.setattr(
        nnk, "conv_backward", lambda *a, **k: seen.append(k["wrt"]) or backward(*a, **k)
    )
    weight = torch.randn(2, 1, 3, 3, requires_grad=True)
    nnt.conv(torch.randn(1, 1, 5, 5), weight).sum().backward()
    assert seen == [(1,)]
    assert weight.grad is not None


def added(x, b):
    return nnk.silu(x + b)


INSIDE = {
    "matmul": lambda x, w, b: nnt.matmul(x, w, epilogue=added, operands=(b,)),
    "linear": lambda x, w, b: nnt.linear(x, w.T, b, epilogue=lambda y: y * y),
    "softmax": lambda x, w, b: nnt.softmax(x @ w, prologue=added, prologue_operands=(b,)),
    # The sum is a result too, and gradcheck asks for the gradient of one alone.
    "layer_norm": lambda x, w, b: nnt.layer_norm(
        x @ w, b, prologue=lambda x, r: (x * r, x + r), prologue_operands=(b,)
    ),
    "group_norm": lambda x, w, b: nnt.group_norm(
        (x @ w)[..., None] * torch.arange(1.0, 4.0).double(), 2, epilogue=added, operands=(2.0,)
    ),
}


@pytest.mark.parametrize("call", INSIDE.values(), ids=INSIDE)
def test_fused_functions_inside(call):
    generator = torch.Generator().manual_seed(1)
    arrays = [
        torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((3, 5), (5, 4), (4,))
    ]
    gradcheck(call, arrays)
    with torch.no_grad():
        plain, recorded = call(*arrays), call(*(x.detach() for x in arrays))
    for one, other in zip(
        plain if isinstance(plain, tuple) else (plain,),
        recorded if isinstance(recorded, tuple) else (recorded,),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_arrays_of_functions_inside_must_stay_as_they_are():
    x, b = torch.randn(3, 4, requires_grad=True), torch.randn(4)
    y = nnt.softmax(x, prologue=added, prologue_operands=(b,))
    b += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_no_second_derivative():
    x = torch.randn(1, 2, 4, requires_grad=True)
    (dx,) = torch.autograd.grad(nnt.lp_pool(x, 2).square().sum(), x, create_graph=True)
    with pytest.raises(TypeError, match="lp_pool has no second derivative"):
        dx.sum().backward()


def test_no_third_derivative():
    x = torch.randn(2, 3, requires_grad=True)
    (dx,) = torch.autograd.grad(nnt.gelu(x).sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.sum(), x, create_graph=True)
    with pytest.raises(TypeError, match="gelu has no third derivative"):
        ddx.sum().backward()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: nnt.relu(x.numpy()), nnk.DTypeError, "x of relu must be a tensor; got ndarray"),
        (lambda x: nnt.relu(2.0), nnk.DTypeError, "must be a tensor; got float"),
        (lambda x: nnt.swiglu(x, [1]), nnk.DTypeError, "gate of swiglu must be a tensor"),
        (
            lambda x: nnt.swiglu(x, x.to("meta")),
            nnk.BackendError,
            "device cpu and gate on meta",
        ),
        (lambda x: nnt.relu(x, out=x), TypeError, "takes no out"),
        (lambda x: nnt.softmax(x, epilogue=added, operands=(x,), out=x), TypeError, "no out"),
        (
            lambda x: torch.func.grad(lambda x: nnt.softmax(x, prologue=nnk.tanh).sum())(x),
            TypeError,
            "softmax with a fused function inside is a function of tensors with memory",
        ),
        (lambda x: nnt.relu(x, x), TypeError, "takes 1"),
        (lambda x: nnt.gelu(x.requires_grad_(), approximate="no"), ValueError, "approximate"),
        (lambda x: nnt.matmul(x, x.requires_grad_()), nnk.ShapeError, "x1 has shape"),
    ],
)
def test_wrong_use(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.randn(2, 3))


def test_fake_results_are_checked():
    with pytest.raises(nnk.ShapeError, match="x1"):
        nnt.matmul(torch.randn(2, 3, device="meta"), torch.randn(2, 3, device="meta"))
    y = nnt.softmax(torch.randn(2, 3, device="meta").T)
    assert (y.shape, y.stride(), y.device.type) == ((3, 2), (1, 3), "meta")
