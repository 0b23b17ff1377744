"""What fused functions save: two blocks of a transformer, fused and with a kernel for each step.

    python examples/fusion.py
    python examples/fusion.py --tokens 4096 --width 1024 --dtype float16 --plot ""

The feed-forward block is layer norm, a product with bias and GELU, and a product with bias and the
residual. The scores of attention are scaled and masked before their softmax. Both are computed by
kernels of one operation each, and by those into which nnkernels takes the small operations along.
Printed and drawn are times, launched kernels, and bytes that the calls have to read and write. The
arrays are CuPy arrays where there is a GPU and NumPy arrays elsewhere.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import nnkernels as nnk
from nnkernels import own
from nnkernels.launch.counting import counted_launches

Array = Any  # a NumPy or a CuPy array
Call = Callable[..., Array]

# The small operations, a kernel each where nothing takes them along.
add = nnk.fuse(lambda x, y: x + y)
multiply = nnk.fuse(lambda x, factor: x * factor)
select = nnk.fuse(lambda x, mask: np.where(mask, x, -np.inf))
# The same inside other kernels.
plus_residual = nnk.fuse(lambda total, residual: total + residual)
scaled_and_masked = nnk.fuse(lambda x, mask, factor: np.where(mask, x * factor, -np.inf))


# ---- the two blocks, each in two ways ----------------------------------------------------------


class FeedForward(NamedTuple):
    """x (tokens, width) and the parameters of the block."""

    x: Array
    scale: Array
    shift: Array
    weight_1: Array
    bias_1: Array
    weight_2: Array
    bias_2: Array

    def unfused(self, call: Call) -> Array:
        h = call(nnk.layer_norm, self.x, self.scale, self.shift)
        h = call(nnk.matmul, h, self.weight_1.T)
        h = call(add, h, self.bias_1)
        h = call(nnk.gelu, h)
        h = call(nnk.matmul, h, self.weight_2.T)
        h = call(add, h, self.bias_2)
        return call(add, h, self.x)

    def fused(self, call: Call) -> Array:
        h = call(nnk.layer_norm, self.x, self.scale, self.shift)
        h = call(nnk.linear, h, self.weight_1, self.bias_1, epilogue=nnk.gelu)
        return call(
            nnk.linear, h, self.weight_2, self.bias_2, epilogue=plus_residual, operands=(self.x,)
        )

    def expected(self) -> np.ndarray:
        x, scale, shift, w1, b1, w2, b2 = (to_numpy(a).astype(np.float64) for a in self)
        h = x - x.mean(axis=1, keepdims=True)
        h = h / np.sqrt((h * h).mean(axis=1, keepdims=True) + 1e-5) * scale + shift
        h = h @ w1.T + b1
        with nnk.use_backend("reference"):
            h = nnk.gelu(h)
        return h @ w2.T + b2 + x


class Scores(NamedTuple):
    """Scores (batch, heads, queries, keys), and a mask that broadcasts to them."""

    scores: Array
    mask: Array
    factor: float

    def unfused(self, call: Call) -> Array:
        s = call(multiply, self.scores, self.factor)
        s = call(select, s, self.mask)
        return call(nnk.softmax, s)

    def fused(self, call: Call) -> Array:
        return call(
            nnk.softmax,
            self.scores,
            prologue=scaled_and_masked,
            prologue_operands=(self.mask, self.factor),
        )

    def expected(self) -> np.ndarray:
        s = np.where(to_numpy(self.mask), to_numpy(self.scores).astype(np.float64), -np.inf)
        e = np.exp((s - s.max(axis=-1, keepdims=True)) * self.factor)
        return e / e.sum(axis=-1, keepdims=True)


Block = FeedForward | Scores


def make_blocks(xp: Any, options: argparse.Namespace) -> dict[str, Block]:
    """Return both blocks with random numbers in them."""
    random = np.random.default_rng(0)

    def normal(*shape: int, size: float = 1.0) -> Array:
        return xp.asarray((random.standard_normal(shape, np.float32) * size).astype(options.dtype))

    width, hidden = options.width, 4 * options.width
    feed_forward = FeedForward(
        normal(options.tokens, width),
        normal(width), normal(width),
        normal(hidden, width, size=width**-0.5), normal(hidden, size=0.1),
        normal(width, hidden, size=hidden**-0.5), normal(width, size=0.1),
    )  # fmt: skip
    keys = options.keys
    causal = xp.asarray(np.tri(keys, dtype=bool))
    scores = Scores(normal(2, options.heads, keys, keys), causal, 0.125)
    return {"feed-forward block": feed_forward, "attention scores": scores}


# ---- measuring ---------------------------------------------------------------------------------


class Traffic:
    """Calls functions, and adds up the bytes of their operands and results."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, function: Call, *arrays: Any, **options: Any) -> Array:
        result = function(*arrays, **options)
        more = (*options.get("operands", ()), *options.get("prologue_operands", ()))
        self.bytes += sum(a.nbytes for a in (*arrays, *more, result) if hasattr(a, "nbytes"))
        return result


def plainly(function: Call, *arrays: Any, **options: Any) -> Array:
    """Call a function."""
    return function(*arrays, **options)


class Measured(NamedTuple):
    """One way of computing a block."""

    name: str
    way: str
    milliseconds: float
    kernels: list[str]
    bytes: int
    error: float


def measure(xp: Any, name: str, block: Block, repeats: int) -> list[Measured]:
    """Return both ways of a block, timed in turns: the median of some repeats."""
    ways = {"unfused": block.unfused, "fused": block.fused}
    expected = block.expected()
    size = np.abs(expected).max()
    times: dict[str, list[float]] = {way: [] for way in ways}
    for compute in ways.values():
        compute(plainly)  # compiles, or loads
    for _ in range(repeats):
        for way, compute in ways.items():
            times[way].append(seconds(xp, compute))
    found = []
    for way, compute in ways.items():
        traffic = Traffic()
        with counted_launches() as starts:
            result = compute(traffic)
        error = float(np.abs(to_numpy(result).astype(np.float64) - expected).max() / size)
        milliseconds = statistics.median(times[way]) * 1e3
        kernels = [start.kernel for start in starts]
        found.append(Measured(name, way, milliseconds, kernels, traffic.bytes, error))
    return found


def seconds(xp: Any, compute: Callable[[Call], Array]) -> float:
    """Return how long a block takes, everything before it being done."""
    if xp is np:
        start = time.perf_counter()
        compute(plainly)
        return time.perf_counter() - start
    begin, end = xp.cuda.Event(), xp.cuda.Event()
    begin.record()
    compute(plainly)
    end.record()
    end.synchronize()
    return float(xp.cuda.get_elapsed_time(begin, end)) * 1e-3


def to_numpy(x: Array) -> np.ndarray:
    """Return an array on the host."""
    return x if isinstance(x, np.ndarray) else x.get()


# ---- reporting ---------------------------------------------------------------------------------


def print_table(found: list[Measured]) -> None:
    """Print times, kernels and bytes, and what fusion divides them by."""
    print(f"{'':20} {'':8} {'time':>10} {'kernels':>8} {'bytes moved':>12} {'error':>8}")
    for row in found:
        print(
            f"{row.name:20} {row.way:8} {row.milliseconds:7.2f} ms {len(row.kernels):8d} "
            f"{row.bytes / 2**20:8.1f} MiB {row.error:8.0e}"
        )
    for before, after in zip(found[::2], found[1::2], strict=True):
        print(
            f"{before.name}, fused: {before.milliseconds / after.milliseconds:.2f} times as fast, "
            f"{len(before.kernels) / len(after.kernels):.1f} times fewer kernels, "
            f"{before.bytes / after.bytes:.1f} times fewer bytes"
        )


def draw(found: list[Measured], path: str, title: str) -> None:
    """Draw the table as bars: one panel each for time, kernels and bytes."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('no plot: it needs matplotlib (pip install "nnkernels[bench]")')
        return
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    quantities: list[tuple[str, Callable[[Measured], float]]] = [
        ("time in ms", lambda row: row.milliseconds),
        ("kernels launched", lambda row: len(row.kernels)),
        ("MiB moved", lambda row: row.bytes / 2**20),
    ]
    names = list(dict.fromkeys(row.name for row in found))
    for panel, (label, quantity) in zip(panels, quantities, strict=True):
        for offset, way, colour in ((-0.2, "unfused", "#b0b7c3"), (0.2, "fused", "#2f6fde")):
            values = [quantity(row) for row in found if row.way == way]
            places = [i + offset for i in range(len(values))]
            bars = panel.bar(places, values, 0.38, label=way, color=colour)
            panel.bar_label(bars, fmt="{:.3g}", fontsize=8)
        panel.set_xticks(range(len(names)), names, fontsize=8)
        panel.set_title(label, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        sys.exit(f"fusion.py: the plot cannot be written: {error}")
    print(f"plot: {path}")


# ---- command line ------------------------------------------------------------------------------


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the checked options."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_option = parser.add_argument
    for name, default, what in (
        ("tokens", 2048, "rows of the feed-forward block"),
        ("width", 512, "columns of it; four times as many are hidden"),
        ("heads", 8, "of attention, in each of two sequences"),
        ("keys", 1024, "and queries of attention"),
        ("repeats", 15, "of which the median is taken"),
    ):
        add_option(f"--{name}", type=int, default=default, help=what)
    add_option("--dtype", choices=["float16", "float32", "float64"], default="float32", help="type")
    add_option("--plot", default="fusion.png", help="where to draw it; empty for nowhere")
    options = parser.parse_args(arguments)
    for name in ("tokens", "width", "heads", "keys", "repeats"):
        if not 1 <= getattr(options, name) <= 1_000_000:
            parser.error(f"--{name} must be a whole number from 1 to a million")
    return options


def main() -> None:
    """Measure and report."""
    options = parse_options()
    xp = own.array_library()
    found: list[Measured] = []
    for name, block in make_blocks(xp, options).items():
        found += measure(xp, name, block, options.repeats)
    print_table(found)
    where = "a GPU" if xp is not np else "a CPU"
    if options.plot:
        draw(found, options.plot, f"Two blocks of a transformer in {options.dtype} on {where}")
    limit = {"float16": 2e-2, "float32": 1e-5, "float64": 1e-12}[options.dtype]
    if not max(row.error for row in found) <= limit:
        sys.exit(f"fusion.py: an error is larger than {limit:.0e}")


if __name__ == "__main__":
    main()
