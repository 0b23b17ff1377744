"""One template instance: what is generated, and what is compiled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Instance:
    """A kernel template with all its arguments.

    Attributes
    ----------
    header : str
        Algorithm header, without directory and ending: ``"softmax"``.
    kernel : str
        The C++ type, inside namespace ``nnk``: ``"SoftmaxForward<...>"``.
    threads : int
        Threads of a block.
    more_headers : tuple of str
        Further headers of ``nnk/`` that the type needs.
    definitions : tuple of str
        Generated C++ that the type needs, for namespace ``nnk``: functors of fused functions. Each
        text has a name of its own in it, by which two of them are told apart.
    """

    header: str
    kernel: str
    threads: int
    more_headers: tuple[str, ...] = ()
    definitions: tuple[str, ...] = ()
    symbol: str = field(init=False)

    def __post_init__(self) -> None:
        material = " ".join([f"{self.kernel} {self.threads}", *self.definitions])
        digest = hashlib.sha256(material.encode()).hexdigest()[:16]
        object.__setattr__(self, "symbol", f"nnk_{self.header}_{digest}")


def source_text(instances: tuple[Instance, ...], machine: str) -> str:
    """The translation unit for some instances: includes, and one entry line for each."""
    headers: dict[str, None] = {}
    for instance in instances:
        for header in (*instance.more_headers, instance.header):
            headers[header] = None
    lines = [f'#include "platform/{machine}.cuh"']
    lines += [f'#include "nnk/{header}.cuh"' for header in headers]
    lines.append("namespace nnk {")
    lines += dict.fromkeys(text for instance in instances for text in instance.definitions)
    lines += [f"NNK_ENTRY({i.symbol}, {i.threads}, {i.kernel})" for i in instances]
    lines.append("}  // namespace nnk")
    return "\n".join(lines) + "\n"
