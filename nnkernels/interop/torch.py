"""The ops as functions of PyTorch: recorded by autograd, and operators of ``torch.library``.

``from nnkernels.interop import torch as nnt``; then ``nnt.softmax(x, axis=-1)`` and the rest take
and give tensors, on the CPU and on GPUs, without a copy. All of them are made from the registry.
Every op is also ``torch.ops.nnkernels.NAME``, by which ``torch.compile``, ``torch.export`` and
``torch.func`` see it; in eager mode the functions go past the dispatcher of PyTorch, which takes
longer than most calls (docs/training.md has figures).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

import nnkernels
from nnkernels import registry
from nnkernels.differentiation import differentiated
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.errors import BackendError
from nnkernels.interop import calls
from nnkernels.ops._activation import Activation, resolve
from nnkernels.registry.record import Op
from nnkernels.registry.rule import Call, Given, Rule, saving

Tensor: Any = torch.Tensor
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_FUNCTIONS = sys.modules[__name__]


# ---- tensors and arrays -------------------------------------------------------------------------


def _view(x: Any) -> Any:
    """The NumPy or CuPy view of a tensor; a Python number, or None, as it is."""
    if not isinstance(x, Tensor):
        return x
    x = x.detach()
    if x.is_cuda:
        return _gpu_view(x)
    if x.dtype is torch.bfloat16:
        return x.view(torch.int16).numpy().view(numpy_dtype("bfloat16"))
    try:
        return x.numpy()
    except RuntimeError:  # a lazily negated or conjugated view, whose memory holds other numbers
        return x.resolve_conj().resolve_neg().numpy()
    except TypeError as error:
        raise BackendError(
            f"a tensor on the device {x.device} cannot be used ({error}); those on CPUs and CUDA "
            "or ROCm GPUs can"
        ) from error


def _gpu_view(x: Any) -> Any:
    import cupy

    x = x.resolve_conj().resolve_neg()
    if x.dtype is torch.bfloat16:
        return cupy.from_dlpack(x.view(torch.int16)).view(numpy_dtype("bfloat16"))
    return cupy.from_dlpack(x)


def _tensor(array: Any) -> Any:
    """A result as tensor; None as it is."""
    if type(array) is np.ndarray:
        if array.dtype.kind == "V" or array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)
    if array is None:
        return None
    if array.dtype.name == "bfloat16":
        return torch.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_dlpack(array)


def _on_arrays(function: Callable[..., Any], tensors: Sequence[Any]) -> Any:
    """A function of the arrays of some tensors; its result, or results, as tensors."""
    for x in tensors:
        if isinstance(x, Tensor) and x.is_cuda:
            result = _on_gpu(function, tensors, x.device)
            break
    else:
        result = function(tuple([_view(x) for x in tensors]))
    return tuple(map(_tensor, result)) if isinstance(result, tuple) else _tensor(result)


def _on_gpu(function: Callable[..., Any], tensors: Sequence[Any], device: Any) -> Any:
    """On PyTorch's device and stream."""
    import cupy

    stream = torch.cuda.current_stream(device).cuda_stream
    with cupy.cuda.Device(device.index), cupy.cuda.ExternalStream(stream):
        return function(tuple(_view(x) for x in tensors))


def _run(op: Op, given: Given) -> Any:
    """The op itself."""
    if op.array_options or op.number:
        return _on_arrays(
            lambda arrays: op.call(op.function, Given(arrays, given.names, given.options)),
            given.arrays,
        )
    return _on_arrays(lambda arrays: op.function(*arrays, **given.options), given.arrays)


# ---- calls --------------------------------------------------------------------------------------


# These change for nobody who has them: looked up once, not at every call.
_transforms_active = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_grad_enabled = torch.is_grad_enabled
_from_numpy = torch.from_numpy


def _wrapper(op: Op) -> Callable[..., Any]:
    count, simple = len(op.arrays), not (op.number or op.array_options)
    function, fused, functions = op.function, op.fused, op.functions
    saves = op.gradient is not None and op.gradient.saves is not None

    def call(*arguments: Any, **options: Any) -> Any:
        if functions and options and calls.has_functions(op, options):
            return _with_functions(op, arguments, options)
        if simple and arguments and not _transforms_active() and not _dispatch_modes():
            # The shortest way, for what needs nothing else.
            views, recorded = _simple_views(arguments)
            if views is not None and "out" not in options:
                if not recorded or not _is_grad_enabled():
                    result = function(*views, **options)
                    if type(result) is np.ndarray:
                        return _from_numpy(result)
                    return tuple(map(_tensor, result))
                activation = resolve(options.get(fused), fused) if fused else None
                if len(views) <= count and (activation is None or activation.takes_result):
                    names = op.arrays[: len(views)]
                    return _Recorded.apply((op, names, options, activation, views), *arguments)
        return general(*arguments, **options)

    def general(*arguments: Any, **options: Any) -> Any:
        if simple and len(arguments) <= count and "out" not in options:
            given = Given(arguments, op.arrays[: len(arguments)], options)
        else:
            given = calls.sorted_call(op, arguments, options)
        plain, recorded, device = True, False, None
        for position, x in enumerate(given.arrays):
            if type(x) not in _PLAIN:
                if isinstance(x, Tensor):
                    plain = False
                elif x is None or (type(x) in (int, float) and position):
                    continue
                else:
                    raise calls.require_array(op, given.names[position], x, "a tensor")
            if device is None:
                device = x.device
            elif device != x.device:
                calls.check_devices(given.names, given.arrays)
            if x.requires_grad:
                recorded = True
        if device is None:
            raise calls.require_array(op, op.arrays[0], None, "a tensor")
        recorded = recorded and _is_grad_enabled()
        activation = calls.activation_of(op, given) if fused else None
        if recorded and activation is not None and not activation.takes_result:
            operand = general(*arguments, **given.without(fused).options)
            return getattr(_FUNCTIONS, activation.name)(operand, **activation.options)
        hides = False
        if saves and (recorded or _transforms_active()):
            given, hides = saving(op.gradient, given)
        if not plain or _dispatch_modes() or device.type == "meta":
            result = _through_library(op, given)
        elif _transforms_active():
            result = _Transformed.apply(op, given.names, given.options, *given.arrays)
        elif recorded:
            found = op, given.names, given.options, activation, None
            result = _Recorded.apply(found, *given.arrays)
        else:
            result = _run(op, given)
        return result[0] if hides else result

    call.__name__ = call.__qualname__ = op.name
    call.__module__ = __name__
    call.__doc__ = op.function.__doc__
    return torch.compiler.allow_in_graph(call)


def _simple_views(tensors: Sequence[Any]) -> tuple[list[Any] | None, bool]:
    """NumPy's views of plain tensors on the CPU, and whether any is recorded.

    None if that is not all that there is, or not as simple.
    """
    views, recorded = [], False
    try:
        for x in tensors:
            if type(x) in _PLAIN:
                if x.requires_grad:
                    recorded = True
                    views.append(x.detach().numpy())
                else:
                    views.append(x.numpy())
            elif x is None:
                views.append(None)
            else:
                return None, False
    # bfloat16, or no memory on the CPU, or memory that holds other numbers (a negated view).
    except (TypeError, RuntimeError):
        return None, False
    return views, recorded


class _Recorded(torch.autograd.Function):
    """A call that autograd records.

    Of the op, the names of its arrays, its options, the activation among them, the arrays if they
    are there already (else None), and then the tensors: PyTorch looks at every argument.
    """

    @staticmethod
    def forward(ctx: Any, found: tuple[Any, ...], *tensors: Any) -> Any:
        op, names, options, activation, views = found
        if views is None:
            result = _run(op, Given(tensors, names, options))
        else:
            result = op.function(*views, **options)
            if type(result) is np.ndarray:
                result = _from_numpy(result)
            else:
                result = tuple(map(_tensor, result))
        _keep(ctx, op, names, options, tensors, activation, result)
        return result

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        return (None, *_pulled(ctx, cotangents, ctx.needs_input_grad[1:]))


class _Transformed(torch.autograd.Function):
    """The same in the form that ``torch.func`` wants, for which PyTorch takes 80 us more."""

    @staticmethod
    def forward(op: Op, names: Any, options: Any, *tensors: Any) -> Any:
        return _run(op, Given(tensors, names, options))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        op, names, options, *tensors = inputs
        _keep_given(ctx, op, Given(tuple(tensors), names, options), output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        return (None, None, None, *_pulled(ctx, cotangents, ctx.needs_input_grad[3:]))


# ---- calls with fused functions inside ----------------------------------------------------------

_OPERANDS = ("prologue_operands", "operands")


def _with_functions(op: Op, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    """A call with functions inside, whose operands are tensors too."""
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        raise TypeError(
            f"{op.name} with a fused function inside is a function of tensors with memory: "
            "torch.compile, torch.export and torch.func cannot follow it"
        )
    if "out" in options:
        raise TypeError(f"{op.name} takes no out here: its result is recorded, and must be new")
    given = op.sorted_arguments(arguments, options)
    operands = [x for name in _OPERANDS for x in given.options.get(name, ())]
    inputs = (*given.arrays, *operands)
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        return _WithFunctions.apply(op, given.names, given.options, *inputs)
    return _on_arrays(
        lambda arrays: op.call(op.function, _given_inside(given.names, given.options, arrays)),
        inputs,
    )


def _given_inside(names: Sequence[str], options: dict[str, Any], arrays: Sequence[Any]) -> Given:
    """The arguments with arrays in the places of tensors."""
    found, at = dict(options), len(names)
    for name in _OPERANDS:
        if name in options:
            count = len(tuple(options[name]))
            found[name] = tuple(arrays[at : at + count])
            at += count
    return Given(tuple(arrays[: len(names)]), tuple(names), found)


class _WithFunctions(torch.autograd.Function):
    """A call with functions inside that autograd records: the pullback is `nnkernels.vjp`'s."""

    @staticmethod
    def forward(ctx: Any, op: Op, names: Any, options: Any, *inputs: Any) -> Any:
        wanted = tuple(i for i, needed in enumerate(ctx.needs_input_grad[3:]) if needed)

        def run(arrays: tuple[Any, ...]) -> Any:
            given = _given_inside(names, options, arrays)
            result, ctx.pullback = differentiated(op, given, wanted)
            return result

        result = _on_arrays(run, inputs)
        # Of no use but that PyTorch sees whether they were written to since.
        ctx.save_for_backward(*[x for x in inputs if isinstance(x, Tensor)])
        ctx.set_materialize_grads(False)
        results = result if isinstance(result, tuple) else (result,)
        ctx.mark_non_differentiable(*[r for r in results if not r.is_floating_point()])
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Any) -> Any:
        _ = ctx.saved_tensors
        if all(d is None for d in cotangents):
            return (None,) * len(ctx.needs_input_grad)
        gradients = _on_arrays(lambda arrays: tuple(ctx.pullback(*arrays)), cotangents)
        return (None, None, None, *gradients)


@cache
def _kept_by(name: str, names: tuple[str, ...]) -> tuple[Rule | None, tuple[bool, ...]]:
    """The rule of a call of an op, and which arrays it keeps."""
    op = registry.find(name)
    rule = None if op.gradient is None else op.gradient.of(names)
    return rule, tuple(rule is not None and n in rule.keeps for n in names)


def _keep(
    ctx: Any,
    op: Op,
    names: tuple[str, ...],
    options: dict[str, Any],
    arrays: Sequence[Any],
    activation: Activation | None,
    result: Any,
) -> None:
    """What the gradient needs; an op without one fails when it is asked."""
    rule, keeps = _kept_by(op.name, names)
    kept: list[Any] = []
    shapes: list[Any] = []
    numbers = None  # weights that are Python numbers
    for x, is_kept in zip(arrays, keeps, strict=True):
        if isinstance(x, Tensor):
            shapes.append(x.shape)
            kept.append(x if is_kept else None)
            continue
        shapes.append(None if x is None else ())
        kept.append(None)
        if is_kept and x is not None:
            numbers = tuple(None if isinstance(a, Tensor) else a for a in arrays)
    if rule is not None and rule.keeps_result is not None:
        kept.append(rule.kept_result(result, options))
    else:
        kept.append(None if activation is None else result)
    ctx.save_for_backward(*kept)
    ctx.call = op, rule, names, options, shapes, numbers, activation
    if op.auxiliary and isinstance(result, tuple) and len(result) > 1:
        ctx.mark_non_differentiable(*result[1:])


def _keep_given(ctx: Any, op: Op, given: Given, result: Any) -> None:
    activation = calls.activation_of(op, given) if op.fused else None
    _keep(ctx, op, given.names, given.options, given.arrays, activation, result)


def _pulled(ctx: Any, cotangents: Sequence[Any], wanted: Sequence[bool]) -> Sequence[Any]:
    op, rule, names, options, sizes, numbers, activation = ctx.call
    if rule is None:
        calls.rule_for(op, names)  # which raises
    saved = ctx.saved_tensors
    chosen = wanted
    if op.constant:
        chosen = tuple([w and n not in op.constant for w, n in zip(wanted, names, strict=True)])
    shapes = tuple([None if s is None else tuple(s) for s in sizes])
    call = (names, shapes, options, chosen, numbers)
    if not _is_grad_enabled() and not _transforms_active() and not _dispatch_modes():
        # Nothing records the gradient: the rule is given arrays, and what it gives become tensors.
        count = len(cotangents)

        def pull(arrays: Sequence[Any]) -> tuple[Any, ...]:
            return _pulled_arrays(op, rule, activation, call, arrays[:count], arrays[count:])

        views, _ = _simple_views((*cotangents, *saved))
        if views is None:
            return _on_arrays(pull, (*cotangents, *saved))
        return [None if g is None else _from_numpy(g) for g in pull(views)]
    return calls.differentiated(
        _FUNCTIONS,
        op,
        rule,
        _call_of(call, saved),
        (activation, saved[-1]),
        cotangents,
        _opaque_pull,
    )


def _call_of(call: tuple[Any, ...], saved: Sequence[Any]) -> Call:
    """What a rule is told of a call, from what was saved: its arrays, and last its result."""
    names, shapes, options, chosen, numbers = call
    arrays = tuple(saved[:-1])
    if numbers is not None:
        arrays = tuple(n if a is None else a for a, n in zip(arrays, numbers, strict=True))
    return Call(arrays, names, shapes, saved[-1], options, chosen)


def _pulled_arrays(
    op: Op,
    rule: Rule,
    activation: Activation | None,
    call: tuple[Any, ...],
    cotangents: Sequence[Any],
    saved: Sequence[Any],
) -> tuple[Any, ...]:
    """The gradients as arrays."""
    if activation is not None:
        cotangents = (activation.backward(cotangents[0], saved[-1]), *cotangents[1:])
    if op.auxiliary:
        cotangents = (cotangents[0], *(None,) * (len(cotangents) - 1))
    found = rule.pull(nnkernels, _call_of(call, saved), *cotangents)
    return tuple([g if w else None for g, w in zip(found, call[3], strict=True)])


# ---- operators of torch.library -----------------------------------------------------------------

_LIBRARY = torch.library.Library("nnkernels", "FRAGMENT")
# Options that are shapes, and may depend on those of the arrays.
_SHAPES = ("x_shape", "weight_shape", "output_shape", "output_size", "size")


def _shape_options(op: Op) -> tuple[str, ...]:
    return tuple(name for name, _ in op.numbers if name in _SHAPES)


def _has_list(op: Op) -> bool:
    return op.outputs > 1 or bool(op.array_options)


def _schema(op: Op) -> str:
    """``NAME(Tensor x, Tensor? bias, SymInt[]? x_shape, str options) -> Tensor``."""
    needed = 2 if op.is_gradient or len(op.arrays) > 1 else 1
    tensors = [
        f"Tensor{'' if i < needed else '?'} {name}"
        for i, name in enumerate((*op.arrays, *op.array_options))
    ]
    shapes = [f"SymInt[]? {name}" for name in _shape_options(op)]
    result = "Tensor[]" if _has_list(op) else "Tensor"
    return f"{op.name}({', '.join((*tensors, *shapes, 'str options'))}) -> {result}"


def _through_library(op: Op, given: Given) -> Any:
    """A call of the operator."""
    options = dict(given.options)
    shapes = []
    for name in _shape_options(op):
        value = options.get(name)
        is_shape = isinstance(value, (tuple, list, torch.Size))
        shapes.append(list(options.pop(name)) if is_shape else None)
    named = dict(zip(given.names, given.arrays, strict=True))
    like = next(x for x in given.arrays if isinstance(x, Tensor))
    tensors = [named.get(name) for name in (*op.arrays, *op.array_options)]
    tensors = [like.new_full((), x) if type(x) in (int, float) else x for x in tensors]
    operator = getattr(torch.ops.nnkernels, op.name).default
    result = operator(*tensors, *shapes, calls.encode(options))
    if not _has_list(op):
        return result
    missing = calls.missing_results(op, given.names, given.arrays, given.options)
    if missing is not None:
        results = iter(result)
        return tuple(None if is_missing else next(results) for is_missing in missing)
    return tuple(result) if len(result) > 1 else result[0]


def _given(op: Op, arguments: Sequence[Any]) -> Given:
    """What an operator was called with."""
    *values, text = arguments
    names = (*op.arrays, *op.array_options)
    options = calls.decode(text)
    for name, value in zip(_shape_options(op), values[len(names) :], strict=True):
        if value is not None:
            options[name] = tuple(value)
    given = list(zip(names, values[: len(names)], strict=True))
    # None at the end was not given, and one before something that was stays.
    arrays = given[: len(op.arrays)]
    while arrays and arrays[-1][1] is None:
        arrays.pop()
    arrays += [(n, x) for n, x in given[len(op.arrays) :] if x is not None]
    return Given(tuple(x for _, x in arrays), tuple(n for n, _ in arrays), options)


def _as_result(op: Op, result: Any) -> Any:
    if not _has_list(op):
        return result
    results = result if isinstance(result, tuple) else (result,)
    return [r for r in results if r is not None]


def _register(op: Op) -> None:
    _LIBRARY.define(_schema(op), tags=(torch.Tag.pt2_compliant_tag,))
    name = f"nnkernels::{op.name}"

    def run(*arguments: Any) -> Any:
        return _as_result(op, _run(op, _given(op, arguments)))

    def fake(*arguments: Any) -> Any:
        return _as_result(op, _faked(op, _given(op, arguments)))

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        given = _given(op, inputs)
        _keep_given(ctx, op, given, tuple(output) if isinstance(output, list) else output)
        ctx.count = len(inputs)

    def backward(ctx: Any, *cotangents: Any) -> Any:
        if _has_list(op):
            cotangents = tuple(cotangents[0])
        _, _, names, options, *_ = ctx.call
        places = [(*op.arrays, *op.array_options).index(n) for n in names]
        wanted = [bool(ctx.needs_input_grad[place]) for place in places]
        missing = calls.missing_results(op, names, [True] * len(names), options)
        if missing is not None:
            results = iter(cotangents)
            cotangents = tuple(None if m else next(results) for m in missing)
        gradients: list[Any] = [None] * ctx.count
        for place, gradient in zip(places, _pulled(ctx, cotangents, wanted), strict=True):
            gradients[place] = gradient
        return tuple(gradients)

    for device in ("cpu", "cuda"):
        torch.library.impl(name, device, lib=_LIBRARY)(run)
    torch.library.register_fake(name, fake, lib=_LIBRARY)
    torch.library.register_autograd(name, backward, setup_context=setup_context, lib=_LIBRARY)


def _faked(op: Op, given: Given) -> Any:
    """Results of the right shapes, strides and dtypes, with no numbers in them."""
    tensors = given.arrays
    sizes = [n for x in tensors if x is not None for n in (*x.shape, *x.stride())]
    sizes += [n for v in given.options.values() if isinstance(v, tuple) for n in v]
    if any(isinstance(n, torch.SymInt) for n in sizes):
        like = _like(op, given)
        if like is not None:
            return like
    described = [
        None
        if x is None
        else (tuple(map(int, x.shape)), tuple(map(int, x.stride())), _dtype_name(x.dtype))
        for x in tensors
    ]
    options = {
        k: tuple(map(int, v)) if k in _SHAPES and isinstance(v, tuple) else v
        for k, v in given.options.items()
    }
    found = calls.outline(op, Given(tensors, given.names, options), described)
    device = next(x for x in tensors if x is not None).device
    results = tuple(
        None
        if d is None
        else torch.empty_strided(d[0], d[1], dtype=getattr(torch, d[2]), device=device)
        for d in found
    )
    return results if len(results) > 1 else results[0]


def _like(op: Op, given: Given) -> Any:
    """The results for sizes that are not known, where they are those of operands; else None."""
    missing = calls.missing_results(op, given.names, given.arrays, given.options)
    if missing is not None:
        operands = dict(zip(given.names, given.arrays, strict=True))
        return tuple(
            None if is_missing else torch.empty_like(operands[name])
            for name, is_missing in zip(op.arrays[1:], missing, strict=False)
        )
    unary = op.family == "elementwise" and len(op.arrays) - op.is_gradient == 1
    rows = op.name.startswith(("softmax", "log_softmax"))
    norm = op.family == "norm" and len(given.options.get("residual", ())) == 0
    if (unary and "glu" not in op.name) or rows or (norm and op.name != "batch_norm"):
        if "residual" in given.names:
            return torch.empty_like(given.arrays[0]), torch.empty_like(given.arrays[0])
        return torch.empty_like(given.arrays[0])
    if "x_shape" in given.options:
        return given.arrays[0].new_empty(given.options["x_shape"])
    return None


def _dtype_name(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]


# ---- gradients of gradients that are no compositions of ops -------------------------------------

_NAMES = "names of the arrays"  # among the options, beside which no option has such a name


def _opaque_pull(op: Op, call: Call, cotangents: Sequence[Any]) -> list[Any]:
    """By an operator of its own, which has no gradient."""
    operator = getattr(torch.ops.nnkernels, f"{op.name}_pullback").default
    tensors = [
        call.arrays[0].new_full((), a) if type(a) in (int, float) else a for a in call.arrays
    ]
    text = calls.encode({**call.options, _NAMES: call.names})
    found = iter(operator(list(cotangents), tensors, text, list(call.wanted)))
    return [next(found) if is_wanted else None for is_wanted in call.wanted]


def _register_pullback(op: Op) -> None:
    rule = op.gradient
    assert rule is not None
    name = f"nnkernels::{op.name}_pullback"
    _LIBRARY.define(
        f"{op.name}_pullback(Tensor?[] cotangents, Tensor?[] arrays, str options, bool[] wanted) "
        "-> Tensor[]",
        tags=(torch.Tag.pt2_compliant_tag,),
    )

    def run(cotangents: Any, arrays: Any, text: str, wanted: Any) -> list[Any]:
        count = len(cotangents)
        options = calls.decode(text)
        names = options.pop(_NAMES)

        def pull(views: Any) -> Any:
            given = tuple(views[count:])
            shapes = tuple(None if a is None else tuple(a.shape) for a in given)
            call = Call(given, names, shapes, None, options, tuple(wanted))
            return tuple(rule.pull(None, call, *views[:count]))

        found = _on_arrays(pull, (*cotangents, *arrays))
        return [
            torch.empty_like(a).copy_(g)
            for a, g, is_wanted in zip(arrays, found, wanted, strict=True)
            if is_wanted
        ]

    def fake(cotangents: Any, arrays: Any, text: str, wanted: Any) -> list[Any]:
        return [torch.empty_like(a) for a, w in zip(arrays, wanted, strict=True) if w]

    def backward(ctx: Any, *_: Any) -> Any:
        raise TypeError(f"{op.forward} has no third derivative")

    for device in ("cpu", "cuda"):
        torch.library.impl(name, device, lib=_LIBRARY)(run)
    torch.library.register_fake(name, fake, lib=_LIBRARY)
    torch.library.register_autograd(name, backward, lib=_LIBRARY)


for _op in registry.all_ops().values():
    if _op.lists:  # made of others, and so no operator
        continue
    _register(_op)
    if _op.gradient is not None and not _op.gradient.composed:
        _register_pullback(_op)
_wrapped = calls.wrapped(_FUNCTIONS, _wrapper)
globals().update(_wrapped)
__all__ = [*_wrapped]
