"""The models of `models.py` in PyTorch, eager, with the gradients of autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import models
import torch_vision
import vision_models

Call = Callable[..., Any]
Pair = tuple[Call, Call | None]


def table(torch: Any) -> dict[str, Pair]:
    """A call for each model; none takes ``out=``."""
    functional = torch.nn.functional

    def adam(gradient: Any, weight: Any, mean: Any, square: Any) -> tuple[Any, ...]:
        mean = torch.lerp(mean, gradient, 1 - models.MEAN_DECAY)
        square = (square * models.SQUARE_DECAY).addcmul_(
            gradient, gradient, value=1 - models.SQUARE_DECAY
        )
        root = (models.SQUARE_SCALE * square).sqrt_().add_(models.EPSILON)
        step = models.RATE * models.MEAN_SCALE
        return weight.addcdiv(mean, root, value=-step), mean, square

    def digits_step(images: Any, labels: Any, cotangent: Any, *state: Any) -> tuple[Any, ...]:
        first, second = (w.detach().requires_grad_() for w in (state[0], state[3]))
        logits = functional.relu(images @ first) @ second
        loss = functional.cross_entropy(logits, labels)
        d_first, d_second = torch.autograd.grad(loss, (first, second))
        with torch.no_grad():
            new = (*adam(d_first, *state[:3]), *adam(d_second, *state[3:]))
        return loss.detach().reshape(1), *new

    def block(x: Any, *parameters: Any) -> Any:
        *first, qkv_weight, qkv_bias, out_weight, out_bias = parameters[:6]
        *second, up_weight, up_bias, down_weight, down_bias = parameters[6:]
        batch, tokens, width = x.shape
        normed = functional.layer_norm(x, (width,), *first)
        qkv = functional.linear(normed, qkv_weight, qkv_bias)
        query, key, value = (
            part.view(batch, tokens, -1, models.HEAD).transpose(1, 2)
            for part in qkv.chunk(3, dim=-1)
        )
        scores = (query @ key.transpose(-1, -2)) * models.HEAD**-0.5
        mixed = functional.softmax(scores, -1) @ value
        rows = mixed.transpose(1, 2).reshape(batch, tokens, width)
        h = x + functional.linear(rows, out_weight, out_bias)
        normed = functional.layer_norm(h, (width,), *second)
        hidden = functional.gelu(functional.linear(normed, up_weight, up_bias))
        return h + functional.linear(hidden, down_weight, down_bias)

    def forward(*arrays: Any) -> Any:
        with torch.no_grad():
            return block(*arrays)

    def step(dy: Any, *arrays: Any) -> tuple[Any, ...]:
        leaves = [array.detach().requires_grad_() for array in arrays]
        y = block(*leaves)
        return y.detach(), *torch.autograd.grad(y, leaves, dy)

    return {
        "digits step": (digits_step, None),
        "transformer block": (forward, None),
        "transformer step": (step, None),
        **{name: (torch_vision.step(torch, name), None) for name in vision_models.MODELS},
    }
