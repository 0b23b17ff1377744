"""Multilayer perceptrons: from arrays to one launch, or to one for each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnkernels.config.mlp import kept_pitch
from nnkernels.dispatch import machines, matmul_gradients, mlp_plan
from nnkernels.dispatch.axes import memory_order
from nnkernels.dispatch.dtypes import ELEMENTS, require
from nnkernels.dispatch.elementwise import Functor, alignment_of, described, remember
from nnkernels.dispatch.mlp_plan import NOTHING, OPERAND, RESULT, Network
from nnkernels.dispatch.results import Allocation, adopt_out, check_memory, check_out, reach
from nnkernels.errors import DTypeError, ShapeError
from nnkernels.interop.libraries import NUMPY, Library, adopt_all, library_of


@dataclass(frozen=True)
class Activated:
    """An activation as the kernels have it.

    Attributes
    ----------
    forward, backward : str
        C++ functors, of x and of dy with what is kept.
    headers : tuple of str
        Where they are.
    parameters, backward_parameters : tuple of numbers
        Their scalars.
    keep : int
        What a gradient needs: the result, the operand, or nothing.
    """

    forward: str
    backward: str
    headers: tuple[str, ...]
    parameters: tuple[complex, ...]
    backward_parameters: tuple[complex, ...]
    keep: int


NO_ACTIVATION = Activated("Identity", "IdentityBackward", (), (), (), NOTHING)


def activated(
    forward: tuple[Functor, tuple[complex, ...]],
    backward: tuple[Functor, tuple[complex, ...]],
    takes_result: bool,
) -> Activated:
    """An activation from the functors of its public functions, with their scalars."""
    return Activated(
        forward[0].name,
        backward[0].name,
        tuple(dict.fromkeys((forward[0].header, backward[0].header))),
        forward[1],
        backward[1],
        RESULT if takes_result else OPERAND,
    )


@dataclass
class Call:
    """Arguments that have been checked.

    Attributes
    ----------
    x : array
        Of rows; a vector is one of them.
    weights, biases : list
        Of each layer; a bias may be None.
    widths : tuple of int
        Inputs of the network, and outputs of each layer.
    library, like
        What results are restored to.
    """

    x: Any
    weights: list[Any]
    biases: list[Any]
    widths: tuple[int, ...]
    is_vector: bool
    library: Library
    like: Any
    machine: Any = field(init=False)
    address: Any = field(init=False)

    def __post_init__(self) -> None:
        self.machine, self.address = machines.for_array(self.x)

    @property
    def batch(self) -> tuple[int, ...]:
        """Axes of rows."""
        return tuple(self.x.shape[:-1])

    def restored(self, rows: Any) -> Any:
        """Rows as an array of the caller's library and rank."""
        return self.library.restore(rows[0] if self.is_vector else rows, self.like)


# ---- arguments ----------------------------------------------------------------------------------


def checked(x: Any, weights: Any, biases: Any) -> Call:
    """The arguments of a call.

    Raises
    ------
    TypeError
        If weights or biases are no sequences.
    ShapeError
        If the layers do not go together, with the shapes.
    DTypeError
        If arrays are none, or not all of one real floating dtype.
    """
    weights, given = of_layers(weights, biases)
    arrays = [x, *weights, *(b for b in given if b is not None)]
    views, library, like = arrays, NUMPY, x
    names: list[str] = []
    if not all(type(a) is np.ndarray for a in arrays):
        names = _names(given)
        for array, name in zip(arrays, names, strict=True):
            library_of(array, name)  # not even a Python number
        views, library, like = adopt_all(arrays, names)
    dtype = views[0].dtype
    require(dtype, "f", "x")
    for i, view in enumerate(views):
        if view.dtype != dtype:
            name = _names(given)[i]
            require(view.dtype, "f", name)
            raise DTypeError(
                f"{name} has dtype {view.dtype} and x {dtype}; all arrays of a network must have "
                "one dtype"
            )
    rows, matrices = views[0], views[1 : len(weights) + 1]
    left = iter(views[len(weights) + 1 :])
    vectors = [None if b is None else next(left) for b in given]
    widths = _widths(rows, matrices, vectors)
    is_vector = rows.ndim == 1
    call = Call(
        rows[None, :] if is_vector else rows, matrices, vectors, widths, is_vector, library, like
    )
    if call.machine.device.is_gpu:
        machines.require_aligned(call.machine, views, names or _names(given))
    return call


def _names(biases: Sequence[Any]) -> list[str]:
    """What the arrays of a call are called: x, all weights, and those biases that there are."""
    names = ["x", *(f"weights[{i}]" for i in range(len(biases)))]
    return names + [f"biases[{i}]" for i, b in enumerate(biases) if b is not None]


def _sequence(value: Any, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            f"{name} must be a list or tuple with an array for each layer; got "
            f"{type(value).__name__}"
        )
    return list(value)


def _widths(x: Any, weights: Sequence[Any], biases: Sequence[Any]) -> tuple[int, ...]:
    if x.ndim == 0:
        raise ShapeError("x has shape (); it must have at least one axis, (..., inputs)")
    widths, last = [x.shape[-1]], f"of the last axis of x, of shape {x.shape}"
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.ndim != 2:
            raise ShapeError(f"weights[{i}] has shape {weight.shape}; it must be (outputs, inputs)")
        outputs, inputs = weight.shape
        if inputs != widths[-1]:
            raise ShapeError(
                f"weights[{i}] has shape {weight.shape}, so that it takes {inputs} inputs, which "
                f"are not the {widths[-1]} {last}"
            )
        if bias is not None and bias.shape != (outputs,):
            raise ShapeError(
                f"biases[{i}] has shape {bias.shape} and weights[{i}] {weight.shape}; the bias "
                f"must have the shape ({outputs},)"
            )
        widths.append(outputs)
        last = f"outputs of weights[{i}], of shape {weight.shape}"
    return tuple(widths)


def of_layers(weights: Any, biases: Any) -> tuple[list[Any], list[Any]]:
    """The weight and the bias, or None, of each layer.

    Raises
    ------
    TypeError, ShapeError
        If they are no sequences, empty, or not as many.
    """
    weights = _sequence(weights, "weights")
    if not weights:
        raise ShapeError("weights is empty; a network has at least one layer")
    given = [None] * len(weights) if biases is None else _sequence(biases, "biases")
    if len(given) != len(weights):
        raise ShapeError(
            f"there are {len(weights)} weights and {len(given)} biases; each layer has one, which "
            "may be None"
        )
    return weights, given


# ---- forward ------------------------------------------------------------------------------------


def forward(call: Call, hidden: Activated, output: Activated, out: Any) -> Any:
    """The result of a network in one kernel."""
    y = None
    if out is not None:
        y = _checked_out(call, out)
    rows, _ = _run_forward(call, hidden, output, (NOTHING, NOTHING), y)
    return out if out is not None else call.restored(rows)


def forward_kept(call: Call, hidden: Activated, output: Activated) -> tuple[Any, list[Any]]:
    """The same, with what the gradient needs of each layer (None for nothing)."""
    rows, kept = _run_forward(call, hidden, output, _keeps(call, hidden, output), None)
    return call.restored(rows), kept


def _keeps(call: Call, hidden: Activated, output: Activated) -> tuple[int, int]:
    """What is kept of hidden layers, whose results are factors of gradients, and of the last."""
    return hidden.keep or RESULT, output.keep


def _checked_out(call: Call, out: Any) -> Any:
    view = adopt_out(out, "out", call.library, call.like)
    shape = (*call.batch, call.widths[-1])
    check_out(view, "out", shape[1:] if call.is_vector else shape, call.x.dtype)
    machines.require_aligned(call.machine, (view,), ("out",))
    view = view[None, :] if call.is_vector else view
    inputs, names = [call.x], ["x"]
    for name, arrays in (("weights", call.weights), ("biases", call.biases)):
        for i, array in enumerate(arrays):
            if array is not None:
                inputs.append(array)
                names.append(f"{name}[{i}]")
    arrays = [view, *inputs]
    check_memory(
        view, "out", inputs, names, 0, [call.address(a) for a in arrays], [*map(reach, arrays)]
    )
    return view


def _run_forward(
    call: Call, hidden: Activated, output: Activated, keep: tuple[int, int], y: Any
) -> tuple[Any, list[Any]]:
    shape = (*call.batch, call.widths[-1])
    if y is None:
        y = call.machine.empty(shape, call.x.dtype)
    kept = [
        _rows_of(call, width) if wanted != NOTHING else None
        for width, wanted in zip(call.widths[1:], _of_layers(call, keep), strict=True)
    ]
    arrays = [call.weights, call.biases, kept]
    _launch(call, (call.x, y), arrays, mlp_plan.forward_plan, hidden, output, keep)
    return y, kept


def _of_layers(call: Call, keep: tuple[int, int]) -> list[int]:
    return [keep[0]] * (len(call.weights) - 1) + [keep[1]]


def _rows_of(call: Call, width: int) -> Any:
    """A new array (rows, width) whose rows begin at multiples of 16 bytes."""
    itemsize = call.x.dtype.itemsize
    pitch = kept_pitch(width, itemsize) // itemsize
    return call.machine.empty((_count(call.batch), pitch), call.x.dtype)[:, :width]


def _count(batch: tuple[int, ...]) -> int:
    return int(np.prod(batch, dtype=np.int64))


def _launch(
    call: Call,
    pair: tuple[Any, Any],
    arrays: Sequence[Sequence[Any]],
    make: Callable[[Network, Any], mlp_plan.Plan],
    hidden: Activated,
    output: Activated,
    keep: tuple[int, int],
) -> None:
    """Launch on two arrays of rows, and some for each layer."""
    network, pointers = described([*pair, *call.weights, *call.biases], call.address)
    alignments = (alignment_of(pointers[0]), alignment_of(pointers[1]))
    if call.machine.device.machine == "cpu":  # there, kernels do not depend on it
        alignments = (1, 1)
    key = (make, network, hidden, output, keep, alignments)
    plans = call.machine.plans
    plan = plans.get(key)
    if plan is None:
        plan = make(
            Network(
                call.widths,
                ELEMENTS[call.x.dtype.name],
                call.batch,
                (pair[0].strides, pair[1].strides),
                alignments,
                call.weights,
                call.biases,
                hidden,
                output,
                keep,
            ),
            call.machine,
        )
        remember(plans, key, plan)
    if plan.start is not None:
        address = call.address
        plan.launch(
            pointers[:2], [[0 if a is None else address(a) for a in layers] for layers in arrays]
        )


# ---- backward -----------------------------------------------------------------------------------


def backward(
    call: Call,
    hidden: Activated,
    output: Activated,
    kept: Sequence[Any],
    dy: Any,
    wanted: Sequence[bool],
) -> tuple[Any, list[Any] | None, list[Any] | None]:
    """Gradients of x, of the weights and of the biases, from what the forward kernel kept.

    The products and sums over the rows are made where these are wanted, dx in any case.
    """
    (cotangent,), _, _ = adopt_all([dy], ["dy"])
    cotangent = cotangent[None, :] if call.is_vector else cotangent
    keep = _keeps(call, hidden, output)
    order = memory_order(call.x.shape, call.x.strides)
    dx = Allocation(call.x.shape, call.x.dtype, order).make(call.machine)
    dz = [_rows_of(call, width) for width in call.widths[1:]]
    # Results of the hidden layers, which are made again where their operands were kept.
    again = keep[0] == OPERAND
    results = [_rows_of(call, width) if again else None for width in call.widths[1:-1]]
    arrays = [call.weights, kept, [*results, None], dz]
    _launch(call, (cotangent, dx), arrays, mlp_plan.backward_plan, hidden, output, keep)
    inputs = [call.x, *(results if again else kept[:-1])]
    dweights = dbiases = None
    if wanted[1]:
        dweights = [
            call.library.restore(matmul_gradients.of_weight(z, h, w), call.like)
            for z, h, w in zip(dz, inputs, call.weights, strict=True)
        ]
    if wanted[2]:
        dbiases = [
            None if b is None else call.library.restore(matmul_gradients.of_bias(z, b), call.like)
            for z, b in zip(dz, call.biases, strict=True)
        ]
    return call.restored(dx), dweights, dbiases


def check_cotangent(call: Call, dy: Any) -> None:
    """Check a cotangent that a caller gives.

    Raises
    ------
    DTypeError, ShapeError
        If it is not of the dtype and the shape of the result.
    """
    library_of(dy, "dy")  # not even a Python number
    (view,), _, like = adopt_all([dy], ["dy"])
    shape = (*call.batch, call.widths[-1])
    shape = shape[1:] if call.is_vector else shape
    if view.shape != shape:
        raise ShapeError(f"dy has shape {view.shape}; the result of the network has shape {shape}")
    if view.dtype != call.x.dtype:
        raise DTypeError(f"dy has dtype {view.dtype}; the result has dtype {call.x.dtype}")
    adopt_all([like, call.like], ["dy", "x"])  # of one library and device
    machines.require_aligned(call.machine, (view,), ("dy",))
