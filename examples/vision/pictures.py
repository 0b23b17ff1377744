"""Images with labels: scikit-learn's digits, or files of MNIST or CIFAR-10; and augmentation."""

from __future__ import annotations

import gzip
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import nnkernels as nnk

Array = Any  # a NumPy or a CuPy array

_MNIST = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_CIFAR = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}


@dataclass
class Pictures:
    """Images (N, C, H, W) in float32 with mean 0 and variance 1, and their classes.

    Attributes
    ----------
    name : str
        Of the collection.
    train, train_labels, test, test_labels : array
        The part to learn from, and the part that is held out.
    classes : tuple of str
        Their names.
    mirrored : bool
        Whether the mirror image of a picture is one of its class.
    """

    name: str
    train: Array
    train_labels: Array
    test: Array
    test_labels: Array
    classes: tuple[str, ...]
    mirrored: bool = False

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width


def load(xp: ModuleType, source: str) -> Pictures:
    """Read a collection: ``digits``, or a folder with the files of MNIST or of CIFAR-10."""
    if source == "digits":
        parts = _digits()
    else:
        folder = Path(source)
        if _found(folder, _MNIST["train"][0]):
            parts = _mnist(folder)
        elif _found(folder, _CIFAR["train"][0]):
            parts = _cifar(folder)
        else:
            sys.exit(
                f"--data {source}: neither {_MNIST['train'][0]}(.gz) nor {_CIFAR['train'][0]} is "
                "there; give a folder with the files of MNIST or the binary version of CIFAR-10"
            )
    # The numbers of the training part, so that nothing of the other part is known before.
    mean = parts.train.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = parts.train.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    for name in ("train", "test"):
        images = (getattr(parts, name) - mean) / deviation
        setattr(parts, name, xp.asarray(images.astype(np.float32)))
    parts.train_labels = xp.asarray(parts.train_labels)
    parts.test_labels = xp.asarray(parts.test_labels)
    return parts


def _digits() -> Pictures:
    """1797 images of 8 x 8; a fifth of each class is held out, whatever the seed."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        sys.exit(f'--data digits needs {error.name}: pip install "nnkernels[demo]"')
    found = load_digits()
    images, labels = found.images[:, None] / 16.0, found.target
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.2, random_state=0, stratify=labels
    )
    names = tuple(str(i) for i in range(10))
    return Pictures("digits", train, train_labels, test, test_labels, names)


def _found(folder: Path, name: str) -> Path | None:
    """A file, packed or not."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _bytes(folder: Path, name: str) -> bytes:
    path = _found(folder, name)
    if path is None:
        sys.exit(f"--data {folder}: {name} is missing")
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        sys.exit(f"{path} cannot be read: {error}")


def _mnist(folder: Path) -> Pictures:
    """Files of the form IDX: http://yann.lecun.com/exdb/mnist."""
    arrays = [_idx(folder, name) for part in ("train", "test") for name in _MNIST[part]]
    train, train_labels, test, test_labels = arrays
    names = tuple(str(i) for i in range(10))
    return Pictures(
        "mnist",
        train[:, None] / np.float32(255),
        train_labels.astype(np.int64),
        test[:, None] / np.float32(255),
        test_labels.astype(np.int64),
        names,
    )


def _idx(folder: Path, name: str) -> np.ndarray:
    data = _bytes(folder, name)
    # Two zeros, 8 for bytes, the number of axes; then the length of each axis, big-endian.
    axes = data[3] if len(data) >= 4 else 0
    start = 4 + 4 * axes
    if data[:3] != b"\0\0\x08" or len(data) < start:
        sys.exit(f"{folder / name} is no IDX file of bytes")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", axes, 4))
    if len(data) - start != math.prod(shape):
        sys.exit(f"{folder / name} is cut short: it holds {len(data) - start} bytes for {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _cifar(folder: Path) -> Pictures:
    """The binary version: of each image a byte with its class, and three planes of 32 x 32."""
    found = []
    for part in ("train", "test"):
        data = b"".join(_bytes(folder, name) for name in _CIFAR[part])
        if len(data) % 3073:
            sys.exit(f"--data {folder}: the files are no multiple of 3073 bytes")
        rows = np.frombuffer(data, np.uint8).reshape(-1, 3073)
        images = rows[:, 1:].reshape(-1, 3, 32, 32) / np.float32(255)
        found += [images, rows[:, 0].astype(np.int64)]
    names = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    train, train_labels, test, test_labels = found
    return Pictures("cifar10", train, train_labels, test, test_labels, names, mirrored=True)


# ---- augmentation --------------------------------------------------------------------------


class Augmentation:
    """Small random changes of images, that keep their classes.

    Parameters
    ----------
    kind : {"none", "shift", "affine"}
        Shifts by up to an eighth of the size (and mirror images, where they are of the class);
        or also rotations by up to 10 degrees and scales of 0.9 to 1.1.
    xp : module
        Of the images.
    image : tuple of int
        Channels, height and width.
    mirrored : bool
        Whether images may be mirrored.
    """

    KINDS = ("none", "shift", "affine")

    def __init__(
        self, kind: str, xp: ModuleType, image: tuple[int, int, int], mirrored: bool
    ) -> None:
        self.kind, self.xp, self.mirrored = kind, xp, mirrored
        _, height, width = image
        # Where the pixels' centres lie in coordinates of -1 to 1 over the image.
        y = (2 * np.arange(height) + 1) / height - 1
        x = (2 * np.arange(width) + 1) / width - 1
        places = np.stack([*np.broadcast_arrays(x[None], y[:, None]), np.ones((height, width))], -1)
        self.places = xp.asarray(places.reshape(-1, 3).astype(np.float32))
        self.size = height, width

    def __call__(self, images: Array, random: np.random.Generator) -> Array:
        """Return changed images of the same shape."""
        if self.kind == "none":
            return images
        maps = self.xp.asarray(self._maps(len(images), random))
        grid = nnk.matmul(self.places, maps).reshape(len(images), *self.size, 2)
        return nnk.grid_sample(
            images, grid, mode="linear", padding_mode="border", align_corners=False
        )

    def _maps(self, count: int, random: np.random.Generator) -> np.ndarray:
        """For each image the matrix (3, 2) from places of the new image to those of the old."""
        height, width = self.size
        maps = np.zeros((count, 3, 2), np.float32)
        angle = np.zeros(count)
        scale = np.ones(count)
        if self.kind == "affine":
            angle = np.radians(random.uniform(-10, 10, count))
            scale = random.uniform(0.9, 1.1, count)
        maps[:, 0, 0] = maps[:, 1, 1] = np.cos(angle) / scale
        maps[:, 0, 1] = np.sin(angle) / scale
        maps[:, 1, 0] = -maps[:, 0, 1]
        for axis, size in enumerate((width, height)):
            most = size // 8
            pixels = random.integers(-most, most + 1, count)
            maps[:, 2, axis] = 2 * pixels / size
        if self.mirrored:
            maps[:, :2, 0] *= random.choice((-1, 1), (count, 1))
        return maps
