"""Train a two-layer perceptron on scikit-learn's handwritten digits, with nnkernels alone.

    python examples/digits.py
    python examples/digits.py --backend numpy --epochs 40 --hidden 256 --lr 0.02

The training step is four operations and their pullbacks; the arrays are CuPy arrays where
there is a GPU and NumPy arrays elsewhere, and nothing else differs between the two.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import nnkernels as nnk

try:
    from sklearn.datasets import load_digits
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f'This example needs {error.name}: pip install "nnkernels[demo]"')

Array = Any  # a NumPy or a CuPy array

TEST_SHARE = 0.2


class Digits(NamedTuple):
    """Images as rows of 64 pixels and a one, with their labels."""

    train: Array
    train_labels: Array
    test: Array
    test_labels: Array


# ---- the model -------------------------------------------------------------------------


def forward(images: Array, weights: list[Array]) -> Array:
    """Return the log-probability of each class for each image."""
    hidden = nnk.relu(nnk.matmul(images, weights[0]))
    return nnk.log_softmax(nnk.matmul(hidden, weights[1]))


def gradients(images: Array, cotangent: Array, weights: list[Array]) -> list[Array]:
    """Return the gradient of each weight, given that of the log-probabilities.

    A pullback takes the gradient of a result to the gradients of its arguments.
    """
    scores, matmul_1_pullback = nnk.vjp(nnk.matmul, images, weights[0], wrt=1)
    hidden, relu_pullback = nnk.vjp(nnk.relu, scores)
    logits, matmul_2_pullback = nnk.vjp(nnk.matmul, hidden, weights[1])
    _, log_softmax_pullback = nnk.vjp(nnk.log_softmax, logits)

    (d_logits,) = log_softmax_pullback(cotangent)
    d_hidden, d_weights_2 = matmul_2_pullback(d_logits)
    (d_scores,) = relu_pullback(d_hidden)
    _, d_weights_1 = matmul_1_pullback(d_scores)
    return [d_weights_1, d_weights_2]


def initial_weights(xp: ModuleType, sizes: list[int], seed: int) -> list[Array]:
    """Return one matrix for each layer, scaled for ReLU (He et al., arXiv 1502.01852)."""
    random = np.random.default_rng(seed)
    return [
        xp.asarray(random.normal(0.0, math.sqrt(2.0 / n), (n, m)).astype(np.float32))
        for n, m in itertools.pairwise(sizes)
    ]


class Adam:
    """The update of Kingma & Ba (arXiv 1412.6980), in place: the only plain array arithmetic."""

    def __init__(self, weights: list[Array], rate: float) -> None:
        self.weights = weights
        self.rate = rate
        self.steps = 0
        self.means = [0.0 * w for w in weights]
        self.squares = [0.0 * w for w in weights]

    def update(self, gradients: list[Array]) -> None:
        self.steps += 1
        mean_scale = 1.0 / (1.0 - 0.9**self.steps)
        square_scale = 1.0 / (1.0 - 0.999**self.steps)
        for w, g, mean, square in zip(
            self.weights, gradients, self.means, self.squares, strict=True
        ):
            mean += 0.1 * (g - mean)
            square += 0.001 * (g * g - square)
            w -= self.rate * mean_scale * mean / ((square_scale * square) ** 0.5 + 1e-8)


# ---- data ------------------------------------------------------------------------------


def load_data(xp: ModuleType, seed: int) -> Digits:
    """Return the 1797 digits, shuffled and split; the column of ones is the first bias."""
    pixels, labels = load_digits(return_X_y=True)
    images = np.concatenate([pixels / 16.0, np.ones((len(pixels), 1))], axis=1)
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order].astype(np.float32), labels[order]
    n = round(len(images) * TEST_SHARE)
    return Digits(*map(xp.asarray, (images[n:], labels[n:], images[:n], labels[:n])))


def loss_cotangents(xp: ModuleType, labels: Array, batch: int) -> Array:
    """Return d(loss)/d(log-probability) of each image: the loss is their mean, negated."""
    one_hot = labels[:, None] == xp.arange(10)
    return one_hot.astype(xp.float32) / -batch


def evaluate(
    xp: ModuleType, images: Array, labels: Array, weights: list[Array]
) -> tuple[float, float]:
    """Return the loss (mean cross-entropy) and the accuracy."""
    log_probabilities = forward(images, weights)
    loss = -log_probabilities[xp.arange(len(labels)), labels].mean()
    accuracy = (log_probabilities.argmax(axis=1) == labels).mean()
    return float(loss), float(accuracy)


# ---- training --------------------------------------------------------------------------


def train(xp: ModuleType, data: Digits, weights: list[Array], options: argparse.Namespace) -> float:
    """Train in place, reporting each epoch; return the accuracy on the test images."""
    # A last batch that is not full is left out: its images come in another epoch.
    batches = len(data.train) // options.batch
    cotangents = loss_cotangents(xp, data.train_labels, options.batch)
    optimizer = Adam(weights, options.lr)
    random = np.random.default_rng(options.seed)
    accuracy = 0.0
    with tqdm(total=options.epochs * batches, unit="step", desc="training") as progress:
        for epoch in range(1, options.epochs + 1):
            order = xp.asarray(random.permutation(len(data.train))[: batches * options.batch])
            for chosen in order.reshape(batches, options.batch):
                optimizer.update(gradients(data.train[chosen], cotangents[chosen], weights))
                progress.update()
            loss, _ = evaluate(xp, data.train, data.train_labels, weights)
            _, accuracy = evaluate(xp, data.test, data.test_labels, weights)
            if not math.isfinite(loss):
                progress.close()
                sys.exit(f"The loss is {loss} after epoch {epoch}: try a smaller --lr.")
            progress.write(
                f"epoch {epoch:3d}   training loss {loss:7.4f}   test accuracy {accuracy:7.2%}",
                file=sys.stdout,
            )
    return accuracy


def compile_kernels(xp: ModuleType, data: Digits, weights: list[Array], batch: int) -> None:
    """Call every kernel once: the first call of each compiles it, or loads it from the cache."""
    start = time.perf_counter()
    print("compiling the kernels ... ", end="", flush=True)
    cotangents = loss_cotangents(xp, data.train_labels[:batch], batch)
    gradients(data.train[:batch], cotangents, weights)
    evaluate(xp, data.test, data.test_labels, weights)
    print(f"{time.perf_counter() - start:.1f} s")


# ---- command line ----------------------------------------------------------------------


def array_library(backend: str) -> tuple[ModuleType, str]:
    """Return the array library to use, and a name for people."""
    if backend != "numpy":
        try:
            import cupy

            device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
            return cupy, f"CuPy arrays on {device}"
        # ImportError without CuPy; with it, whatever its libraries or the driver raise.
        except Exception as error:
            if backend == "cupy":
                sys.exit(f"--backend cupy: no GPU can be used ({type(error).__name__}: {error})")
    return np, "NumPy arrays"


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return argparse's reader of a whole number from `low` to `high`."""

    def read(text: str) -> int:
        # Twelve digits are beyond every limit here; int() of many more is an error.
        plain = text.isascii() and text.isdigit() and len(text) <= 12
        if not plain or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {low} to {high}")
        return int(text)

    return read


def positive_number(text: str) -> float:
    """Return the number in `text`, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the checked options."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=whole_number(1, 10_000), default=20, help="passes over the images")
    add("--batch", type=whole_number(1, 10_000), default=64, help="images in one step")
    add("--hidden", type=whole_number(1, 65_536), default=128, help="hidden units")
    add("--lr", type=positive_number, default=0.003, help="learning rate")
    add("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of weights and order")
    add(
        "--backend",
        choices=["auto", "numpy", "cupy"],
        default="auto",
        help="kind of arrays; auto is cupy where there is a GPU",
    )
    return parser.parse_args(arguments)


def main() -> None:
    """Train and report."""
    options = parse_options()
    xp, name = array_library(options.backend)
    data = load_data(xp, options.seed)
    if options.batch > len(data.train):
        sys.exit(f"--batch {options.batch}: there are only {len(data.train)} training images")
    pixels = data.train.shape[1]
    weights = initial_weights(xp, [pixels, options.hidden, 10], options.seed)

    print(f"{len(data.train)} training and {len(data.test)} test images, {name}")
    compile_kernels(xp, data, weights, options.batch)
    start = time.perf_counter()
    accuracy = train(xp, data, weights, options)
    seconds = time.perf_counter() - start
    print(f"test accuracy {accuracy:.2%} after {options.epochs} epochs, {seconds:.1f} s")


if __name__ == "__main__":
    main()
