"""The functors of nnkernels that a fused function may apply: what they are called, and their
gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _same(*numbers: float) -> tuple[float, ...]:
    return numbers


def _kinks(alpha: float, beta: float) -> tuple[float, ...]:
    """The numbers of HardSigmoidBackward: see ``ops.activations_backward``."""
    if not alpha:
        return alpha, -float("inf"), float("inf")
    return alpha, *sorted((-beta / alpha, (1.0 - beta) / alpha))


@dataclass(frozen=True)
class Activation:
    """What belongs to a functor.

    Attributes
    ----------
    reference : str
        The function of ``nnkernels.reference.elementwise``.
    options : tuple of str
        Its options that are the numbers of the functor, in order.
    fixed : dict
        Its other options.
    backward : str
        The functor of the gradient, of the cotangent and what ``residual`` says.
    takes_result : bool
        Whether the gradient is made from the result, not the operands.
    numbers : callable
        From the numbers of the functor to those of its gradient.
    """

    reference: str
    options: tuple[str, ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()
    backward: str = ""
    takes_result: bool = False
    numbers: Callable[..., tuple[float, ...]] = _same


ACTIVATIONS: dict[str, Activation] = {
    "Relu": Activation("relu", takes_result=True),
    "Relu6": Activation("relu6", takes_result=True),
    "LeakyRelu": Activation("leaky_relu", ("negative_slope",)),
    "Prelu": Activation("prelu"),
    "ThresholdRelu": Activation("threshold_relu", ("theta",)),
    "Elu": Activation("elu", ("alpha",)),
    "Celu": Activation("celu", ("alpha",)),
    "Selu": Activation("selu"),
    "Sigmoid": Activation("sigmoid", takes_result=True),
    "LogSigmoid": Activation("log_sigmoid"),
    "HardSigmoid": Activation("hard_sigmoid", ("alpha", "beta"), numbers=_kinks),
    "Softplus": Activation("softplus", ("beta",)),
    "Tanh": Activation("tanh", takes_result=True),
    "HardTanh": Activation("hard_tanh", ("min", "max")),
    "TanhShrink": Activation("tanh_shrink"),
    "Lisht": Activation("lisht"),
    "LogCosh": Activation("log_cosh"),
    "Softsign": Activation("softsign"),
    "Silu": Activation("silu", ("beta",)),
    "Gelu": Activation("gelu"),
    "GeluTanh": Activation("gelu", fixed=(("approximate", "tanh"),)),
    "Mish": Activation("mish"),
    "HardSwish": Activation("hard_swish"),
    "SoftShrink": Activation("soft_shrink", ("lambd",), backward="ShrinkBackward"),
    "HardShrink": Activation("hard_shrink", ("lambd",), backward="ShrinkBackward"),
    "Swiglu": Activation("swiglu"),
    "Geglu": Activation("geglu"),
}

# The functors of gradients, by name: of which activation.
GRADIENTS = {found.backward or f"{name}Backward": name for name, found in ACTIVATIONS.items()}
