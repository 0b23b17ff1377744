"""The networks of `examples/vision` in PyTorch, from the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import vision_models

Arrays = dict[str, Any]


def logits(model: str, parameters: Arrays, statistics: Arrays, x: Any) -> Any:
    """What a network gives in training; its statistics change in place."""
    from torch.nn import functional

    p = parameters

    def norm(x: Any, name: str) -> Any:
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


def step(torch: Any, name: str) -> Callable[..., tuple[Any, ...]]:
    """A training step, eager, with the gradients of autograd and torch.optim's formulas."""

    def run(
        images: Any, targets: Any, weights: Any, velocities: Any, *statistics: Any
    ) -> tuple[Any, ...]:
        joined, names = vision_models.layout(name, tuple(images.shape[1:]))
        leaves = {key: x.requires_grad_() for key, x in joined.views(weights.detach()).items()}
        renewed = dict(zip(names, (x.clone() for x in statistics), strict=True))
        found = logits(vision_models.MODELS[name], leaves, renewed, images)
        loss = torch.nn.functional.cross_entropy(found, targets)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        with torch.no_grad():
            moving = torch.cat([x.reshape(-1) for x in gradients])
            moving.add_(weights, alpha=vision_models.DECAY)
            moving.add_(velocities, alpha=vision_models.MOMENTUM)
            new = weights.add(moving, alpha=-vision_models.RATE)
        return loss.detach().reshape(1), new, moving, *renewed.values()

    return run
