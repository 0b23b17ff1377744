"""What a training run leaves: a log of JSON lines, checkpoints, plots, a confusion matrix."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

Array = Any  # a NumPy or a CuPy array
_VERSION = 1  # of checkpoints


def on_host(array: Array) -> np.ndarray:
    """Return a NumPy array of the same numbers."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


# ---- log -----------------------------------------------------------------------------------


class Log:
    """A file with one JSON object a line, written as the run goes; None for no file."""

    def __init__(self, path: Path | None, resumed: bool) -> None:
        self._file: IO[str] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a" if resumed else "w", encoding="utf-8")

    def write(self, kind: str, **values: Any) -> None:
        """Append a line."""
        if self._file is not None:
            self._file.write(json.dumps({"kind": kind, **values}) + "\n")
            self._file.flush()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()


# ---- checkpoints -----------------------------------------------------------------------------


def save(path: Path, header: dict[str, Any], groups: dict[str, dict[str, Array]]) -> None:
    """Write arrays, and what else is known of the run, so that no half-written file ever stands.

    Parameters
    ----------
    path : Path
        It is replaced at once, when all is written.
    header : dict
        Anything of JSON.
    groups : dict
        Arrays by name in groups: float32.
    """
    arrays = {
        f"{group}/{name}": on_host(x)
        for group, found in groups.items()
        for name, x in found.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            text = json.dumps({"version": _VERSION, **header})
            np.savez(file, **{"header": np.array(text), **arrays})  # type: ignore[arg-type]
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Return the header and the groups of a checkpoint."""
    try:
        # Opened here: np.load leaves the file open where it finds no end of the archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            if header["version"] != _VERSION:
                sys.exit(f"{path} is a checkpoint of version {header['version']}, not {_VERSION}")
            groups: dict[str, dict[str, np.ndarray]] = {}
            for name in file.files:
                group, _, rest = name.partition("/")
                if rest:
                    groups.setdefault(group, {})[rest] = file[name]
    except FileNotFoundError:
        sys.exit(f"{path} does not exist")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        sys.exit(f"{path} is no checkpoint, or is cut short: {error}")
    return header, groups


# ---- pictures and tables ---------------------------------------------------------------------


def confusion(labels: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Return how many images of each class (rows) were taken for which (columns)."""
    return np.bincount(labels * classes + found, minlength=classes**2).reshape(classes, classes)


def confusion_text(counts: np.ndarray, classes: tuple[str, ...]) -> str:
    """Return the counts as a table, with the share of each class that was recognised."""
    width = max(len(str(counts.max())), *(len(name) for name in classes)) + 1
    head = " " * width + "".join(f"{name:>{width}}" for name in classes) + "  recall"
    lines = [head]
    for name, row, right in zip(classes, counts, np.diag(counts), strict=True):
        cells = "".join(f"{n or '.':>{width}}" for n in row.tolist())
        lines.append(f"{name:>{width}}{cells}  {right / max(row.sum(), 1):6.1%}")
    return "\n".join(lines)


def plot(path: Path, epochs: list[dict[str, Any]], counts: np.ndarray, title: str) -> None:
    """Draw loss and accuracy over the epochs, and the confusion matrix beside them."""
    try:
        import matplotlib
    except ImportError:
        sys.exit('--plot needs matplotlib: pip install "nnkernels[demo]"')
    matplotlib.use("agg")  # no screen is needed
    from matplotlib import pyplot

    figure, (loss, accuracy, matrix) = pyplot.subplots(1, 3, figsize=(14, 4), layout="constrained")
    at = [line["epoch"] for line in epochs]
    loss.semilogy(at, [line["loss"] for line in epochs], label="training")
    loss.semilogy(at, [line["test_loss"] for line in epochs], label="held out")
    loss.set(xlabel="epoch", ylabel="cross-entropy", title=title)
    loss.legend()
    accuracy.plot(at, [100 * line["accuracy"] for line in epochs], label="training")
    accuracy.plot(at, [100 * line["test_accuracy"] for line in epochs], label="held out")
    accuracy.set(xlabel="epoch", ylabel="accuracy in %", ylim=(80, 100.5))
    accuracy.legend()
    matrix.imshow(np.log1p(counts), cmap="Blues")
    for (row, column), n in np.ndenumerate(counts):
        if n:
            shade = "white" if n > counts.max() / 2 else "black"
            matrix.text(column, row, str(n), ha="center", va="center", color=shade, size=8)
    matrix.set(xlabel="taken for", ylabel="class", title="held-out images")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
