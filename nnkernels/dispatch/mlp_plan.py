"""Plans of multilayer perceptrons in one kernel: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

from nnkernels.compile.instance import Instance
from nnkernels.config import mlp as config
from nnkernels.config.mlp import MlpConfig, MlpProblem
from nnkernels.dispatch.axes import Strides, merge, span
from nnkernels.dispatch.dtypes import Element
from nnkernels.dispatch.packing import Packer, pointer_struct

if TYPE_CHECKING:
    from nnkernels.dispatch.mlp import Activated

# What of a layer is kept for the gradient: as in cuda_src/nnk/mlp.cuh.
NOTHING, RESULT, OPERAND = range(3)


@dataclass
class Plan:
    """A launch, or none if there is nothing to compute.

    Attributes
    ----------
    capacity : int
        Pointers of each array of the arguments.
    arrays : int
        How many such arrays there are.
    """

    capacity: int
    arrays: int
    start: Any = None
    tail: bytes = b""
    _pack: Any = field(init=False)

    def __post_init__(self) -> None:
        self._pack = pointer_struct(2 + self.arrays * self.capacity).pack

    def launch(self, pair: Sequence[int], arrays: Sequence[Sequence[int]]) -> None:
        """Run on the addresses of the two arrays of rows, and of those of each layer."""
        pointers = list(pair)
        for addresses in arrays:
            pointers += addresses
            pointers += [0] * (self.capacity - len(addresses))
        self.start(self._pack(*pointers) + self.tail)


@dataclass(frozen=True)
class Network:
    """What a plan has to know of a call.

    Attributes
    ----------
    batch : tuple of int
        Axes of rows.
    pair : tuple of Strides
        Those of x and y, or of dy and dx, columns included.
    weights, biases : sequence
        Arrays; a bias may be None.
    hidden, output : Activated
        Activations of all but the last layer, and of that.
    keep : pair of int
        What is kept for the gradient of hidden layers, and of the last one.
    """

    widths: tuple[int, ...]
    element: Element
    batch: tuple[int, ...]
    pair: tuple[Strides, Strides]
    alignments: tuple[int, int]
    weights: Sequence[Any]
    biases: Sequence[Any]
    hidden: Activated
    output: Activated
    keep: tuple[int, int]

    @property
    def problem(self) -> MlpProblem:
        """What a configuration may know of it."""
        first, second = self.pair
        rows, last = self.batch, len(self.batch)
        reaches = [
            span((*rows, max(self.widths)), (*(abs(s) for s in strides[:last]), abs(strides[-1])))
            for strides in (first, second)
        ]
        reaches += [
            span(w.shape, w.strides) for w in (*self.weights, *self.biases) if w is not None
        ]
        kept = prod(rows) * config.kept_pitch(max(self.widths), self.element.itemsize)
        merged = merge(rows, [first[:-1], second[:-1]])[1]
        return MlpProblem(
            rows=prod(rows),
            widths=self.widths,
            element=self.element.storage,
            itemsize=self.element.itemsize,
            compute_itemsize=self.element.compute_itemsize,
            strides=((*merged[0], first[-1]), (*merged[1], second[-1])),
            alignments=self.alignments,
            reach=max(*reaches, kept),
        )


def forward_plan(network: Network, machine: Any) -> Plan:
    """The plan of the layers."""
    return _plan(network, machine, "MlpForward", 3)


def backward_plan(network: Network, machine: Any) -> Plan:
    """The plan of their gradients, as far as those are rows."""
    return _plan(network, machine, "MlpBackward", 4)


def _plan(network: Network, machine: Any, kernel: str, arrays: int) -> Plan:
    problem = replace(network.problem, kept=_kept(network, kernel))
    chosen = config.configure(problem, machine.device)
    assert chosen is not None
    plan = Plan(chosen.capacity, arrays)
    if problem.rows == 0:
        return plan
    packer = Packer(2 + arrays * chosen.capacity, chosen.index)
    rank = _pack_rows(packer, network)
    _pack_layers(packer, network, chosen)
    scalars = _pack_scalars_of(network, kernel)
    for values in scalars:
        packer.add_scalars(network.element.compute_name, values or (0,))
    work = prod(network.batch) * sum(w.size for w in network.weights)
    instance = _instance(network, chosen, kernel, rank)
    plan.start = machine.prepare(instance, chosen.blocks, chosen.shared_bytes, work)
    plan.tail = packer.finish()
    return plan


def _kept(network: Network, kernel: str) -> int:
    """Bytes of the rows that a kernel writes of layers."""
    hidden, output = network.keep
    size, (*inside, last) = network.element.itemsize, network.widths[1:]
    if kernel == "MlpForward":
        widths = [*inside] * (hidden != NOTHING) + [last] * (output != NOTHING)
    else:  # of dz, and of results that were not kept
        widths = [*inside] * (1 + (hidden == OPERAND)) + [last]
    return prod(network.batch) * sum(config.kept_pitch(n, size) for n in widths)


def _pack_rows(packer: Packer, network: Network) -> int:
    """``MlpPlaces``: how many axes of rows are left of them."""
    first, second = network.pair
    batch, strides = merge(network.batch, [first[:-1], second[:-1]])
    packer.add_index(prod(batch))
    packer.add_divisors(batch)
    for array in strides:
        packer.add_index(*array)
    packer.add_index(first[-1], second[-1])
    return len(batch)


def _pack_layers(packer: Packer, network: Network, chosen: MlpConfig) -> None:
    size = network.element.itemsize
    packer.add("i", len(network.weights))
    for i in range(chosen.capacity):
        packer.align(8 if chosen.index == "q" else 4)
        if i >= len(network.weights):
            packer.add("i", 0, 0)
            packer.add_index(0, 0, 0, 0)
            continue
        weight, bias = network.weights[i], network.biases[i]
        packer.add("i", network.widths[i], network.widths[i + 1])
        packer.add_index(*weight.strides, 0 if bias is None else bias.strides[0])
        packer.add_index(config.kept_pitch(network.widths[i + 1], size))


def _pack_scalars_of(network: Network, kernel: str) -> tuple[tuple[complex, ...], ...]:
    hidden, output = network.hidden, network.output
    if kernel == "MlpForward":
        return hidden.parameters, output.parameters
    return hidden.parameters, hidden.backward_parameters, output.backward_parameters


def _instance(network: Network, chosen: MlpConfig, kernel: str, rank: int) -> Instance:
    hidden, output = network.hidden, network.output
    if kernel == "MlpForward":
        functors, header = [hidden.forward, output.forward], "mlp"
    else:
        functors, header = [hidden.forward, hidden.backward, output.backward], "mlp_backward"
    math, more = _math(network.element.storage, chosen)
    steps = ", ".join(
        f"{'unit_step' if unit else 'any_step'}, {vector}"
        for unit, vector in zip(chosen.units, chosen.vectors, strict=True)
    )
    if kernel == "MlpForward":
        steps += ", true" if chosen.streaming else ", false"
    text = (
        f"{kernel}<{network.element.storage}, {'int32' if chosen.index == 'i' else 'int64'}, "
        f"{rank}, {chosen.capacity}, {math}, {', '.join(functors)}, {steps}, "
        f"{network.keep[0]}, {network.keep[1]}"
    )
    text += ", true>" if kernel == "MlpBackward" and chosen.streaming else ">"
    headers = dict.fromkeys((*hidden.headers, *output.headers, *more))
    return Instance(header, text, chosen.threads, tuple(headers))


def _math(element: str, chosen: MlpConfig) -> tuple[str, tuple[str, ...]]:
    """What multiplies: in C++, and its headers. See ``cuda_src/nnk/mlp_block.cuh``."""
    kept = "true" if chosen.kept else "false"
    tile = f"{chosen.rows}, {chosen.width}"
    if chosen.micro_m:
        return f"MlpSimd<{element}, {tile}, {chosen.micro_m}, {chosen.vector}, {kept}>", ()
    if chosen.atom is None:
        return f"MlpSimt<{element}, {tile}, {chosen.slice}, {chosen.threads}, {kept}>", ()
    warps = f"{chosen.warp_m}, {chosen.warp_n}"
    return (
        f"MlpTensor<{element}, {chosen.atom.name}, {tile}, {chosen.slice}, {warps}, {kept}>",
        (chosen.atom.header, "mlp_tensor"),
    )
