"""Batch normalisation with fused functions inside: from arrays to launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from nnkernels.config import elementwise as elementwise_config
from nnkernels.config.elementwise import ElementwiseProblem
from nnkernels.dispatch import batch_norm, batch_norm_plan, elementwise_plan, machines
from nnkernels.dispatch.axes import Strides, broadcast_to, merge
from nnkernels.dispatch.batch_norm_plan import NAMES, Activated
from nnkernels.dispatch.channel_plan import (
    WHOLE,
    ChannelPlan,
    Channels,
    compute_element,
)
from nnkernels.dispatch.dtypes import ELEMENTS, Element, numpy_dtype
from nnkernels.dispatch.elementwise import alignment_of, are_numpy, described, remember
from nnkernels.dispatch.row_functions import Bound, Functions, element_of
from nnkernels.interop.libraries import NUMPY, adopt_all, library_of

# What may end the arguments of a launch: nothing, both functions, the prologue, or the numbers of
# both.
_BOTH, _PROLOGUE, _NUMBERS = 1, 2, 3
# Pointers of a plan without functions: see batch_norm_plan.training.
_POINTERS = 12

_Operand = tuple[int, Element, Strides]


def train(
    arrays: Sequence[Any],
    axis: int,
    eps: float,
    momentum: float,
    activation: Activated,
    functions: Functions,
) -> Any:
    """All results of the epilogue or y, the new running statistics, and the further results of the
    prologue, from x, weight, bias and the running statistics.
    """
    options = (eps, momentum, False)
    return _call(batch_norm_plan.training, arrays, axis, options, activation, functions)


def infer(
    arrays: Sequence[Any], axis: int, eps: float, activation: Activated, functions: Functions
) -> Any:
    """The same in inference, which has no new running statistics."""
    return _call(batch_norm_plan.inference, arrays, axis, (eps, False), activation, functions)


def _call(
    make: Callable[..., ChannelPlan],
    arrays: Sequence[Any],
    axis: int,
    options: tuple[float, ...],
    activation: Activated,
    functions: Functions,
) -> Any:
    library, like = NUMPY, arrays[0]
    if not are_numpy(arrays):
        given = [(a, n) for a, n in zip(arrays, NAMES, strict=True) if a is not None or n == "x"]
        for array, name in given:
            library_of(array, name)  # not even a Python number
        adopted, library, like = adopt_all([a for a, _ in given], [n for _, n in given])
        found = iter(adopted)
        arrays = [None if a is None else next(found) for a in arrays]
    bound = Bound(functions, arrays[0], "x", library, like)
    machine, address = machines.for_array(arrays[0])
    known, addresses = described((*arrays, *bound.views), address)
    alignment = 1 if machine.device.machine == "cpu" else alignment_of(*addresses)
    key = ((_call, make, axis, options, activation, bound.key, alignment), known)
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        batch_norm.check_unaligned(machine, (*arrays, *bound.views), (*NAMES, *bound.names))
        inside = FunctionsInside(bound)
        plan = make(arrays, axis, options, activation, machine, alignment, inside)
        remember(plans, key, plan)
    extras = [a.make(machine) for a in plan.extras]
    more = [a.make(machine) for a in plan.more]
    count = len(NAMES)
    places = addresses[count:], [address(a) for a in extras], [address(a) for a in more]

    def ends(results: Sequence[Any]) -> Sequence[bytes]:
        written = [address(results[0]), *places[2]]
        return (
            b"",
            bound.arguments(*places[:2], written),
            bound.arguments(*places[:2], written, epilogue=False),
            bound.numbers,
        )

    results = batch_norm.launch(
        plan, machine, address, addresses[:count], [p for part in places for p in part], ends
    )
    first, *running = [None if r is None else library.restore(r, like) for r in results]
    others = running if make is batch_norm_plan.training else ()
    restored = [[library.restore(r, like) for r in part] for part in (more, extras)]
    return bound.gathered((first, *restored[0]), others, restored[1])


class FunctionsInside:
    """The functions of a call, for the plan of its kernels."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.found = bound.found
        self.inputs = 1 + len(bound.views)

    def operands(
        self, channels: Channels, x: Any
    ) -> tuple[Element, Element, list[tuple[Element, Strides]]]:
        """The element types of x and y, and all operands of the geometry with their strides."""
        bound = self.bound
        source = element_of(x)
        views = zip(bound.views, bound.names, strict=True)
        found = [
            (source, x.strides),
            *((element_of(v), broadcast_to(v, x.shape, name, "x")) for v, name in views),
            *((e, channels.strides_like(e)) for e in (*bound.extras, *bound.results)),
        ]
        return source, bound.results[0], found

    def add_results(self, plan: ChannelPlan, channels: Channels) -> None:
        """Give a plan the further results of both functions."""
        bound = self.bound
        plan.extras = tuple(channels.like(numpy_dtype(e.name)) for e in bound.extras)
        plan.more = tuple(channels.like(numpy_dtype(e.name)) for e in bound.results[1:])

    def of_stage(self, stage: int) -> tuple[str, tuple[str, ...], tuple[str, ...], int]:
        """What goes into a launch of the reduction: see ``channel_plan.ChannelFunctions``."""
        bound, whole = self.bound, stage == WHOLE
        if not whole and bound.prologue is None:
            return "", (), (), 0
        extras = self.inputs
        text = bound.template(1, extras, extras + len(bound.extras), epilogue=whole)
        headers, definitions = bound.source()
        return f", {text}", headers, definitions, _BOTH if whole else _PROLOGUE

    def add_apply(
        self,
        plan: ChannelPlan,
        channels: Channels,
        x: Any,
        mean: tuple[int, Element, int],
        machine: Any,
        activation: Activated,
        alignment: int,
        writes: bool,
    ) -> None:
        """Add the launch that makes y of x, the means (number, type and stride) and two rows.

        `writes`: the further results of the prologue too, which nothing has written yet.
        """
        bound, wide = self.bound, compute_element(self.found)
        _, _, found = self.operands(channels, x)
        n = len(bound.views)
        views = [(_POINTERS + i, *found[1 + i]) for i in range(n)]
        extras = [
            (_POINTERS + n + i, *found[1 + n + i])
            for i in range(len(bound.extras) if writes else 0)
        ]
        first = 1 + n + len(bound.extras)
        results = [
            (_POINTERS + first - 2 + i if i else 5, *found[first + i])
            for i in range(len(bound.results))
        ]
        along = channels.along(wide.itemsize)
        inputs = [
            (0, *found[0]),
            (mean[0], mean[1], channels.along(mean[2])),
            (9, wide, along),
            (10, wide, along),
            *views,
        ]
        scalars: tuple[complex, ...] = (0.0,)
        headers: tuple[str, ...] = ()
        name = "Identity"
        if activation is not None:
            name, scalars = activation[0].name, activation[1] or scalars
            headers = (activation[0].header,)
        self._add_elementwise(
            plan, channels, machine, [*extras, *results], inputs,
            self._functor(name, writes), scalars, alignment, headers,
        )  # fmt: skip

    def _functor(self, activation: str, writes: bool) -> str:
        bound = self.bound
        sides = []
        for function, word in ((bound.prologue, True), (bound.epilogue, False)):
            name, operands, results = "NoFunctor", 0, 1
            if function is not None:
                name, operands = function.functor.name, len(function.arrays)
                results = len(function.results)
            written = f", {'true' if writes else 'false'}" if word else ""
            sides.append(f"{name}, {operands}, {results}{written}")
        return f"BatchNormFused<{self.found.compute}, {activation}, {', '.join(sides)}>"

    def _add_elementwise(
        self,
        plan: ChannelPlan,
        channels: Channels,
        machine: Any,
        results: Sequence[_Operand],
        inputs: Sequence[_Operand],
        functor: str,
        scalars: Sequence[complex],
        alignment: int,
        headers: tuple[str, ...],
    ) -> None:
        operands = [*results, *inputs]
        order = channels.order
        strides = [tuple(s[a] for a in order) for _, _, s in operands]
        shape, merged = merge(tuple(channels.shape[a] for a in order), strides)
        problem = ElementwiseProblem(
            shape=shape,
            strides=tuple(merged),
            itemsizes=tuple(e.itemsize for _, e, _ in operands),
            compute_itemsize=self._widest(),
            results=len(results),
            alignment=alignment,
        )
        chosen = elementwise_config.configure(problem, machine.device)
        sources, definitions = self.bound.source()
        instance = elementwise_plan.instance_of(
            functor,
            "OwnTypes",
            [e.storage for _, e, _ in results],
            [e.storage for _, e, _ in inputs],
            len(shape),
            chosen,
            (*headers, *sources, "batch_norm_fused"),
            definitions,
        )
        packer, blocks = elementwise_plan.pack_geometry(problem, chosen)
        packer.align(8)
        packer.add_scalars(self.found.compute_name, scalars)
        tail = packer.finish()
        traffic = prod(shape) * sum(
            e.itemsize for (_, e, _), s in zip(operands, merged, strict=True) if any(s)
        )
        numbers = tuple(number for number, _, _ in operands)
        plan.add(machine.prepare(instance, blocks, 0, traffic), numbers, tail, _NUMBERS)

    def _widest(self) -> int:
        """Bytes of the widest type in which anything is computed."""
        given = [f.program for f in (self.bound.prologue, self.bound.epilogue) if f is not None]
        dtypes = {node.dtype for program in given for node in program.nodes} - {"bool"}
        sizes = [ELEMENTS[d].compute_itemsize for d in dtypes]
        return max((self.found.compute_itemsize, *sizes))
