"""The example's modules, and its networks in PyTorch."""

from __future__ import annotations

import importlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "vision"


def importer(monkeypatch):
    """A function that imports a module of the example."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def torch_logits(model, parameters, statistics, x):
    """What a network of the example gives in training, by PyTorch's functions.

    Written from the papers' tables and not from the example, whose layers are under test.
    """
    from torch.nn import functional

    p = parameters

    def norm(x, name):
        return functional.batch_norm(
            x,
            statistics[f"{name}.mean"],
            statistics[f"{name}.variance"],
            p[f"{name}.weight"],
            p[f"{name}.bias"],
            training=True,
        )

    if model == "lenet":
        for name in ("conv1", "conv2"):
            x = functional.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=2)
            x = functional.max_pool2d(functional.relu(x), 2)
        x = functional.relu(functional.linear(x.flatten(1), p["dense1.weight"], p["dense1.bias"]))
        return functional.linear(x, p["dense2.weight"], p["dense2.bias"])
    x = functional.relu(norm(functional.conv2d(x, p["conv1.weight"], padding=1), "norm1"))
    for block, stride in (("block1", 1), ("block2", 2), ("block3", 2)):
        y = functional.conv2d(x, p[f"{block}.conv1.weight"], stride=stride, padding=1)
        y = functional.relu(norm(y, f"{block}.norm1"))
        y = norm(functional.conv2d(y, p[f"{block}.conv2.weight"], padding=1), f"{block}.norm2")
        if stride == 2:
            x = functional.conv2d(x, p[f"{block}.shortcut.weight"], stride=2)
            x = norm(x, f"{block}.norm3")
        x = functional.relu(y + x)
    return functional.linear(x.mean((2, 3)), p["dense.weight"], p["dense.bias"])
