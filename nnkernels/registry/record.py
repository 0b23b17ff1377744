"""The record that says everything about an op which tests, docs, selftest and bench need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnkernels.registry.rule import Chain, Given, Rule

FLOATING = ("float16", "bfloat16", "float32", "float64")
COMPLEX = ("complex64", "complex128")
INTEGERS = (
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip

Shape = tuple[int, ...]
Special = Callable[[Any, tuple[Shape, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Example:
    """Array shapes and options of one call."""

    shapes: tuple[Shape, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes
    ----------
    name, family : str
        As in the public interface.
    function, reference : callable
        The public function, and its specification in NumPy.
    arrays : tuple of str
        Names of the array arguments, in order.
    dtypes : tuple of str
        Element types of the first array argument that are supported.
    examples : tuple of Example
        Shapes and options for ``selftest``, the bench and smoke tests.
    gradient : Rule, optional
        How cotangents are pulled back: the one place that ties a gradient to an op.
    chain : Chain, optional
        The same for an op with ``lists``.
    flops : callable, optional
        ``flops(shapes, options)``: operations of one call. Default: one for each element of
        the first array.
    traffic : callable, optional
        ``traffic(arrays, results)``: bytes that a call must move. Default: every argument
        read and every result written once.
    outputs : int
        Number of results; the most there are where options decide.
    number : tuple, optional
        Name and place of an option that stands among the positional arguments, as the groups of a
        group norm; or a tuple of such pairs, by their places.
    special : dict
        For an array whose numbers are not arbitrary, as indices, by name: a function of a random
        generator, the shapes of all arrays and the options, which gives it.
    scaled : dict
        For an array whose random numbers are best of another size than 1, by name: a function of
        its shape, which gives their standard deviation.
    positive : tuple of str
        Those arrays that must not be negative.
    adjoint : str or tuple of str
        The op or ops that are the gradients, where none is called NAME_backward: one for each
        operand, as those of `conv`, or one of each other's, as `fold`.
    gradient_of : str
        For a gradient that is not called NAME_backward, the op whose gradient it is.
    roundings : int
        How often numbers may be rounded to the dtype on the way to a result.
    lists : dict
        Arguments that are lists of arrays: name of the argument, and of the arrays, which follow
        each other. Results are lists in the same way.
    fused : str
        The option that names an activation which the op applies to its result, if the gradient
        does not know of it: the cotangent is first pulled back through that activation.
    functions : {"", "sums", "rows"}
        Whether the op takes fused functions inside: as ``epilogue`` of its sums, with ``operands``,
        or as ``prologue`` and ``epilogue`` of what it reads and writes, each with operands.
    array_options : tuple of str
        Options that are arrays.
    constant : tuple of str
        Array arguments that have no gradient, as indices.
    auxiliary : str
        What the results after the first are, if they are not differentiated.
    """

    name: str
    family: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    arrays: tuple[str, ...]
    dtypes: tuple[str, ...]
    examples: tuple[Example, ...]
    gradient: Rule | None = None
    flops: Callable[[tuple[Shape, ...], dict[str, Any]], float] | None = None
    traffic: Callable[[tuple[Any, ...], tuple[Any, ...]], int] | None = None
    outputs: int = 1
    number: tuple[str, int] | tuple[tuple[str, int], ...] | None = None
    special: Mapping[str, Special] = field(default_factory=dict)
    scaled: Mapping[str, Callable[[Shape], float]] = field(default_factory=dict)
    positive: tuple[str, ...] = ()
    adjoint: str | tuple[str, ...] = ""
    gradient_of: str = ""
    roundings: int = 0
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    chain: Chain | None = None
    fused: str = ""
    functions: str = ""
    array_options: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    auxiliary: str = ""

    def arguments(
        self, arrays: Sequence[Any], options: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of a call.

        >>> from nnkernels.registry import find
        >>> find("group_norm").arguments(["x", "weight"], {"num_groups": 4, "eps": 0.1})
        (['x', 4, 'weight'], {'eps': 0.1})
        """
        positional, left = self._grouped(arrays), dict(options)
        for name, place in self.numbers:
            if name in left:  # one with a default may be left out
                positional.insert(place, left.pop(name))
        return positional, left

    def _grouped(self, arrays: Sequence[Any]) -> list[Any]:
        """The arguments that arrays are, or are parts of."""
        if not self.lists:
            return list(arrays)
        owners = {name: owner for owner, names in self.lists.items() for name in names}
        found: dict[str, Any] = {}
        for place, array in enumerate(arrays):
            owner = owners.get(self.arrays[place])
            if owner is None:
                found[str(place)] = array
            else:
                found.setdefault(owner, []).append(array)
        return list(found.values())

    def sorted_arguments(self, positional: Sequence[Any], options: dict[str, Any]) -> Given:
        """The arguments of a call, arrays apart from all others.

        >>> from nnkernels.registry import find
        >>> given = find("group_norm").sorted_arguments(["x", 4, "weight"], {"eps": 0.1})
        >>> given.arrays, given.names, given.options
        (('x', 'weight'), ('x', 'weight'), {'eps': 0.1, 'num_groups': 4})
        """
        if not self.number and not self.array_options:
            return Given(tuple(positional), self.arrays[: len(positional)], dict(options))
        arrays, others = list(positional), dict(options)
        for name, place in reversed(self.numbers):
            if name not in others and place < len(arrays):
                others[name] = arrays.pop(place)
        names = self.arrays[: len(arrays)]
        for name in self.array_options:
            if others.get(name) is not None:
                arrays.append(others.pop(name))
                names = (*names, name)
        return Given(tuple(arrays), names, others)

    def call(self, function: Callable[..., Any], given: Given) -> Any:
        """A function that has the arguments of the op, of arguments that were sorted."""
        if not self.number and not self.array_options:
            return function(*given.arrays, **given.options)
        count = sum(name in self.arrays for name in given.names)
        named = dict(zip(given.names[count:], given.arrays[count:], strict=True))
        positional, options = self.arguments(given.arrays[:count], given.options)
        return function(*positional, **options, **named)

    @property
    def numbers(self) -> tuple[tuple[str, int], ...]:
        """Names and places of the options among the positional arguments."""
        given: Any = self.number or ()
        return (given,) if given and isinstance(given[0], str) else given

    @property
    def forward(self) -> str:
        """The name of the op whose gradient this is, or its own.

        >>> from nnkernels.registry import find
        >>> find("conv_backward_data").forward, find("relu_backward").forward, find("relu").forward
        ('conv', 'relu', 'relu')
        """
        return self.gradient_of or self.name.removesuffix("_backward")

    @property
    def is_differentiable(self) -> bool:
        """Whether it has a gradient."""
        return self.gradient is not None or self.chain is not None

    @property
    def is_gradient(self) -> bool:
        """Whether this is a gradient of another op."""
        return self.forward != self.name

    @property
    def gradients(self) -> tuple[str, ...]:
        """The names of the ops that are its gradients; of a gradient none."""
        if self.is_gradient:
            return ()
        named = self.adjoint or f"{self.name}_backward"
        return (named,) if isinstance(named, str) else named


def flat(value: Any) -> tuple[Any, ...]:
    """Results or gradients in a row, those in lists too.

    >>> flat((1, [2, None], 3)), flat(4)
    ((1, 2, None, 3), (4,))
    """
    if isinstance(value, (tuple, list)):
        return tuple(leaf for part in value for leaf in flat(part))
    return (value,)
