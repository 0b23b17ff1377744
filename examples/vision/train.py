"""Train a convolutional network on images, with nnkernels' ops alone.

    python examples/vision/train.py --model lenet
    python examples/vision/train.py --model resnet8 --epochs 40 --log run.jsonl --plot run.png
    python examples/vision/train.py --model resnet8 --data ~/cifar-10-batches-bin --dtype bfloat16
    python examples/vision/train.py --model lenet --checkpoint run.npz --resume

Arrays are CuPy arrays where there is a GPU and NumPy arrays elsewhere. A run that was stopped and
resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import journal
import numpy as np
from layers import Array, Arrays, Layer, Pass
from networks import MODELS, loss_and_gradients, predictions
from optimizer import Descent, cosine
from pictures import Augmentation, Pictures, load

import nnkernels as nnk

try:
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f'This example needs {error.name}: pip install "nnkernels[demo]"')

# Learning rate and weight decay with which each model was seen to learn.
DEFAULTS = {"lenet": (0.02, 5e-4), "resnet8": (0.1, 5e-4)}
MOMENTUM = 0.9
WARMUP = 2  # epochs in which the learning rate rises
EVALUATED = 500  # images at once
# What must be the same in a run that is resumed.
FIXED = ("model", "data", "batch", "epochs", "lr", "decay", "augment", "smooth", "dtype", "seed")


class Run:
    """A network in training.

    Parameters
    ----------
    xp : module
        NumPy or CuPy.
    pictures : Pictures
        What it learns.
    options : Namespace
        Those of the command line.
    """

    def __init__(self, xp: ModuleType, pictures: Pictures, options: argparse.Namespace) -> None:
        self.xp, self.pictures, self.options = xp, pictures, options
        self.network: Layer = MODELS[options.model](pictures.image, len(pictures.classes))
        first = self.network.initial(np.random.default_rng(options.seed))
        masters = {name: xp.asarray(x) for name, x in first.items()}
        self.statistics = {name: xp.asarray(x) for name, x in self.network.statistics().items()}
        self.dtype = nnk_dtype(options.dtype)
        self.descent = Descent(masters, self.dtype, MOMENTUM, options.decay)
        # Gradients of float16 that are below 6e-8 vanish, and those above 65504 are infinite.
        self.scale = 1024.0 if options.dtype == "float16" else 1.0
        self.augmentation = Augmentation(options.augment, xp, pictures.image, pictures.mirrored)
        self.batches = len(pictures.train) // options.batch
        self.epoch = 0

    def train_epoch(self, progress: Any) -> dict[str, float]:
        """Pass once over the training images; return the mean loss and the accuracy."""
        options, pictures, xp = self.options, self.pictures, self.xp
        # Random numbers of this epoch alone: a resumed run needs no more than its number.
        random = np.random.default_rng([options.seed, self.epoch])
        order = random.permutation(len(pictures.train))[: self.batches * options.batch]
        losses = []
        for i, chosen in enumerate(order.reshape(self.batches, options.batch)):
            chosen = xp.asarray(chosen)
            images = self.augmentation(pictures.train[chosen], random)
            labels = pictures.train_labels[chosen]
            losses.append(self.train_step(images, labels, self.epoch * self.batches + i))
            progress.update()
        self.epoch += 1
        return {"loss": float(sum(losses)) / max(len(losses), 1)}

    def train_step(self, images: Array, labels: Array, number: int) -> Array:
        """Descend by the gradient of one batch; return its loss."""
        options = self.options
        run = Pass(self.descent.parameters, self.statistics, training=True)
        loss, gradients = loss_and_gradients(
            self.network,
            run,
            images.astype(self.dtype, copy=False),
            smoothed(self.xp, labels, len(self.pictures.classes), options.smooth),
            self.scale,
        )
        steps = options.epochs * self.batches
        rate = cosine(options.lr, number, steps, min(WARMUP * self.batches, steps // 4))
        self.descent.step(gradients, rate, 1.0 / self.scale)
        return loss

    def evaluate(self, images: Array, labels: Array) -> tuple[float, float, np.ndarray]:
        """Return mean loss, accuracy, and the class that each image is taken for."""
        losses, classes = [], []
        for start in range(0, len(images), EVALUATED):
            part = slice(start, start + EVALUATED)
            x = images[part].astype(self.dtype, copy=False)
            found = predictions(self.network, self.descent.parameters, self.statistics, x)
            right = found[self.xp.arange(len(x)), labels[part]]
            losses.append(-journal.on_host(right))
            classes.append(journal.on_host(found.argmax(axis=1)))
        taken = np.concatenate(classes)
        accuracy = (taken == journal.on_host(labels)).mean()
        return float(np.concatenate(losses).mean(dtype=np.float64)), float(accuracy), taken

    # ---- checkpoints ---------------------------------------------------------------------

    def save(self, path: Path, history: list[dict[str, Any]]) -> None:
        """Write all that decides how the run goes on."""
        header = {
            "options": {name: getattr(self.options, name) for name in FIXED},
            "epoch": self.epoch,
            "history": history,
        }
        groups = {
            "masters": self.descent.masters,
            "velocities": self.descent.velocities,
            "statistics": self.statistics,
        }
        journal.save(path, header, groups)

    def resume(self, path: Path) -> list[dict[str, Any]]:
        """Take over a checkpoint; return what its epochs reported."""
        header, groups = journal.read(path)
        for name in FIXED:
            then, now = header["options"].get(name), getattr(self.options, name)
            if then != now:
                sys.exit(f"{path} was made with --{name} {then}; this run has --{name} {now}")
        own: dict[str, Arrays] = {
            "masters": self.descent.masters,
            "velocities": self.descent.velocities,
            "statistics": self.statistics,
        }
        for group, arrays in own.items():
            for name, x in arrays.items():
                found = groups.get(group, {}).get(name)
                if found is None or found.shape != x.shape:
                    sys.exit(f"{path} has no {group} of {name} with the shape {x.shape}")
                x[...] = self.xp.asarray(found)
        self.descent.renew()
        self.epoch = header["epoch"]
        return header["history"]


def nnk_dtype(name: str) -> Any:
    """Return a dtype of NumPy, or of ml_dtypes for bfloat16."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def smoothed(xp: ModuleType, labels: Array, classes: int, share: float) -> Array:
    """Return the wanted probability of each class: Szegedy et al., arXiv 1512.00567, section 7."""
    one_hot = (labels[:, None] == xp.arange(classes)).astype(xp.float32)
    return one_hot if share == 0 else (1 - share) * one_hot + xp.float32(share / classes)


# ---- the whole run ---------------------------------------------------------------------------


def train(run: Run, log: journal.Log, history: list[dict[str, Any]]) -> np.ndarray:
    """Train to the last epoch, reporting each; return the classes of the held-out images."""
    options, pictures = run.options, run.pictures
    taken = run.evaluate(pictures.test, pictures.test_labels)[2] if history else np.empty(0)
    remaining = (options.epochs - run.epoch) * run.batches
    with tqdm(total=remaining, unit="step", desc="training") as progress:
        while run.epoch < options.epochs:
            start = time.perf_counter()
            line: dict[str, Any] = {"epoch": run.epoch + 1, **run.train_epoch(progress)}
            line["seconds"] = round(time.perf_counter() - start, 3)
            _, line["accuracy"], _ = run.evaluate(pictures.train, pictures.train_labels)
            line["test_loss"], line["test_accuracy"], taken = run.evaluate(
                pictures.test, pictures.test_labels
            )
            if not (math.isfinite(line["loss"]) and math.isfinite(line["test_loss"])):
                progress.close()
                sys.exit(f"The loss is {line['loss']} in epoch {run.epoch}: try a smaller --lr.")
            history.append(line)
            log.write("epoch", **line)
            if options.checkpoint is not None:
                run.save(options.checkpoint, history)
            progress.write(
                f"epoch {line['epoch']:3d}   loss {line['loss']:7.4f}   held out: loss "
                f"{line['test_loss']:7.4f}, accuracy {line['test_accuracy']:7.2%}",
                file=sys.stdout,
            )
            if run.epoch == options.stop_after:
                break
    return taken


def report(run: Run, taken: np.ndarray, history: list[dict[str, Any]], log: journal.Log) -> None:
    """Write the confusion matrix, and draw what was asked for."""
    options, pictures = run.options, run.pictures
    counts = journal.confusion(journal.on_host(pictures.test_labels), taken, len(pictures.classes))
    print(journal.confusion_text(counts, pictures.classes))
    log.write("confusion", counts=counts.tolist(), classes=list(pictures.classes))
    if options.plot is not None:
        title = f"{options.model}, {pictures.name}, {options.dtype}"
        journal.plot(options.plot, history, counts, title)


# ---- command line ----------------------------------------------------------------------------


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
        plain = text.isascii() and text.isdigit() and len(text) <= 12
        if not plain or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {low} to {high}")
        return int(text)

    return read


def real_number(low: float, high: float) -> Callable[[str], float]:
    """Return argparse's reader of a number from `low` up to, but not, `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value < high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return read


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the checked options."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=sorted(MODELS), default="lenet", help="network to train")
    add("--data", default="digits", help="digits, or a folder with MNIST's or CIFAR-10's files")
    add("--epochs", type=whole_number(1, 10_000), default=40, help="passes over the images")
    add("--batch", type=whole_number(2, 100_000), default=64, help="images in one step")
    add("--lr", type=real_number(1e-12, 1e6), help="largest learning rate (default: the model's)")
    add("--decay", type=real_number(0, 1), help="weight decay (default: the model's)")
    add("--augment", choices=Augmentation.KINDS, default="affine", help="random changes of images")
    add("--smooth", type=real_number(0, 1), default=0.0, help="share of all classes in the target")
    add("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of weights, order and changes")
    add("--dtype", choices=("float32", "float16", "bfloat16"), default="float32",
        help="in which the network computes; the weights are kept in float32")  # fmt: skip
    add("--backend", choices=("auto", "numpy", "cupy"), default="auto",
        help="kind of arrays; auto is cupy where there is a GPU")  # fmt: skip
    add("--threads", type=whole_number(1, 4096), help="of a CPU (default: all)")
    add("--log", type=Path, help="file for a line of JSON for each epoch")
    add("--plot", type=Path, help="file for a picture of losses, accuracies and confusions")
    add("--checkpoint", type=Path, help="file that is renewed after each epoch")
    add("--resume", action="store_true", help="go on from the checkpoint")
    add("--stop-after", type=whole_number(1, 10_000), help="stop after this epoch, to go on later")
    options = parser.parse_args(arguments)
    rate, decay = DEFAULTS[options.model]
    options.lr = rate if options.lr is None else options.lr
    options.decay = decay if options.decay is None else options.decay
    if options.resume and options.checkpoint is None:
        parser.error("--resume needs --checkpoint, the file to go on from")
    return options


def main() -> None:
    """Train and report."""
    options = parse_options()
    xp, name = array_library(options.backend)
    if options.threads is not None:
        nnk.set_num_threads(options.threads)
    pictures = load(xp, options.data)
    if options.batch > len(pictures.train):
        sys.exit(f"--batch {options.batch}: there are only {len(pictures.train)} training images")
    run = Run(xp, pictures, options)
    history = run.resume(options.checkpoint) if options.resume else []
    with journal.Log(options.log, options.resume) as log:
        chosen = {key: str(x) if isinstance(x, Path) else x for key, x in vars(options).items()}
        log.write("options", **chosen, nnkernels=nnk.__version__, device=name)
        count = sum(math.prod(x.shape) for x in run.descent.masters.values())
        print(
            f"{options.model}, {count} parameters; {len(pictures.train)} training and "
            f"{len(pictures.test)} held-out images; {name}"
        )
        start = time.perf_counter()
        taken = train(run, log, history)
        seconds = time.perf_counter() - start
        report(run, taken, history, log)
    print(
        f"held-out accuracy {history[-1]['test_accuracy']:.2%} after {run.epoch} epochs, "
        f"{seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
