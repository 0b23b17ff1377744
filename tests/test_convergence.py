"""The same network, seed and data learn in PyTorch and here along the same curve."""

import ml_dtypes
import numpy as np
import pytest
import vision
from hypothesis import settings

torch = pytest.importorskip("torch", reason="the other side is PyTorch")

STEPS, BATCH, RATE, MOMENTUM, DECAY = 30, 32, 0.002, 0.9, 5e-4
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.fixture
def module(monkeypatch):
    """A module of the example by name."""
    return vision.importer(monkeypatch)


def batches(steps=STEPS):
    """Images that a few steps can learn: a pattern for each class, and noise.

    As much noise as keeps the loss away from 0, where a relative error says nothing.
    """
    random = np.random.default_rng(5)
    patterns = random.normal(0, 1, (10, 1, 8, 8))
    for _ in range(steps):
        labels = random.integers(0, 10, BATCH)
        images = patterns[labels] + random.normal(0, 1, (BATCH, 1, 8, 8))
        yield images.astype(np.float32), labels


def curve(module, model, dtype, steps=STEPS):
    """The losses of nnkernels' steps, the last weights, and the running statistics."""
    layers, networks, optimizer = map(module, ("layers", "networks", "optimizer"))
    network = networks.MODELS[model]((1, 8, 8), 10)
    masters = network.initial(np.random.default_rng(1))
    descent = optimizer.Descent(masters, DTYPES[dtype], MOMENTUM, DECAY)
    scale = 1024.0 if dtype == "float16" else 1.0
    run = layers.Pass(descent.parameters, network.statistics(), training=True)
    losses = []
    for images, labels in batches(steps):
        one_hot = (labels[:, None] == np.arange(10)).astype(np.float32)
        loss, gradients = networks.loss_and_gradients(
            network, run, images.astype(DTYPES[dtype]), one_hot, scale
        )
        descent.step(gradients, RATE, 1 / scale)
        losses.append(float(loss))
    return losses, descent.masters, run.statistics


def torch_curve(module, model, dtype):
    """The losses of PyTorch's, with float32 weights that are rounded for each step."""
    torch_vision = module("torch_vision")
    networks = module("networks")
    network = networks.MODELS[model]((1, 8, 8), 10)
    initial = network.initial(np.random.default_rng(1))
    masters = {name: torch.tensor(x, requires_grad=True) for name, x in initial.items()}
    statistics = {name: torch.tensor(x) for name, x in network.statistics().items()}
    groups = [
        {"params": [x for x in masters.values() if x.ndim > 1], "weight_decay": DECAY},
        {"params": [x for x in masters.values() if x.ndim == 1], "weight_decay": 0.0},
    ]
    descent = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM)
    kind = getattr(torch, dtype)
    scale = 1024.0 if dtype == "float16" else 1.0
    losses = []
    for images, labels in batches():
        rounded = {n: x if "norm" in n else x.to(kind) for n, x in masters.items()}
        logits = torch_vision.logits(model, rounded, statistics, torch.tensor(images).to(kind))
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(labels))
        descent.zero_grad()
        (scale * loss).backward()
        for x in masters.values():
            x.grad /= scale
        descent.step()
        losses.append(float(loss.detach()))
    return losses, masters, statistics


# Profile deep: both networks in all types. Otherwise each network once, as most of the 10 to 16 s
# of a training from cold are its kernels, which are compiled for each type.
WIDE, NARROW = ["lenet"], [("resnet8", "bfloat16")]
if not settings.default.derandomize:
    WIDE.append("resnet8")
    NARROW += [("lenet", "float16"), ("lenet", "bfloat16"), ("resnet8", "float16")]


@pytest.mark.parametrize("model", WIDE)
def test_float32(model, module, cpu):
    cpu.precompiled(lambda: curve(module, model, "float32", steps=1))
    ours, masters, statistics = curve(module, model, "float32")
    theirs, their_masters, their_statistics = torch_curve(module, model, "float32")
    assert min(ours) < 0.6 * ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    for name, x in masters.items():
        np.testing.assert_allclose(x, their_masters[name].detach(), rtol=0.02, atol=2e-3)
    for name, x in statistics.items():
        np.testing.assert_allclose(x, their_statistics[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("model", "dtype"), NARROW)
def test_narrow_types(model, dtype, module, cpu):
    cpu.precompiled(lambda: curve(module, model, dtype, steps=1))
    ours, masters, _ = curve(module, model, dtype)
    theirs = torch_curve(module, model, dtype)[0]
    assert {x.dtype for x in masters.values()} == {np.dtype(np.float32)}
    assert min(ours) < 0.6 * ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=2e-2)
